"""Finds out which tasks a message speaks of: "the second one", "#3", "the essay", "it", "all of them"; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tale.conversation.phrases import has, plain
from tale.records import Task

ORDINALS: Final = ("first_one", "second_one", "third_one", "fourth_one", "fifth_one")
NUMBERED: Final = re.compile(
    r"(?:#|\b(?:task|tasks|number|no|nr|nummer|num|aufgabe|tâche|tarea|numero|número|tarefa|zadanie|задач\w*|görev|job)\s*\.?\s*#?)"
    r"\s*(\d{1,4})\b"
)
BARE_NUMBER: Final = re.compile(r"\b(\d{1,3})\b")
ID: Final = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8}\b"
)
SHORTEST_WORD: Final = 4  # letters of a word by which a task may be named
COMMON: Final = frozenset(
    {
        "task",
        "please",
        "cancel",
        "stop",
        "with",
        "from",
        "that",
        "this",
        "about",
        "which",
        "what",
        "where",
        "when",
        "have",
    }
    | {
        "make",
        "write",
        "create",
        "could",
        "would",
        "your",
        "mine",
        "there",
        "them",
        "they",
        "status",
        "check",
        "result",
    }
    | {"again", "into", "aufgabe", "bitte"}
)


@dataclass(frozen=True, slots=True)
class Reference:
    """The tasks that are meant. `how` says how they were found; "none" where the message names none."""

    tasks: tuple[Task, ...]
    how: str  # id, number, all, order, topic, pronoun, none


def tasks_meant(text: str, tasks: Sequence[Task], *, first_number: int = 1) -> Reference:
    """The tasks that a message speaks of; `tasks` are oldest first, numbered from `first_number`.

    Only what is named: a message without any such word gives an empty reference.
    """
    lower, words = text.lower(), plain(text)
    if named := [task for task in tasks if any(task.id.startswith(found) for found in ID.findall(lower))]:
        return Reference(tuple(named), "id")
    if numbers := [int(number) for number in NUMBERED.findall(lower)]:
        return Reference(_numbered(numbers, tasks, first_number), "number")
    if has("all", words):
        return Reference(tuple(tasks), "all")
    if topic := _by_topic(words, tasks):
        return Reference(topic, "topic")
    if has("oldest", words):
        return Reference(tuple(tasks[:1]), "order")
    if numbers := [place for place, ordinal in enumerate(ORDINALS, 1) if has(ordinal, words)]:
        return Reference(_numbered(numbers, tasks, first_number), "order")
    if has("latest", words):
        return Reference(tuple(tasks[-1:]), "order")
    if numbers := [int(number) for number in BARE_NUMBER.findall(words)]:
        return Reference(_numbered(numbers, tasks, first_number), "number")
    return Reference(tuple(tasks[-1:]), "pronoun") if has("back", words) and tasks else Reference((), "none")


def points_back(text: str) -> bool:
    """Whether a message leans on what was said before: "make it shorter", "the same for men".

    >>> points_back("Translate that into German."), points_back("Write a poem about rain.")
    (True, False)
    """
    return has("back", text)


def shares_words(text: str, other: str, *, least: int = 2) -> bool:
    """Whether two texts have that many words of substance in common."""
    return len(_substance(plain(text)) & _substance(plain(other))) >= least


def _numbered(numbers: Sequence[int], tasks: Sequence[Task], first_number: int) -> tuple[Task, ...]:
    places = [number - first_number for number in numbers]
    return tuple(tasks[place] for place in places if 0 <= place < len(tasks))


def _by_topic(words: str, tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The one task that shares most words with the message, unless two share as many."""
    said = _substance(words)
    scored = [(len(said & _substance(plain(task.text))), task) for task in tasks]
    best = max((score for score, _ in scored), default=0)
    found = [task for score, task in scored if score == best]
    return tuple(found) if best and len(found) == 1 else ()


def _substance(words: str) -> set[str]:
    """Words long enough to name something, without plural endings."""
    return {word.removesuffix("s") for word in words.split() if len(word) >= SHORTEST_WORD and word not in COMMON}
