"""The history as it is learned from: in order, with nobody's word weighing too much. Pure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from tale.learning.features import Request
from tale.learning.prompts import known_as
from tale.predictions import PastAttempt, is_whole

LABELS_OF_ONE_KEY: Final = 0.25  # of the labels of all others that count, beside which they are a fifth of both
FREE_LABELS: Final = 10  # of each key, however few labels there are in all

Brought = Counter[str | None]  # labels, by the key that brought them


def prepared(rows: Sequence[PastAttempt]) -> list[PastAttempt]:
    """The rows by time, without the success of those that would mislead. Lengths are counted by engines, and stay.

    Besides what is beyond the share of its key, that is what is tried again: it is one of the hard tasks, and by rule
    the task model's, the last time with the default instructions. Both would seem worse than they are.
    """
    ordered = sorted(rows, key=lambda row: row.ended_at)
    return bounded([_without_label(row) if row.is_retry else row for row in ordered])


def bounded(rows: Sequence[PastAttempt], *, group: Callable[[PastAttempt], str] = lambda row: "") -> list[PastAttempt]:
    """Rows in order, in each group of which no key has more labels than its share of all that are left; the latest.

    Whoever hands a task in chooses its check and rates its answer. Rows without a key are of whoever runs tale, and
    where all labels are of one key, there is nobody else whom they could mislead: they stay.
    """
    brought: defaultdict[str, Brought] = defaultdict(Counter)
    for row in rows:
        if row.succeeded is not None:
            brought[group(row)][row.key_name] += 1
    if len({key for labels in brought.values() for key in labels}) == 1:
        return list(rows)
    left = {name: _shares(labels) for name, labels in brought.items()}
    kept: list[PastAttempt] = []
    for row in reversed(rows):
        if row.succeeded is not None:
            left[group(row)][row.key_name] -= 1
            if left[group(row)][row.key_name] < 0:
                row = _without_label(row)
        kept.append(row)
    return kept[::-1]


def _shares(brought: Brought) -> Brought:
    """How many labels of each key count; each round takes some away, and with them from what the others may have."""
    counted = brought
    while True:
        most = {key: int(LABELS_OF_ONE_KEY * (counted.total() - count)) for key, count in counted.items()}
        fewer = {
            key: count if key is None else min(count, max(FREE_LABELS, most[key])) for key, count in counted.items()
        }
        if fewer == counted:
            return counted
        counted = Counter(fewer)


def _without_label(row: PastAttempt) -> PastAttempt:
    return replace(row, succeeded=None, rated=False)


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
