"""Attempts that come with tale, from which it learns before it has a history of its own."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tale.predictions import PastAttempt

PRIORS: Final = "priors"  # their folder, beside the labelled messages


def read_priors(folder: Path) -> list[PastAttempt]:
    """The attempts of all files of a folder, which need not be there, older than any history.

    Those at one request follow each other, and requests come by chance: what is kept out to judge by is then like the
    rest. Raises OSError, ValueError and TypeError.
    """
    lines = (line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines())
    told: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    attempts = sorted((PastAttempt(**each) for each in told), key=lambda row: _by_chance(row.task_id))
    return [replace(row, ended_at=float(number)) for number, row in enumerate(attempts)]


def _by_chance(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
