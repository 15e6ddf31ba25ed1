"""Finds out which tasks a message speaks of: "the second one", "#3", "the essay", "it", "all of them"; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from tale.conversation.phrases import alternatives, has, plain
from tale.records import Task

ORDINALS: Final = ("first_one", "second_one", "third_one", "fourth_one", "fifth_one")
NAMED: Final = ("id", "number", "order", "topic", "all but")  # ways in which particular tasks are meant
PLACES: Final = (*ORDINALS, "oldest", "latest")
NUMBERED: Final = re.compile(
    r"(?:#|\b(?:task|tasks|number|no|nr|nummer|num|aufgabe|tâche|tarea|numero|número|tarefa|zadanie|задач\w*|görev|job)\s*\.?\s*#?)"
    r"\s*(\d{1,4})\b"
)
BARE_NUMBER: Final = re.compile(r"\b(\d{1,3})\b")
ID: Final = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8}\b"
)
BROUGHT: Final = re.compile(r"""[:：\n"“”„«「『【`]""")  # noqa: RUF001 - signs of all languages, behind which a text comes
LEAST_BROUGHT: Final = 3  # words of it
MOST_WORDS: Final = 14  # of a request that leans on another
# Of the request itself: what "it" then speaks of.
NEW_THING: Final = re.compile(
    r"\b(?:an?|some|every|each|my|our|\d+|two|three|four|five|ten|eine?[nmrs]?|un[eoa]?|uma?|mein\w*|mon|ma|mes|mi|mis)\b"
)
OF_IT: Final = re.compile(r"\b(?:of|about|for|from|with|on|into|in|like|to)\b $")
SHORTEST_WORD: Final = 4  # letters of a word by which a task may be named
# Words that name no task, though a task's text may have them.
COMMON: Final = frozenset(
    plain(
        """
        task request please cancel stop with from that this about which what where when have make write create could
        would your mine there them they status check result again into list show tell give look done doing going ready
        finished still running waiting wait queue queued front move pause paused resume retry continue kill abort start
        ended take than thought long longer hold drop everything aufgabe bitte tâche tarea alles
        """
    ).split()
)


@dataclass(frozen=True, slots=True)
class Reference:
    """The tasks that are meant. `how` says how they were found; "none" where the message names none."""

    tasks: tuple[Task, ...]
    how: Literal["id", "number", "all", "all but", "order", "topic", "pronoun", "none"]


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
        return _all(words, tasks, first_number)
    named = _by_topic(words, tasks)
    if len(named) == 1:
        return Reference(named, "topic")
    if order := _by_order(words, named or tasks, 1 if named else first_number):
        return order
    if numbers := [int(number) for number in BARE_NUMBER.findall(words)]:
        return Reference(_numbered(numbers, tasks, first_number), "number")
    leans = tasks and any(has(meaning, words) for meaning in ("back", "it", "it_or_else"))
    return Reference(tuple(tasks[-1:]), "pronoun") if leans else Reference((), "none")


def _all(words: str, tasks: Sequence[Task], first_number: int) -> Reference:
    """All tasks, all that a message names, or all but those that it leaves out."""
    found = re.search(alternatives("but_not"), words)
    if found is None:
        named = _by_topic(re.sub(alternatives("all"), " ", words), tasks)
        return Reference(named, "topic") if named else Reference(tuple(tasks), "all")
    left_out = re.sub(alternatives("all"), " ", words[found.end() :])
    kept = tasks_meant(left_out, tasks, first_number=first_number)
    named = kept.tasks if kept.how in NAMED else _by_topic(left_out, tasks)
    return Reference(tuple(task for task in tasks if task not in named), "all but") if named else Reference((), "none")


def _by_order(words: str, tasks: Sequence[Task], first_number: int) -> Reference | None:
    """The tasks that a message names by their place: the first, the last, the oldest."""
    if has("oldest", words):
        return Reference(tuple(tasks[:1]), "order")
    if numbers := [place for place, ordinal in enumerate(ORDINALS, 1) if has(ordinal, words)]:
        return Reference(_numbered(numbers, tasks, first_number), "order")
    return Reference(tuple(tasks[-1:]), "order") if has("latest", words) else None


def points_back(text: str) -> bool:
    """Whether a request leans on what was said before: "make it shorter", "the same for men".

    A text that comes with the request is what its words speak of, and in a long one they speak of each other.

    >>> points_back("Translate that into German."), points_back("Write a function that reverses a string.")
    (True, False)
    >>> points_back("Translate that into German: Good morning, dear guests!")
    False
    """
    head, material = BROUGHT.split(text, maxsplit=1)[0], BROUGHT.search(text)
    words = plain(head)
    if has("back", words):
        return True
    brings = material is not None and len(plain(text[material.end() :]).split()) >= LEAST_BROUGHT
    return not brings and len(words.split()) <= MOST_WORDS and _is_done_to_it(words)


def _is_done_to_it(words: str) -> bool:
    """Whether "it" and its like are what something is done to, and nothing else was named before."""
    for found in _it().finditer(words):
        before, after = words[: found.start()], words[found.end() :]
        if NEW_THING.search(before) is None or (OF_IT.search(before) and not after):
            return True
    return False


@cache
def _it() -> re.Pattern[str]:
    """The words for "it": some wherever they stand, some only where the next word, or none, shows what they are."""
    goes_on = rf"(?= (?:{alternatives('it_goes_on')})|$)"
    return re.compile(rf"(?:{alternatives('it')})|(?:{alternatives('it_or_else')}){goes_on}")


def shares_words(text: str, other: str, *, least: int = 2) -> bool:
    """Whether two texts have that many words of substance in common."""
    return len(_substance(plain(text)) & _substance(plain(other))) >= least


def _numbered(numbers: Sequence[int], tasks: Sequence[Task], first_number: int) -> tuple[Task, ...]:
    places = [number - first_number for number in numbers]
    return tuple(tasks[place] for place in places if 0 <= place < len(tasks))


def _by_topic(words: str, tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks that share most words with the message; none where all share as many."""
    said = {word for word in _substance(words) if not any(has(meaning, word) for meaning in PLACES)}
    scored = [(len(said & _substance(plain(task.text))), task) for task in tasks]
    best = max((score for score, _ in scored), default=0)
    found = [task for score, task in scored if score == best]
    return tuple(found) if best and (len(found) == 1 or len(found) < len(tasks)) else ()


def _substance(words: str) -> set[str]:
    """Words long enough to name something, without plural endings."""
    found = {word.removesuffix("s") for word in words.split() if len(word) >= SHORTEST_WORD and word not in COMMON}
    return found - COMMON
