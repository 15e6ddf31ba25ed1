"""Tells when predictions have stopped being as good as they say; pure."""

import math
from collections import deque
from typing import Final

WINDOW: Final = 100  # the latest answers looked at
LEAST: Final = 30  # below which nothing is said
UNLIKELY: Final = 0.001  # chance of so many misses, were the stated coverage true
LIKELY: Final = 0.05  # the same, of so few that all is well again


class CoverageWatch:
    """Counts how many of the latest answers were longer than their limit.

    `drifted` becomes true when so many misses would be very unlikely, and false again when they are nothing unusual.
    """

    def __init__(self, coverage: float, *, window: int = WINDOW) -> None:
        self.coverage = coverage
        self.drifted = False
        self._latest: deque[bool] = deque(maxlen=window)

    @property
    def observed(self) -> float | None:
        """The share of the latest answers that stayed within their limits; None while there are too few."""
        return sum(self._latest) / len(self._latest) if len(self._latest) >= LEAST else None

    def observe(self, *, covered: bool) -> None:
        """Note one answer."""
        self._latest.append(covered)
        count = len(self._latest)
        misses = count - sum(self._latest)
        before = self.drifted
        if count >= LEAST:
            self.drifted = chance_of(misses, count, 1 - self.coverage) < (LIKELY if before else UNLIKELY)


def chance_of(misses: int, count: int, rate: float) -> float:
    """The probability of at least so many misses among `count`, each of which is one with probability `rate`.

    >>> round(chance_of(1, 2, 0.5), 2), chance_of(0, 10, 0.05)
    (0.75, 1.0)
    """
    fewer = sum(math.comb(count, n) * rate**n * (1 - rate) ** (count - n) for n in range(misses))
    return max(1.0 - fewer, 0.0)
