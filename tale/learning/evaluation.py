"""How good predictions, budgets and routes are, with intervals that know that answers to one prompt hang together.

Routing figures follow RouteLLM (Ong et al. 2024): APGR is the area between the router's curve of quality over calls to
the strong model and that of the weak model alone, as a share of the area under the strong model; CPT(x) is the
percentage of strong calls at which x of the gap between the models is closed. The curve has 10 quantile bins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tale.learning.features import FloatArray

BINS: Final = 10
DRAWS: Final = 1_000  # of a bootstrap
TAIL: Final = 0.025  # on each side of a 95 % interval


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value lies within."""
        return self.low <= value <= self.high


def mean_absolute_error(truth: FloatArray, predicted: FloatArray) -> float:
    """The mean distance, in the unit of the values."""
    return float(np.abs(truth - predicted).mean())


def r2_of_log(truth: FloatArray, predicted: FloatArray) -> float:
    """Share of the variance of log(1 + value) that is explained; below zero is worse than the mean. NaN if constant."""
    logs, guesses = np.log1p(truth), np.log1p(np.maximum(predicted, 0.0))
    spread = float(((logs - logs.mean()) ** 2).sum())
    return 1 - float(((logs - guesses) ** 2).sum()) / spread if spread > 0 else float("nan")


def kendall_tau(truth: FloatArray, predicted: FloatArray, groups: Sequence[str] | None = None) -> float:
    """Rank correlation (tau-b), the mean of that within each group; a group without any order in it counts as zero."""
    names = np.zeros(len(truth)) if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
    found: list[float] = []
    for name in np.unique(names):
        own = names == name
        tau = _tau_b(truth[own], predicted[own]) if int(own.sum()) > 1 else 0.0
        found.append(0.0 if np.isnan(tau) else tau)
    return float(np.mean(found)) if found else float("nan")


def _tau_b(truth: FloatArray, predicted: FloatArray) -> float:
    return float(cast(Any, stats).kendalltau(truth, predicted).statistic)


def pinball_loss(truth: FloatArray, limits: FloatArray, level: float) -> float:
    """The loss that the quantile of `level` makes smallest, in the unit of the values (Koenker and Bassett 1978)."""
    beyond = truth - limits
    return float(np.maximum(level * beyond, (level - 1) * beyond).mean())


def coverage(truth: FloatArray, limits: FloatArray) -> float:
    """The share of values at or below their limits."""
    return float((truth <= limits).mean())


def calibration_error(outcomes: FloatArray, probabilities: FloatArray, *, bins: int = BINS) -> float:
    """Expected calibration error: how far stated and observed shares differ, in bins of equal numbers."""
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [abs(float(outcomes[part].mean() - probabilities[part].mean())) * len(part) for part in parts if len(part)]
    return sum(gaps) / len(order) if len(order) else float("nan")


@dataclass(frozen=True)
class Curve:
    """Quality over the share of strong calls, from none to all (both 0 to 1, ascending), and the gap between models."""

    shares: FloatArray
    qualities: FloatArray
    weak: float
    strong: float


def routing_curve(scores: FloatArray, weak: FloatArray, strong: FloatArray, *, bins: int = BINS) -> Curve:
    """The curve of a router that sends the highest scores to the strong model; qualities (n,) are those per prompt."""
    thresholds = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)))
    points: list[tuple[float, float]] = [(0.0, float(weak.mean()))]
    for threshold in thresholds[::-1]:
        chosen = scores >= threshold
        points.append((float(chosen.mean()), float(np.where(chosen, strong, weak).mean())))
    if len(points) > 2:  # noqa: PLR2004 - RouteLLM's lowest bin holds nothing: its first point is that of the weak model
        points.pop(1)
    shares, qualities = np.array(points).T
    return Curve(shares, qualities, float(weak.mean()), float(strong.mean()))


def apgr(curve: Curve) -> float:
    """Average performance gap recovered: 0.5 is a router that guesses; NaN where the strong model is no better."""
    gap = curve.strong - curve.weak
    return (float(np.trapezoid(curve.qualities, curve.shares)) - curve.weak) / gap if gap > 0 else float("nan")


def calls_for_gap(curve: Curve, share: float) -> float:
    """CPT: percentage of strong calls at which the curve first closes this share of the gap (linear between points)."""
    wanted = curve.weak + share * (curve.strong - curve.weak)
    for at in range(1, len(curve.shares)):
        low, high = float(curve.qualities[at - 1]), float(curve.qualities[at])
        if high >= wanted > low:
            part = (wanted - low) / (high - low)
            return 100 * float(curve.shares[at - 1] + part * (curve.shares[at] - curve.shares[at - 1]))
    return 100.0


def bootstrap(
    figure: Callable[[NDArray[np.int64]], float],
    clusters: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """The 95 % percentile interval of `figure(rows)` over drawing whole clusters (prompts) with replacement."""
    numbers: NDArray[np.int64] = np.unique(np.array(clusters), return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers))
    members: list[NDArray[np.int64]] = [
        order[end - size : end] for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)
    ]
    generator = np.random.default_rng(seed)
    found: list[float] = []
    for _ in range(draws):
        drawn = cast("list[int]", generator.integers(len(members), size=len(members)).tolist())
        value = figure(np.concatenate([members[each] for each in drawn]))
        if not np.isnan(value):
            found.append(value)
    whole = figure(np.arange(len(numbers), dtype=np.int64))
    if not found:
        return Interval(whole, float("nan"), float("nan"))
    low, high = np.quantile(found, [TAIL, 1 - TAIL])
    return Interval(whole, float(low), float(high))
