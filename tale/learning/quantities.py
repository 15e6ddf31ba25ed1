"""How much there is to work out in a text: its numbers, the relations between them, and the steps of its code. Pure.

The answer to a problem is as long as the steps that it takes, which its figures and the shape of its code foretell
better than its words.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

MOST_DIGITS: Final = 12  # a longer run of digits is no quantity

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_FRACTION = re.compile(r"\d\s*/\s*\d|%|\\frac")
_PERIOD = re.compile(r"\ban? (?:hour|day|week|month|year|minute|mile|pound|dozen)\b", re.IGNORECASE)
_GROUPS: Final = {
    "numbers": "two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty dozen",
    "parts": """twice half halves double doubled doubles triple tripled third thirds quarter quarters fourth fifth times
        percent""",
    "compared": """than more less fewer many much older younger longer shorter remaining rest left increase increased
        increases decrease decreased decreases""",
    "rates": "each per every apiece",
    "conditions": "if then after before when while but however until instead unless",
}
_GROUP_OF: Final = {word: group for group, words in _GROUPS.items() for word in words.split()}

_LITERAL = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"|\[[^\]\n]*\]|\{[^}\n]*\}")
_CALL = re.compile(r"\.\w+\(")
_COMPARISON = re.compile(r"[=!<>]=|\s[<>]\s")
_LOOP = re.compile(r"\b(?:for|while)\b")
_BRANCH = re.compile(r"\b(?:if|elif|else|case|try)\b")

QUANTITY_NAMES: Final = (
    *("numbers", "numbers_distinct", "numbers_largest", "numbers_of_parts", "numbers_compared", "numbers_as_rates"),
    "numbers_conditions",
)
CODE_NAMES: Final = (
    *("code_loops", "code_branches", "code_calls", "code_comparisons", "code_depth", "code_longest_literal"),
    "code_last_line",
)


def quantities_of(text: str, words: Sequence[str]) -> list[float]:
    """The figures of QUANTITY_NAMES of a text with these words in lower case; logs of 1 + a count.

    >>> row = quantities_of("Tom has 12 eggs and eats 3 each day.", "tom has 12 eggs and eats 3 each day".split())
    >>> [round(math.expm1(value)) for value in row]
    [2, 2, 12, 0, 0, 1, 0]
    """
    written = _NUMBER.findall(text)
    telling = [word for word in words if word in _GROUP_OF]
    counts = Counter(_GROUP_OF[word] for word in telling)
    named = {word for word in telling if _GROUP_OF[word] == "numbers"}
    figures = [float(number.replace(",", "")) for number in written if len(number) <= MOST_DIGITS]
    found = (
        len(written) + counts["numbers"],
        len(named.union(written)),
        max(figures, default=0.0),
        len(_FRACTION.findall(text)) + counts["parts"],
        counts["compared"],
        len(_PERIOD.findall(text)) + counts["rates"],
        counts["conditions"],
    )
    return [math.log1p(count) for count in found]


def code_shape(text: str) -> list[float]:
    """The figures of CODE_NAMES of a text that holds code; logs of 1 + a count.

    >>> [round(math.expm1(value)) for value in code_shape("for x in y:\\n    print(x)")][:3]
    [1, 0, 0]
    """
    lines = text.split("\n")
    counts = (
        *(len(pattern.findall(text)) for pattern in (_LOOP, _BRANCH, _CALL, _COMPARISON)),
        max(len(line) - len(line.lstrip(" ")) for line in lines),
        max(map(len, _LITERAL.findall(text)), default=0),
        max(len(lines[-1]), len(lines[-2]) if len(lines) > 1 else 0),
    )
    return [math.log1p(count) for count in counts]
