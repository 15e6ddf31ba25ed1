"""The requests of data/workload as values, read from their files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

KINDS: Final = ("chat", "simple", "code", "repeat")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, and how one tells whether the answer is right; `of` names the request that it nearly repeats."""

    id: str
    kind: str
    text: str
    check: Mapping[str, Any]
    language: str = "en"
    of: str | None = None

    @property
    def text_hash(self) -> str:
        """Changes when the text does."""
        return short_hash(self.text)


def short_hash(text: str) -> str:
    """16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_requests(path: Path) -> list[Request]:
    """The requests of a file, in its order."""
    return [Request(**line) for line in read_lines(path)]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line; none where there is no file."""
    # Not splitlines: an answer may hold one of the other characters at which that breaks.
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line] if path.exists() else []


def shuffled(requests: list[Request]) -> list[Request]:
    """In an order that has nothing to do with the file's, and that later requests do not change."""
    return sorted(requests, key=lambda request: short_hash(request.id))
