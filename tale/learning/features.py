"""What a request looks like: figures of its text, structure, cues of kind and language, and of its conversation. Pure.

Nothing is learned here. Vectors of words are in `lexical`, earlier requests like this one in `neighbours`.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tale.learning.answer_forms import (
    CUES,
    FORM_TOKENS,
    INSTRUCTION_CUES,
    NUMBERS,
    OPENING_TOKENS,
    UNIT_TOKENS,
    UNKNOWN_TOKENS,
)
from tale.learning.quantities import CODE_NAMES, QUANTITY_NAMES, code_shape, quantities_of

FloatArray = NDArray[np.float64]

READ_CHARACTERS: Final = 3_000  # of a long text the beginning and the end are read: both hold what is asked
TAIL_CHARACTERS: Final = 1_000
INSTRUCTION_CHARACTERS: Final = 600
MOST_COUNTED: Final = 3.0  # of one cue: a word that is repeated tells no more
MOST_SENTENCES: Final = 8
LONGEST_PHRASE: Final = 4  # words

_WORD = re.compile(r"[^\W_]+(?:['+-]+[^\W_]*)*")
_BLANK_LINE = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n")
_FULL_STOP = re.compile(r"[.!?](?:\s|$)")
_CODE = re.compile(
    r"```|`\w[\w.]*\(|\bdef \w+\(|\bclass \w+[:(]|;\s*$|</\w+>|#include|^\s*import \w+|=>|\bSELECT\b", re.MULTILINE
)
_FORMULA = re.compile(r"\$|\\frac|\d\s*[-+*/=^]\s*\d")
_CHOICE = re.compile(r"^\s*\(?[A-Ea-e][.):]\s", re.MULTILINE)
_LENGTH = re.compile(
    rf"\b(\d[\d,]{{0,6}}|{'|'.join(NUMBERS)})[\s-]+(?:\w+\s+)?({'|'.join(UNIT_TOKENS)})s?\b", re.IGNORECASE
)
_COUNT = re.compile(
    rf"\b(\d{{1,3}}|{'|'.join(list(NUMBERS)[2:])})\s+(?:\w+\s+){{0,2}}?(?:ideas|tips|ways|examples|reasons|steps|things"
    r"|questions|items|names|sentences|paragraphs|points|facts|words|books|movies|songs|places)\b",
    re.IGNORECASE,
)
_ACTION = re.compile(
    r"\b(?:write|give|provide|create|generate|make|compose|draft|suggest|tell|come up with|think of|design|develop"
    r"|craft|produce|find|identify|need|want|choose|pick|build|prepare|construct|return|output|print|say)\b",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"\W*(?:(?:please|kindly|ok(?:ay)?|so|now|hi|hello|hey)[,!.]? )*(?:"
    + "|".join(rf"({pattern})\b" for pattern, _ in OPENING_TOKENS)
    + ")",
    re.IGNORECASE,
)
_UNKNOWN = math.log(UNKNOWN_TOKENS)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What went before a request; None is unknown, which is not the same as nothing."""

    turns: int | None = None
    tokens: int | None = None
    last_answer_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a model, as far as it is known before the answer.

    `kind` is the sort of task where somebody has said so; budgets are calibrated by it, or else by `kind_of(text)`.
    `embedding` is a sentence embedding of unit length, where one is at hand: all requests of a model have one, or none.
    """

    text: str
    model: str
    kind: str | None = None
    conversation: Conversation = Conversation()
    embedding: tuple[float, ...] | None = None


def _phrases(groups: Iterable[tuple[str | int, str]]) -> dict[str, tuple[str | int, ...]]:
    """Each phrase, its words joined by one blank, with the groups it belongs to."""
    found: dict[str, tuple[str | int, ...]] = {}
    for group, phrases in groups:
        for phrase in phrases.split():
            key = phrase.replace("_", " ")
            found[key] = (*found.get(key, ()), group)
    return found


_CUE_OF: Final = _phrases(CUES.items())
_FORM_OF: Final = _phrases(FORM_TOKENS.items())
_PHRASE_STARTS: Final = {phrase.split()[0] for phrase in (*_CUE_OF, *_FORM_OF) if " " in phrase}
_TELLING: Final = {*_PHRASE_STARTS, *(word + end for word in (*_CUE_OF, *_FORM_OF) for end in ("", "s"))}

FEATURE_NAMES: Final = (
    *("log_characters", "log_words", "log_lines", "characters_a_word", "questions", "sentences", "digits", "capitals"),
    *("beyond_ascii", "punctuation", "log_instruction", "log_material", "ends_in_question", "distinct_words"),
    *("has_material", "log_asked_length", "asks_length", "asks_count", "code", "formulas", "choices"),
    *("opening_first", "opening_most", "opening_least", "opening_mean", "opening_last"),
    *("form_first", "form_most", "form_least", "form_mean", "forms", "form_after_action", "forms_after_action"),
    "sentences_of_instruction",
    *QUANTITY_NAMES,
    *CODE_NAMES,
    *(f"cue_{name}" for name in CUES),
    *(f"instruction_{name}" for name in INSTRUCTION_CUES),
    *("log_turns", "log_context_tokens", "log_last_answer"),
)


def shortened(text: str) -> str:
    """The text as far as it is read: the beginning and the end of a long one.

    >>> len(shortened("x" * 10_000)), shortened("short")
    (3000, 'short')
    """
    if len(text) <= READ_CHARACTERS:
        return text
    return text[: READ_CHARACTERS - TAIL_CHARACTERS] + text[-TAIL_CHARACTERS:]


def words_of(text: str) -> list[str]:
    """The words of a text in lower case.

    >>> words_of("Isn't C++ fun? Step-by-step, please.")
    ["isn't", 'c++', 'fun', 'step-by-step', 'please']
    """
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def kind_of(text: str) -> str:
    """The kind of task that a text seems to be: code, mathematics, choice, edit, classify, story, document, list,
    explain, question or other.

    >>> kind_of("Write a python function that adds two numbers."), kind_of("What is $1+1$?"), kind_of("")
    ('code', 'mathematics', 'other')
    """
    text = shortened(text).strip()
    if len(_CHOICE.findall(text)) > MOST_COUNTED:
        return "choice"
    cues = _cue_counts(words_of(text))
    if _CODE.search(text) or cues["code"] >= 2:  # noqa: PLR2004 - one word such as "class" may be chance
        return "code"
    if _FORMULA.search(text) or cues["mathematics"] >= 2:  # noqa: PLR2004 - the same
        return "mathematics"
    for name in ("edit", "classify", "story", "document", "list", "explain"):
        if cues[name]:
            return name
    return "question" if text.endswith("?") or _opening(text) < _UNKNOWN else "other"


def features_of(requests: Sequence[Request]) -> FloatArray:
    """The figures of each request, shape (requests, len(FEATURE_NAMES)); all are finite.

    >>> features_of([Request("", "m")]).shape == (1, len(FEATURE_NAMES))
    True
    """
    rows = [_text_features(request.text) + _conversation_features(request.conversation) for request in requests]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURE_NAMES))


def _text_features(text: str) -> list[float]:
    length = len(text)
    text = shortened(text).strip()
    words = words_of(text)
    instruction, *rest = _BLANK_LINE.split(text, maxsplit=1)
    material = rest[0] if rest else ""
    lead = instruction[:INSTRUCTION_CHARACTERS]
    cues = _cue_counts(words)
    lead_cues = _cue_counts(words_of(lead))
    sentences = [part for part in _SENTENCE_END.split(lead) if part.strip()][:MOST_SENTENCES]
    return [
        math.log1p(length),
        math.log1p(len(words)),
        math.log1p(text.count("\n") + 1),
        len(text) / max(len(words), 1),
        float(min(text.count("?"), 10)),
        float(min(len(_FULL_STOP.findall(text)), 30)),
        *_shares(text),
        math.log1p(len(instruction)),
        math.log1p(len(material)),
        float(text.endswith("?")),
        len(set(words)) / max(len(words), 1),
        float(bool(material)),
        *_asked_length(text),
        *(min(float(len(pattern.findall(text))), MOST_COUNTED) for pattern in (_CODE, _FORMULA, _CHOICE)),
        *_opening_features(text, sentences),
        *_form_features(lead, sentences),
        float(len(sentences)),
        *quantities_of(text, words),
        *(code_shape(text) if _CODE.search(text) else (0.0,) * len(CODE_NAMES)),
        *(min(float(cues[name]), MOST_COUNTED) for name in CUES),
        *(float(lead_cues[name] > 0) for name in INSTRUCTION_CUES),
    ]


def _conversation_features(conversation: Conversation) -> list[float]:
    known = (conversation.turns, conversation.tokens, conversation.last_answer_tokens)
    return [-1.0 if value is None else math.log1p(max(value, 0)) for value in known]


def _shares(text: str) -> list[float]:
    """Shares of digits, capitals, characters beyond ASCII, and punctuation."""
    total = max(len(text), 1)
    letters = sum(map(str.isalnum, text))
    blanks = sum(map(str.isspace, text))
    beyond = len(text) - len(text.encode("ascii", "ignore"))
    counts = (sum(map(str.isdigit, text)), sum(map(str.isupper, text)), beyond, len(text) - letters - blanks)
    return [count / total for count in counts]


def _asked_length(text: str) -> list[float]:
    """The length in tokens that is asked for in so many words, whether one is, and how many things are asked for."""
    length, count = _LENGTH.search(text), _COUNT.search(text)
    tokens = _number(length[1]) * UNIT_TOKENS[length[2].lower()] if length else 0.0
    return [math.log1p(tokens), float(length is not None), min(_number(count[1]), 50.0) if count else 0.0]


def _number(text: str) -> float:
    return float(NUMBERS.get(text.lower()) or text.replace(",", ""))


def _opening(sentence: str) -> float:
    """Log of the tokens that an answer to a sentence that opens like this takes."""
    found = _OPENING.match(sentence)
    return _UNKNOWN if found is None or found.lastindex is None else math.log(OPENING_TOKENS[found.lastindex - 1][1])


def _opening_features(text: str, sentences: Sequence[str]) -> list[float]:
    openings = [_opening(sentence) for sentence in sentences] or [_UNKNOWN]
    ends = [part for part in _SENTENCE_END.split(text[-300:]) if part.strip()]
    last = _opening(ends[-1]) if ends else _UNKNOWN
    return [openings[0], max(openings), min(openings), sum(openings) / len(openings), last]


def _form_features(lead: str, sentences: Sequence[str]) -> list[float]:
    """Logs of the tokens that forms named in the instruction take: all of them, and those after a verb of making."""
    found = _forms(lead)
    action = _ACTION.search(lead)
    after = _forms(lead[action.end() :]) if action else []
    nothing = _opening(sentences[0]) if sentences else _UNKNOWN
    every = found or [_UNKNOWN]
    named = after or [nothing]
    mean = sum(every) / len(every)
    return [every[0], max(every), min(every), mean, float(len(found)), named[0], sum(named) / len(named)]


def _forms(text: str) -> list[float]:
    return [math.log(int(group)) for key in _keys(words_of(text), _FORM_OF) for group in _FORM_OF[key]]


def _cue_counts(words: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(CUES, 0)
    for key in _keys(words, _CUE_OF):
        for group in _CUE_OF[key]:
            counts[str(group)] += 1
    return counts


def _keys(words: Sequence[str], known: dict[str, tuple[str | int, ...]]) -> list[str]:
    """The known words and phrases of a text in their order; a plural counts as its singular."""
    found: list[str] = []
    for at in [at for at, word in enumerate(words) if word in _TELLING]:  # few of many, so that most take no time
        word = words[at]
        if word in known:
            found.append(word)
        elif word.endswith("s") and word[:-1] in known:
            found.append(word[:-1])
        if word in _PHRASE_STARTS:
            phrases = (" ".join(words[at : at + length]) for length in range(2, LONGEST_PHRASE + 1))
            found += [phrase for phrase in phrases if phrase in known]
    return found
