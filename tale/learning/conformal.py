"""Limits that hold with a stated probability: conformal scores of each kind of task, and an offset that adapts online.

A limit is centre + score x normaliser, where the score is a quantile of those observed on texts that the centre was not
fitted on (split conformal prediction with a normalised score, Papadopoulos et al. 2002; by kind of task as in Mondrian
conformal prediction, Vovk et al. 2003). Conformalised quantile regression (Romano et al. 2019) scales its scores by a
learned spread; here each kind chooses, among several normalisers of which that is one, what spends fewest tokens.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tale.learning.features import FloatArray

CENTRE_POWERS: Final = (0.0, 0.25, 0.5, 1.0)  # 0: errors are alike in tokens; 1: alike as a share of the length
SPREAD_POWERS: Final = (0.0, 0.5, 1.0)
LEAST_ROWS: Final = 100  # of a kind, for scores of its own; kinds with fewer share those of all
EVERY_KIND: Final = ""
LEVEL_STEP: Final = 0.002  # of 0.001 to 0.01 it spent fewest tokens on unseen texts at the same coverage
FURTHEST: Final = 5.0  # times more, or less, misses than are aimed at
OFFSET_STEP: Final = 0.005
OFFSET_WINDOW: Final = 1_000  # answers


@dataclass(frozen=True)
class Normaliser:
    """What errors are measured in: powers of the expected length and of the expected spread."""

    centre_power: float
    spread_power: float

    def sizes(self, centre_tokens: FloatArray, spread: FloatArray) -> FloatArray:
        """The unit of each row's error, above zero."""
        sizes = np.maximum(centre_tokens, 1.0) ** self.centre_power * spread**self.spread_power
        return np.asarray(sizes, dtype=np.float64)


class Scores:
    """Observed scores of each kind and normaliser, from which limits at any level are read."""

    def fit(
        self, tokens: FloatArray, centre_tokens: FloatArray, spread: FloatArray, kinds: NDArray[np.str_]
    ) -> "Scores":
        """Keep the sorted scores (tokens - centre) / size of each kind with enough rows, and of all rows."""
        names = [str(name) for name in np.unique(kinds) if int((kinds == name).sum()) >= LEAST_ROWS]
        self.sorted_: dict[str, FloatArray] = {}
        self.centres_: dict[str, FloatArray] = {}
        self.spreads_: dict[str, FloatArray] = {}
        for name in (EVERY_KIND, *names):
            own = kinds == name if name else np.ones(len(kinds), dtype=bool)
            sizes = [each.sizes(centre_tokens[own], spread[own]) for each in NORMALISERS]
            self.sorted_[name] = np.stack([np.sort((tokens[own] - centre_tokens[own]) / size) for size in sizes])
            self.centres_[name], self.spreads_[name] = centre_tokens[own], spread[own]
        self.chosen_: dict[str, tuple[int, float]] = {}
        return self

    def limits(
        self, level: float, centre_tokens: FloatArray, spread: FloatArray, kinds: NDArray[np.str_]
    ) -> FloatArray:
        """Tokens (n,) that an answer stays within with probability `level`, at least 1.

        Infinite where fewer answers were seen than a promise at that level takes (19 for 0.95).
        """
        found = np.zeros(len(kinds))
        for name in np.unique(kinds):
            own = kinds == name
            normaliser, score = self.score(level, str(name))
            found[own] = centre_tokens[own] + score * normaliser.sizes(centre_tokens[own], spread[own])
        return np.maximum(found, 1.0)

    def score(self, level: float, kind: str) -> tuple[Normaliser, float]:
        """The normaliser that spends fewest tokens for a kind at a level, and its score."""
        name = kind if kind in self.sorted_ else EVERY_KIND
        level = round(level, 3)  # levels that adapt would otherwise each be looked for anew
        key = f"{level:.3f} {name}"
        if key not in self.chosen_:
            scores = [_upper_quantile(row, level) for row in self.sorted_[name]]
            spent = [
                float(
                    np.maximum(
                        self.centres_[name] + score * each.sizes(self.centres_[name], self.spreads_[name]), 1
                    ).mean()
                )
                for each, score in zip(NORMALISERS, scores, strict=True)
            ]
            best = int(np.argmin(spent))
            self.chosen_[key] = (best, scores[best])
        number, score = self.chosen_[key]
        return NORMALISERS[number], score


