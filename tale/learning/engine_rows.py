"""The history as it is learned from: in order, with nobody's word weighing too much. Pure."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tale.learning.features import Request
from tale.predictions import PastAttempt

PRIORS: Final = "priors"  # folder of attempts that come with tale, beside the labelled messages
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


def has_length(row: PastAttempt) -> bool:
    """Whether the row tells how long its answer was."""
    return row.output_tokens is not None and row.output_tokens >= 0


def request_of(row: PastAttempt) -> Request:
    """The row as a request to the model that answered it."""
    return Request(row.text, row.model)


def outcome_of(row: PastAttempt) -> tuple[float | None, float | None]:
    """The outcomes (small model, task model) of a row; None for the one that was not asked, or is not known."""
    success = None if row.succeeded is None else float(row.succeeded)
    return (success, None) if row.role == "ux" else (None, success)


def read_priors(folder: Path) -> list[PastAttempt]:
    """The attempts of all files of a folder, which need not be there, older than any history.

    Raises OSError, ValueError and TypeError.
    """
    lines = (line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines())
    told: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    return [replace(PastAttempt(**each), ended_at=float(number)) for number, each in enumerate(told)]
