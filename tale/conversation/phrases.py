"""Phrases that mean one thing in many languages, from phrases.toml, and how messages are compared with them."""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Final
from unicodedata import normalize

# The vowel signs of Devanagari are no letters to \w. One way alone to match a letter, or time grows exponentially.
LETTER: Final = r"(?:[^\W_\u0900-\u097f]|[\u0900-\u097f])"
WORD: Final = re.compile(rf"{LETTER}+(?:['-]{LETTER}+)*")
MOST_BESIDE: Final = 20  # words in front of a phrase that is said alone, and as many behind it
UNBROKEN: Final = re.compile(r"[\u0900-\u097f\u3040-\u9fff]")  # scripts in which no border of a word can be looked for
MARKS: Final = {0x2019: "'", 0x2018: "'", 0x0131: "i"}  # typographic quotes; the Turkish i without a dot
ACCENTS: Final = re.compile("[\u0300-\u036f]")  # of Latin letters, and of their Cyrillic sisters


def plain(text: str) -> str:
    """A message in small letters without accents, its words parted by one blank, without marks.

    >>> plain("No, just chat!"), plain("İptal et."), plain("Hör auf!")
    ('no just chat', 'iptal et', 'hor auf')
    """
    return " ".join(WORD.findall(folded(text)))


def folded(text: str) -> str:
    """A text in small letters, without the accents that people leave out when they are in a hurry."""
    return normalize("NFC", ACCENTS.sub("", normalize("NFD", text.lower().translate(MARKS))))


def has(meaning: str, text: str) -> bool:
    """Whether a message holds a phrase of that meaning.

    >>> has("stop", "Please cancel the second one."), has("stop", "Was the stopover long?")
    (True, False)
    """
    return _anywhere(meaning).search(plain(text)) is not None


def says(meaning: str, text: str) -> bool:
    """Whether a message is such a phrase and no more, but for a word in front or behind.

    >>> says("do_it", "Yes, do it, please."), says("do_it", "Do it in Rust")
    (True, False)
    """
    return _alone(meaning).fullmatch(plain(text)) is not None


def bare(text: str) -> str:
    """The plain words of a message without those that only lead to the others.

    >>> bare("No, the second one, please"), bare("Ok")
    ('the second one please', 'ok')
    """
    return _leading().sub("", plain(text))


def alternatives(meaning: str) -> str:
    """The phrases of that meaning as a regular expression for `plain` text. Raises KeyError for an unknown meaning.

    Each stands there once: where repeated phrases could be matched in several ways, time would grow exponentially.
    """
    phrases = dict.fromkeys(phrase.strip() for phrase in _phrases()[meaning].replace("\n", " ").split("|"))
    return "|".join(_pattern(phrase) for phrase in phrases)


@cache
def _phrases() -> dict[str, str]:
    book = tomllib.loads(files("tale.conversation").joinpath("phrases.toml").read_text(encoding="utf-8"))
    return {meaning: folded(phrases) for meaning, phrases in book.items()}


@cache
def _anywhere(meaning: str) -> re.Pattern[str]:
    return re.compile(alternatives(meaning))


@cache
def _alone(meaning: str) -> re.Pattern[str]:
    before, after = alternatives("lead_in"), alternatives("lead_out")
    beside = f"{{0,{MOST_BESIDE}}}"
    return re.compile(rf"(?:(?:{before}) ){beside}(?:{alternatives(meaning)})(?: (?:{after})){beside}")


@cache
def _leading() -> re.Pattern[str]:
    return re.compile(rf"^(?:(?:{alternatives('lead_in')}) )+")


def _pattern(phrase: str) -> str:
    pattern = re.escape(phrase.removesuffix("*")) + (rf"{LETTER}*" if phrase.endswith("*") else "")
    return pattern if UNBROKEN.search(phrase) else rf"\b{pattern}\b"
