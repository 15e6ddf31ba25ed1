"""Whether a request leans on what was said or made before: "make it shorter", "the same for men"; pure."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Final

from tale.conversation.phrases import alternatives, has, plain
from tale.conversation.references import TASK_WORDS, by_order, places, substance
from tale.records import Task, TaskStatus

LOST: Final = (TaskStatus.CANCELLED, TaskStatus.FAILED)  # what is nothing to build on
BROUGHT: Final = re.compile(r"""[:：\n"“”„«「『【`]""")  # noqa: RUF001 - signs of all languages, behind which a text comes
LEAST_BROUGHT: Final = 3  # words of it
LOOKED_AT: Final = 2_000  # characters
MOST_WORDS: Final = 14  # of a request that leans on another
HEAD_WORDS: Final = 5  # of a task's text, among which is what it makes
# Of the request itself: what "it" then speaks of.
NEW_THING: Final = re.compile(
    r"\b(?:an?|some|every|each|my|our|\d+|two|three|four|five|ten|eine?[nmrs]?|un[eoa]?|uma?|mein\w*|mon|ma|mes|mi|mis)\b"
)
OF_IT: Final = re.compile(r"\b(?:of|about|for|from|with|on|into|in|like|to) (?:the )?$")
SIGNED: Final = re.compile(r"\W*[^\W\d]+ #\d")  # "Summarise #2", not "the issue #2"


def points_back(text: str) -> bool:
    """Whether a request leans on what was said before.

    A text that comes with the request is what its words speak of, and in a long one they speak of each other.

    >>> points_back("Translate that into German."), points_back("Write a function that reverses a string.")
    (True, False)
    >>> points_back("Translate that into German: Good morning, dear guests!")
    False
    """
    words = _head(text)
    if has("back", words) or (SIGNED.match(text) and not _brings_a_text(text)):
        return True
    if _goes_before_new_things(words, _again()):
        return True
    return not _brings_a_text(text) and len(words.split()) <= MOST_WORDS and _goes_before_new_things(words, _it())


def names_again(text: str, tasks: Sequence[Task]) -> list[Task]:
    """The tasks whose product a request names once more: "the essay", after "Write an essay about whales".

    None of them is lost. Where several are called the same, one is meant.
    """
    words = _head(text)
    if _brings_a_text(text) or len(words.split()) > MOST_WORDS:
        return []
    things = [found[1] for found in _definite().finditer(words) if _is_open(words, found)]
    named = substance(_without_places(" ".join(things)))
    alike: dict[frozenset[str], list[Task]] = {}
    for task in tasks:
        begins = substance(" ".join(plain(task.text[:LOOKED_AT]).split()[1:HEAD_WORDS]))
        alike.setdefault(frozenset(named & begins), []).append(task)
    most = max(map(len, alike), default=0)
    best = [shared for shared in alike if most and len(shared) == most]  # two of "the essay and the email"
    return [task for shared in best for task in _one_of(alike[shared], _naming(shared, things))]


def _naming(words: frozenset[str], things: Sequence[str]) -> str:
    """What a request says of a thing, its place included: "first poem"."""
    return " ".join(thing for thing in things if substance(_without_places(thing)) & words)


def _without_places(words: str) -> str:
    return re.sub(places(), " ", words)


def _one_of(tasks: Sequence[Task], named: str) -> Sequence[Task]:
    """Of tasks that are called the same the one whose place is named, "first poem", else the latest."""
    useful = [task for task in tasks if task.status not in LOST]
    placed = by_order(named, tasks)
    return [task for task in useful if task in placed.tasks] if placed else useful[-1:]


def head_of(text: str) -> str:
    """A request without the text that comes with it.

    >>> head_of("Translate that: first come, first served")
    'Translate that'
    """
    return BROUGHT.split(text, maxsplit=1)[0][:LOOKED_AT]


def _head(text: str) -> str:
    return plain(head_of(text))


def _brings_a_text(text: str) -> bool:
    found = BROUGHT.search(text)
    return found is not None and len(plain(text[found.end() :][:LOOKED_AT]).split()) >= LEAST_BROUGHT


def _goes_before_new_things(words: str, pattern: re.Pattern[str]) -> bool:
    """Whether words are what something is done to, and nothing new was named before."""
    return any(_is_open(words, found) for found in pattern.finditer(words))


def _is_open(words: str, found: re.Match[str]) -> bool:
    """Whether a word may speak of what was before: nothing new stands before it, or it ends with "of it"."""
    before, after = words[: found.start()], words[found.end() :]
    return NEW_THING.search(before) is None or (OF_IT.search(before) is not None and not after)


@cache
def _again() -> re.Pattern[str]:
    """The same once more, or a task by its number."""
    number = rf"(?:\b(?:{TASK_WORDS})|任务|タスク) ?\d{{1,4}}(?!\d)"
    return re.compile(rf"{alternatives('back_again')}|{number}")


@cache
def _definite() -> re.Pattern[str]:
    """An article and what follows, unless that shows it to be no article: "that into German"."""
    it = rf"(?:{alternatives('it_or_else')}) (?:{alternatives('it_goes_on')})"
    return re.compile(rf"(?!{it})(?:{alternatives('article')}) (\w+(?: \w+)?)")


@cache
def _it() -> re.Pattern[str]:
    """The words for "it": some wherever they stand, some only where the next word, or none, shows what they are."""
    goes_on = rf"(?= (?:{alternatives('it_goes_on')})|$)"
    thing = rf"(?:{alternatives('article')}) (?:{alternatives('thing')})"
    return re.compile(rf"(?:{alternatives('it')})|{thing}|(?:{alternatives('it_or_else')}){goes_on}")
