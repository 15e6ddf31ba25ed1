"""How predictions did on the live history, made before the answers (prequential, Dawid 1984), and what they saved."""

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Final

from tale.learning.engine_route import SMALL_COST
from tale.predictions import KeptPrediction, Shadow, tells

MOST_WINDOWS: Final = 10
LEAST_ANSWERS: Final = 10  # of a window, or of what is said of savings
SURE: Final = 1.96  # standard errors to each side of a 95 % interval


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


@dataclass(frozen=True)
class VerifiedSavings:
    """What tasks cost that were done both ways, as learned and as if nothing had been; 95 % intervals.

    `saved` is the share of the tokens, read and written by any call for the task and weighed by the size of the model,
    that learning has saved; `success_lost` by how much fewer answers passed their checks.
    """

    tasks: int
    saved: float
    saved_lower: float
    saved_upper: float
    success_lost: float
    success_lost_lower: float
    success_lost_upper: float
    from_at: float
    until_at: float


@dataclass(frozen=True)
class EstimatedSavings:
    """What was probably saved of the tokens that answers have, weighed by the size of the model, over so many tasks.

    Nothing was done twice: the other way is taken to have been as much longer or shorter as was expected.
    """

    tasks: int
    saved: float


def verified_savings(shadows: Sequence[Shadow], *, small_cost: float = SMALL_COST) -> VerifiedSavings | None:
    """The savings over tasks that were done both ways; None where there are fewer than ten whose cost is known.

    A token of the small model costs `small_cost`, where one of the task model costs 1.
    The share is a ratio of sums, whose error is that of its linear approximation (Cochran 1977, 6.4); success is
    compared in pairs, with half a task more in each of the four outcomes that a pair can have (Agresti and Min 2005).
    """
    known = [(cost, each.naive_tokens, each) for each in shadows if (cost := _cost(each, small_cost)) is not None]
    pairs = [(cost, naive) for cost, naive, _ in known if naive is not None]
    if len(pairs) < LEAST_ANSWERS:
        return None
    naive_mean = fmean(naive for _, naive in pairs)
    share = fmean(cost for cost, _ in pairs) / naive_mean
    share_error = _standard_error([cost - share * naive for cost, naive in pairs]) / naive_mean
    counted = [each for _, naive, each in known if naive is not None]
    lost = [each.naive_succeeded - each.succeeded for each in counted]
    middle, lost_error = _of_pairs(lost)
    return VerifiedSavings(
        tasks=len(pairs),
        saved=round(1 - share, 4),
        saved_lower=round(1 - share - SURE * share_error, 4),
        saved_upper=round(1 - share + SURE * share_error, 4),
        success_lost=round(fmean(lost), 4),
        success_lost_lower=round(max(middle - SURE * lost_error, -1.0), 4),
        success_lost_upper=round(min(middle + SURE * lost_error, 1.0), 4),
        from_at=min(each.made_at for each in counted),
        until_at=max(each.made_at for each in counted),
    )


def estimated_savings(kept: Sequence[KeptPrediction], *, small_cost: float = SMALL_COST) -> EstimatedSavings | None:
    """The savings by what was expected of the task model; None where there are fewer than ten answers.

    What made an answer longer than expected would have made the task model's own longer, too: its length is estimated
    by the ratio of what was expected of both ways (Cochran 1977, 6.2). Expected medians alone would add up to far less
    than answers do, of which a few are long.
    """
    cost, naive, tasks = 0.0, 0.0, set[str]()
    for each in kept:
        tokens, expected = true_tokens(each), each.prediction
        if tokens is None or expected.task_output_tokens is None:
            continue
        cost += tokens * (small_cost if expected.role == "ux" else 1.0)
        if each.task_id not in tasks:  # its first answer: a broken attempt before it has none
            naive += tokens * expected.task_output_tokens / max(expected.output_tokens, 1)
        tasks.add(each.task_id)
    return EstimatedSavings(len(tasks), round(1 - cost / naive, 4)) if len(tasks) >= LEAST_ANSWERS and naive else None


def _cost(shadow: Shadow, small_cost: float) -> float | None:
    """What the task cost the user's way, in tokens of the task model."""
    if shadow.small_tokens is None or shadow.large_tokens is None:
        return None
    return small_cost * shadow.small_tokens + shadow.large_tokens


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values))


def _of_pairs(differences: Sequence[int]) -> tuple[float, float]:
    """The middle and the standard error of the mean of differences that are -1, 0 or 1."""
    count, total = len(differences) + 2, sum(differences)
    unlike = sum(map(abs, differences))
    return total / count, math.sqrt(unlike + 1 - total**2 / count) / count


def live_figures(kept: Sequence[KeptPrediction], *, small_cost: float = SMALL_COST) -> list[LiveFigures]:
    """The figures of up to ten windows of equally many answers, oldest first; none where there are too few answers."""
    known = [(each, tokens) for each in kept if (tokens := true_tokens(each)) is not None and _tells(each, tokens)]
    count = min(MOST_WINDOWS, len(known) // LEAST_ANSWERS)
    if not count:
        return []
    plain = _plain_errors(known)
    edges = [round(number * len(known) / count) for number in range(count + 1)]
    return [_window(known[begin:end], plain[begin:end], small_cost) for begin, end in pairwise(edges)]


def true_tokens(kept: KeptPrediction) -> int | None:
    """How many tokens the answer had; None while, or where, that is not known."""
    return None if kept.outcome is None else kept.outcome.output_tokens


def _tells(kept: KeptPrediction, tokens: int) -> bool:
    reason = kept.outcome.finish_reason if kept.outcome else None
    return tells(tokens, reason, kept.prediction.upper_tokens)


def _window(
    known: Sequence[tuple[KeptPrediction, int]], plain: Sequence[float | None], small_cost: float
) -> LiveFigures:
    covered = [tokens <= each.prediction.upper_tokens for each, tokens in known]
    wasted = [
        small_cost * tokens
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
