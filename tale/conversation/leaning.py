"""Whether a request leans on what was said or made before: "make it shorter", "the same for men"; pure."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Final

from tale.conversation.phrases import alternatives, has, plain
from tale.conversation.references import substance
from tale.records import Task

BROUGHT: Final = re.compile(r"""[:：\n"“”„«「『【`]""")  # noqa: RUF001 - signs of all languages, behind which a text comes
LEAST_BROUGHT: Final = 3  # words of it
LOOKED_AT: Final = 2_000  # characters
MOST_WORDS: Final = 14  # of a request that leans on another
HEAD_WORDS: Final = 5  # of a task's text, among which is what it makes
# Of the request itself: what "it" then speaks of.
NEW_THING: Final = re.compile(
    r"\b(?:an?|some|every|each|my|our|\d+|two|three|four|five|ten|eine?[nmrs]?|un[eoa]?|uma?|mein\w*|mon|ma|mes|mi|mis)\b"
)
OF_IT: Final = re.compile(r"\b(?:of|about|for|from|with|on|into|in|like|to)\b $")


def points_back(text: str) -> bool:
    """Whether a request leans on what was said before.

    A text that comes with the request is what its words speak of, and in a long one they speak of each other.

    >>> points_back("Translate that into German."), points_back("Write a function that reverses a string.")
    (True, False)
    >>> points_back("Translate that into German: Good morning, dear guests!")
    False
    """
    words = _head(text)
    if has("back", words):
        return True
    if _goes_before_new_things(words, _again()):
        return True
    return not _brings_a_text(text) and len(words.split()) <= MOST_WORDS and _goes_before_new_things(words, _it())


def names_again(text: str, tasks: Sequence[Task]) -> list[Task]:
    """The tasks whose product a request names once more: "the essay", after "Write an essay about whales"."""
    words = _head(text)
    if _brings_a_text(text) or len(words.split()) > MOST_WORDS:
        return []
    named = substance(" ".join(found[1] for found in _definite().finditer(words) if _is_open(words, found)))
    shared = [(named & substance(" ".join(plain(task.text[:LOOKED_AT]).split()[1:HEAD_WORDS])), task) for task in tasks]
    best = max((len(words) for words, _ in shared), default=0)
    found = [(frozenset(words), task) for words, task in shared if best and len(words) == best]
    several = len({words for words, _ in found}) == len(found)  # "the essay and the email"
    return [task for _, task in (found if several else found[-1:])]


def _head(text: str) -> str:
    """The words of a request without the text that comes with it."""
    return plain(BROUGHT.split(text, maxsplit=1)[0][:LOOKED_AT])


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
    return re.compile(alternatives("back_again"))


@cache
def _definite() -> re.Pattern[str]:
    return re.compile(rf"(?:{alternatives('article')}) (\w+(?: \w+)?)")


@cache
def _it() -> re.Pattern[str]:
    """The words for "it": some wherever they stand, some only where the next word, or none, shows what they are."""
    goes_on = rf"(?= (?:{alternatives('it_goes_on')})|$)"
    thing = rf"(?:{alternatives('article')}) (?:{alternatives('thing')})"
    return re.compile(rf"(?:{alternatives('it')})|{thing}|(?:{alternatives('it_or_else')}){goes_on}")