NORMALISERS: Final = tuple(Normaliser(*powers) for powers in product(CENTRE_POWERS, SPREAD_POWERS))


def _upper_quantile(ordered: FloatArray, level: float) -> float:
    """The score that a new one stays within with probability `level`; infinite where too few were seen to tell."""
    rank = math.ceil(level * (len(ordered) + 1)) - 1
    return float(ordered[max(rank, 0)]) if rank < len(ordered) else math.inf


@dataclass(frozen=True)
class AdaptiveLevel:
    """The level to ask for so that a share of `target` is covered though answers drift; a value, replaced at each step.

    Adaptive conformal inference (Gibbs and Candès 2021): after each answer the level moves by `step` times how far
    coverage was off. It stays within FURTHEST of the miss that is aimed at, so that a run of odd answers, or answers
    made up by somebody, cannot take budgets anywhere.

    >>> level = AdaptiveLevel(0.9, step=0.02)
    >>> round(level.after(covered=False).asked, 4), round(level.after(covered=True).asked, 4)
    (0.918, 0.898)
    """

    target: float
    level: float | None = None
    step: float = LEVEL_STEP

    @property
    def asked(self) -> float:
        """The level to ask for now."""
        return self.target if self.level is None else self.level

    def after(self, *, covered: bool) -> "AdaptiveLevel":
        """The level after one more answer."""
        missing = 1 - self.target
        level = self.asked + self.step * ((0.0 if covered else 1.0) - missing)
        bounded = min(max(level, 1 - FURTHEST * missing), 1 - missing / FURTHEST)
        return AdaptiveLevel(self.target, bounded, self.step)


class AdaptiveOffset:
    """The tokens to add to an expected length so that a share `target` of answers is covered as they drift.

    It reads the quantile at an adaptive level from the latest errors (tokens - expected) of one kind of task. `state()`
    and `from_state` keep it across restarts. Before enough errors were seen it has no offset (None).

    >>> offset = AdaptiveOffset(0.5, errors=[-10.0, 0.0, 10.0])
    >>> offset.tokens()
    0.0
    """

    def __init__(
        self,
        target: float,
        *,
        errors: Sequence[float] = (),
        level: float | None = None,
        step: float = OFFSET_STEP,
        window: int = OFFSET_WINDOW,
    ) -> None:
        self._level = AdaptiveLevel(target, level, step)
        self._window = window
        self._latest = deque(errors, maxlen=window)
        self._ordered = sorted(self._latest)

    def tokens(self) -> float | None:
        """The offset now."""
        if not self._ordered:
            return None
        score = _upper_quantile(np.array(self._ordered), self._level.asked)
        return score if math.isfinite(score) else self._ordered[-1]

    def observe(self, error: float) -> None:
        """Take in the error of one more answer, and whether the present offset covered it."""
        offset = self.tokens()
        if offset is not None:
            self._level = self._level.after(covered=error <= offset)
        if len(self._latest) == self._window:
            self._ordered.pop(bisect_left(self._ordered, self._latest[0]))
        self._latest.append(error)
        insort(self._ordered, error)

    def state(self) -> dict[str, object]:
        """What `from_state` needs, as JSON can hold it."""
        return {
            "target": self._level.target,
            "level": self._level.level,
            "step": self._level.step,
            "window": self._window,
            "errors": list(self._latest),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "AdaptiveOffset":
        """The offset as it was when `state()` was taken."""
        options = {name: state[name] for name in ("errors", "level", "step", "window")}
        return cls(float(state["target"]), **options)
