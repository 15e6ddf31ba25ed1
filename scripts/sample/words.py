"""What is said to the service while the sample history is made: lines of data/intents and data/workload."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from workload.requests import Request, read_lines, read_requests

MOST_CHARACTERS: Final = 220
VOICES: Final = ("polite_office", "casual_typos", "terse_developer", "analyst_writer", "queue_operator", "near_misses")
NAMES_A_FILE: Final = re.compile(r"\w\.[a-z]{2,5}\b")  # which is not there to be looked at


@dataclass(frozen=True)
class Words:
    """Messages by what they ask for, and requests whose answers can be checked."""

    chat: Sequence[str]
    task: Sequence[str]
    status: Sequence[str]
    questions: Sequence[Request]
    requests: Sequence[Request]

    def request(self, number: int) -> Request:
        """One after the other in an order that has nothing to do with the file's, so that none comes twice early."""
        return self.requests[number % len(self.requests)]


def read_words(data: Path) -> Words:
    """The words of the folder data/.

    Tasks are those of savings.jsonl: what is learned before there is a history comes from priors.jsonl, and predictions
    of the very same texts would look better than they are.
    """
    lines = [line for voice in VOICES for line in read_lines(data / f"intents/{voice}.jsonl")]
    lines = [line for line in lines if line["language"] == "en" and 0 < len(line["text"].strip()) <= MOST_CHARACTERS]
    said = {
        label: [line["text"] for line in lines if line["label"] == label and not NAMES_A_FILE.search(line["text"])]
        for label in ("chat", "task", "status")
    }
    requests = read_requests(data / "workload/savings.jsonl")
    random.Random(0).shuffle(requests)
    questions = [each for each in read_requests(data / "workload/priors.jsonl") if each.kind == "chat"]
    return Words(said["chat"], said["task"], said["status"], questions, requests)


def expectation_of(request: Request) -> dict[str, Any] | None:
    """The check of a request as a task states it; None where it has no such form."""
    find = EXPECTATIONS.get(request.check["kind"])
    return find(request.check) if find and not request.check.get("unless") else None


def _any_of(check: Mapping[str, Any]) -> dict[str, Any]:
    return {"regex": f"(?i){'|'.join(map(re.escape, check['values']))}"}


def _number(check: Mapping[str, Any]) -> dict[str, Any] | None:
    value = re.escape(f"{check['value']:g}")
    return None if check.get("tolerance") else {"regex": rf"(?<![\d.]){value}(?!\d)"}


EXPECTATIONS: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]]] = {
    "contains_any": _any_of,
    "number": _number,
    "regex": lambda check: {"regex": check["pattern"]},
    "json_schema": lambda check: {"json_schema": check["schema"]},
    "python_tests": lambda check: {"python": True},
}
