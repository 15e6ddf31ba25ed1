"""How predictions did on the live history, each made before its answer was there (prequential, Dawid 1984); pure."""

from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Final

from tale.learning.engine_route import SMALL_COST
from tale.predictions import KeptPrediction

MOST_WINDOWS: Final = 10
LEAST_ANSWERS: Final = 10  # of a window


@dataclass(frozen=True)
class LiveFigures:
    """How the predictions of some answers did, in the order in which the answers came. Times are Unix seconds.

    `mean_error_tokens` is the mean distance of the expected from the true tokens, `plain_error_tokens` that of the
    median of all earlier answers of the same model role. `covered` is the share of answers within their limits, which
    were meant for `coverage`. `wasted_tokens` is the mean regret that can be observed: tokens of the small model,
    weighed as those of the task model, in attempts that failed their check and had to be made again.
    """

    begin_at: float
    end_at: float
    answers: int
    mean_error_tokens: float
    plain_error_tokens: float | None
    covered: float
    coverage: float
    cut: float
    small_share: float
    wasted_tokens: float


def live_figures(kept: Sequence[KeptPrediction]) -> list[LiveFigures]:
    """The figures of up to ten windows of equally many answers, oldest first; none where there are too few answers."""
    known = [(each, tokens) for each in kept if (tokens := true_tokens(each)) is not None]
    count = min(MOST_WINDOWS, len(known) // LEAST_ANSWERS)
    if not count:
        return []
    plain = _plain_errors(known)
    edges = [round(number * len(known) / count) for number in range(count + 1)]
    return [_window(known[begin:end], plain[begin:end]) for begin, end in pairwise(edges)]


def true_tokens(kept: KeptPrediction) -> int | None:
    """How many tokens the answer had; None while, or where, that is not known."""
    return None if kept.outcome is None else kept.outcome.output_tokens


def _window(known: Sequence[tuple[KeptPrediction, int]], plain: Sequence[float | None]) -> LiveFigures:
    covered = [tokens <= each.prediction.upper_tokens for each, tokens in known]
    wasted = [
        SMALL_COST * tokens
        for each, tokens in known
        if each.prediction.role == "ux" and each.outcome and each.outcome.succeeded is False
    ]
    compared = [error for error in plain if error is not None]
    return LiveFigures(
        begin_at=known[0][0].made_at,
        end_at=known[-1][0].made_at,
        answers=len(known),
        mean_error_tokens=round(fmean(abs(tokens - each.prediction.output_tokens) for each, tokens in known), 1),
        plain_error_tokens=round(fmean(compared), 1) if compared else None,
        covered=round(fmean(covered), 4),
        coverage=round(fmean(each.prediction.coverage for each, _ in known), 4),
        cut=round(fmean(bool(each.outcome and each.outcome.was_cut) for each, _ in known), 4),
        small_share=round(fmean(each.prediction.role == "ux" for each, _ in known), 4),
        wasted_tokens=round(sum(wasted) / len(known), 2),
    )


def _plain_errors(known: Sequence[tuple[KeptPrediction, int]]) -> list[float | None]:
    """The distance of each answer from the median of all earlier ones of its role; None for the first."""
    seen: dict[str, list[int]] = defaultdict(list)
    errors: list[float | None] = []
    for each, tokens in known:
        earlier = seen[each.prediction.role]
        errors.append(abs(tokens - earlier[len(earlier) // 2]) if earlier else None)
        insort(earlier, tokens)
    return errors
