"""The history as it is learned from: in order, with nobody's word weighing too much. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tale.learning.features import Request
from tale.learning.prompts import known_as
from tale.predictions import PastAttempt, is_whole

LABELS_OF_ONE_KEY: Final = 0.2  # share of all labels that the tasks of one key may bring
FREE_LABELS: Final = 10  # of each key, however few labels there are in all


def prepared(rows: Sequence[PastAttempt]) -> list[PastAttempt]:
    """The rows by time, without the success of those by which one key would outweigh the others.

    Whoever hands a task in chooses its check and rates its answer; so a key's oldest labels go first. Tasks without a
    key are of the machine's own user. Lengths are counted by engines, and stay.
    """
    ordered = sorted(rows, key=lambda row: row.ended_at)
    labelled = sum(row.succeeded is not None for row in ordered)
    most = max(FREE_LABELS, int(LABELS_OF_ONE_KEY * labelled))
    used: Counter[str] = Counter()
    kept: list[PastAttempt] = []
    for row in reversed(ordered):
        if row.succeeded is not None and row.key_name is not None:
            used[row.key_name] += 1
            if used[row.key_name] > most:
                row = replace(row, succeeded=None, rated=False)
        kept.append(row)
    return kept[::-1]


def is_counted(row: PastAttempt) -> bool:
    """Whether the row tells how many tokens were written."""
    return row.output_tokens is not None and row.output_tokens >= 0


def has_length(row: PastAttempt) -> bool:
    """Whether the row tells how long its answer was: of one that was cut it is known only that it would be longer."""
    return is_counted(row) and is_whole(row.output_tokens or 0, row.finish_reason)


def request_of(row: PastAttempt) -> Request:
    """The row as a request to the model that answered it, with the instructions that it was given."""
    return Request(row.text, known_as(row.model, row.variant))


def outcome_of(row: PastAttempt) -> tuple[float | None, float | None]:
    """The outcomes (small model, task model) of a row; None for the one that was not asked, or is not known."""
    success = None if row.succeeded is None else float(row.succeeded)
    return (success, None) if row.role == "ux" else (None, success)
