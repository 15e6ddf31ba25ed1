"""Takes an engine's figures for what they can be: what is no count, or no time, is unknown."""

import math
from typing import Final

MOST_TOKENS: Final = 2**31 - 1  # what a column of whole numbers holds in every database


def count_of(told: object) -> int | None:
    """A number of tokens.

    >>> count_of(3), count_of(3.0), count_of(0)
    (3, 3, 0)
    >>> count_of(None), count_of(-1), count_of("3"), count_of(True), count_of(2.5), count_of(10**12)
    (None, None, None, None, None, None)
    """
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    return int(told) if 0 <= told <= MOST_TOKENS and told == int(told) else None


def seconds_of(told: object, per_s: float = 1.0) -> float | None:
    """A duration, told in units of which a second has so many.

    >>> seconds_of(250, 1e3), seconds_of(0)
    (0.25, 0.0)
    >>> seconds_of(None), seconds_of(-1), seconds_of("3"), seconds_of(float("inf"))
    (None, None, None, None)
    """
    if isinstance(told, bool) or not isinstance(told, int | float):
        return None
    return told / per_s if 0 <= told < math.inf else None
