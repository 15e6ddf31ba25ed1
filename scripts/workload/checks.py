"""Tells whether an answer is right, by the check that comes with its request; neither models nor routing see it.

    {"kind": "contains_any", "values": ["Paris"], "unless": []}      one of them as whole words, and none of `unless`
    {"kind": "contains_all", "values": ["red", "blue|azure"]}        each of them; | parts what is as good
    {"kind": "regex", "pattern": "^[A-Z]{3}$"}                       found in the answer without its fence and margins
    {"kind": "number", "value": 3.14, "tolerance": 0.01}             the last number of the answer
    {"kind": "exact_set", "values": ["a", "b"], "ordered": false}    the list that the answer is, no more and no less
    {"kind": "json_schema", "schema": {...}}                         its JSON, fenced, alone or within words
    {"kind": "python_tests", "tests": "assert f(1) == 2"}            its code, run with these tests

Words are compared without regard to case, accents and marks of emphasis.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tale.acceptance import PYTHON_NAMES, code_of
from workload.code_runs import Job, passed

NUMBER: Final = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?")
THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
BULLET: Final = re.compile(r"^(?:[-*•+]|\(?\d+[.):])\s+")
SAME_MARKS: Final = {0x2212: "-", 0x2013: "-", 0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'}  # typeset ones
Check = Mapping[str, Any]


def is_right(check: Check, answer: str) -> bool:
    """Whether the answer passes; code in it is run."""
    return all_right([(check, answer)])[0]


def all_right(answered: Sequence[tuple[Check, str]]) -> list[bool]:
    """The same for many, in their order; their code is run by one process, which takes a fraction of the time."""
    jobs = [Job(code_in(answer), check["tests"]) for check, answer in answered if check["kind"] == "python_tests"]
    runs = iter(passed(jobs))
    return [
        next(runs) if check["kind"] == "python_tests" else FINDERS[check["kind"]](check, answer)
        for check, answer in answered
    ]


def plain(text: str) -> str:
    """The text in lower case, without accents, emphasis and thousands separators, its blanks made one."""
    kept = unicodedata.normalize("NFKD", text.translate(SAME_MARKS)).casefold()
    kept = "".join(letter for letter in kept if not unicodedata.combining(letter))
    kept = re.sub(r"[*`]|(?<!\w)_|_(?!\w)", "", unicodedata.normalize("NFC", kept))
    return " ".join(THOUSANDS.sub("", kept).split())


def code_in(answer: str) -> str:
    """The Python of an answer: its fenced blocks, or all of it where there are none."""
    blocks = code_of(answer, names=PYTHON_NAMES)
    return answer if blocks is None else "\n".join(blocks)


def body_of(answer: str) -> str:
    """What stands in the only fence of an answer, else all of it, without margins."""
    fenced = re.findall(r"^\s*```[^\n]*\n(.*?)^\s*```", answer, re.DOTALL | re.MULTILINE)
    return (fenced[0] if len(fenced) == 1 else answer).strip()


def _has(values: str, text: str) -> bool:
    """Whether one of the values that | parts stands in the text, as whole words where its script has blanks."""
    return any(
        re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text) if value.isascii() else value in text
        for value in map(plain, values.split("|"))
    )


def _contains_any(check: Check, answer: str) -> bool:
    text = plain(answer)
    return any(_has(value, text) for value in check["values"]) and not any(
        _has(value, text) for value in check.get("unless", ())
    )


def _contains_all(check: Check, answer: str) -> bool:
    text = plain(answer)
    return all(_has(value, text) for value in check["values"])


def _regex(check: Check, answer: str) -> bool:
    text = body_of(answer)
    return any(re.search(check["pattern"], variant) for variant in (text, text.strip("`* \n")))


def _number(check: Check, answer: str) -> bool:
    found = NUMBER.findall(plain(answer))
    return bool(found) and abs(float(found[-1]) - check["value"]) <= check.get("tolerance", 0)


def _exact_set(check: Check, answer: str) -> bool:
    given = [plain(item) for line in body_of(answer).splitlines() for item in _items(line)]
    wanted = [plain(value) for value in check["values"]]
    return given == wanted if check.get("ordered") else sorted(given) == sorted(wanted)


def _items(line: str) -> list[str]:
    """The items of a line; a line that ends in a colon introduces them and has none."""
    line = BULLET.sub("", line.strip())
    if line.endswith(":"):
        return []
    parts = re.split(r"[,;]|\s+and\s+", line.strip("[](){}. "))
    return [item for part in parts if (item := part.strip().removeprefix("and ").strip(" \"'`*."))]


def _json_schema(check: Check, answer: str) -> bool:
    from jsonschema import Draft202012Validator

    text = body_of(answer)
    start = min((place for place in (text.find("{"), text.find("[")) if place >= 0), default=None)
    if start is None:
        return False
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return False
    return Draft202012Validator(check["schema"]).is_valid(value)


FINDERS: Final[Mapping[str, Callable[[Check, str], bool]]] = {
    "contains_any": _contains_any,
    "contains_all": _contains_all,
    "regex": _regex,
    "number": _number,
    "exact_set": _exact_set,
    "json_schema": _json_schema,
}
