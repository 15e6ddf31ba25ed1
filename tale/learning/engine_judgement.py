"""Which version is to serve: each is judged on attempts that came later than all it was made of."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from tale.exceptions import ValidationException
from tale.learning.engine_rows import has_length, prepared
from tale.learning.performance_engine import COVERAGE, LEAST_ROWS, PerformanceEngine
from tale.predictions import PastAttempt

LEAST_JUDGED: Final = 15  # attempts of known length that a judgement takes
KEPT_OUT: Final = 0.25  # share of the attempts, the latest, that a first version is judged on
LEAST_LABELLED: Final = 10  # known outcomes below which success is not judged
WORSE_BRIER: Final = 0.02  # that a better judge of lengths may be in success
CLEARLY: Final = 0.95  # of its successor's loss: what the version before must stay below to serve again

Verdict = Literal["promoted", "rejected", "rolled_back", "waiting"]
Forecast = Callable[[PastAttempt], tuple[float, float, float | None]]
"""Expected tokens, the limit at COVERAGE, and the probability of success of an attempt, by the model that made it."""


@dataclass(frozen=True)
class Score:
    """How forecasts did. The loss is the mean pinball loss at 0.5 and COVERAGE of log(1 + tokens); less is better."""

    judged: int
    loss: float
    mean_error_tokens: float
    covered: float
    mean_limit_tokens: float
    labelled: int
    brier: float | None


@dataclass(frozen=True)
class Judgement:
    """What came of a round of learning, in words too; the engine where a new one is to serve."""

    verdict: Verdict
    reason: str
    rows: int = 0
    trained_until: float = 0.0
    engine: PerformanceEngine | None = None
    metrics: dict[str, Any] | None = None


def judge(
    rows: Sequence[PastAttempt],
    *,
    priors: Sequence[PastAttempt] = (),
    serving: PerformanceEngine | None = None,
    previous: PerformanceEngine | None = None,
    seed: int = 0,
) -> Judgement:
    """Learn from the rows and say what is to serve from now on.

    A new version is made of all but the latest attempts, none of which the one that serves has seen either; it is
    promoted where it beats that one and plain medians and quantiles on them. The one before it serves again where it
    beats both clearly. Priors are learned from in any case, and judged on only while there is no history.
    """
    rows = prepared(rows)
    if priors and serving is None and len(rows) < 2 * LEAST_JUDGED:
        rows, priors = prepared(priors), ()
    begin = _first_judged(rows, serving)
    seen, unseen = rows[:begin], [row for row in rows[begin:] if has_length(row)]
    if len(unseen) < LEAST_JUDGED:
        return Judgement("waiting", f"{len(unseen)} new answers; {LEAST_JUDGED} are needed to judge what they teach")
    try:
        engine = PerformanceEngine(seed=seed).fit(seen, priors=priors)
    except ValidationException as error:
        return Judgement("waiting", error.message)
    plain = _plain(seen if any(map(has_length, seen)) else priors)
    scores = {"new": scored(_of_engine(engine), unseen), "plain": scored(plain, unseen)}
    scores |= {
        name: scored(_of_engine(each), unseen)
        for name, each in (("serving", serving), ("previous", previous))
        if each is not None
    }
    metrics = {name: asdict(score) for name, score in scores.items()}
    made = (engine.rows_, engine.trained_until_, engine, metrics)
    rivals = {name: score for name, score in scores.items() if name != "new"}
    if is_to_serve(scores):
        return Judgement("promoted", _compared(scores["new"], rivals), *made)
    if "previous" in scores and scores["previous"].loss < CLEARLY * scores["serving"].loss:
        return Judgement("rolled_back", _compared(scores["previous"], {"serving": scores["serving"]}), *made)
    return Judgement("rejected", _compared(scores["new"], rivals), *made)


def is_to_serve(scores: Mapping[str, Score]) -> bool:
    """Whether the "new" version is to serve: it beats those that might ("serving", "previous"), and "plain" figures.

    While one serves, only lengths are compared with the plain figures: to refuse the new one for its success leaves the
    old one in place, which may be as bad at that and worse at lengths.
    """
    new, plain = scores["new"], scores["plain"]
    versions = [score for name, score in scores.items() if name not in ("new", "plain")]
    beats_plain = new.loss < plain.loss if versions else is_better(new, plain)
    return beats_plain and all(is_better(new, rival) for rival in versions)


def is_better(score: Score, rival: Score) -> bool:
    """Whether it tells lengths better, and success as well, as far as that was seen."""
    if score.brier is not None and rival.brier is not None and score.brier > rival.brier + WORSE_BRIER:
        return False
    return score.loss < rival.loss


def scored(forecast: Forecast, rows: Sequence[PastAttempt]) -> Score:
    """How forecasts of attempts of known length do."""
    losses: list[float] = []
    errors: list[float] = []
    limits: list[float] = []
    squares: list[float] = []
    for row in rows:
        expected, limit, success = forecast(row)
        tokens = row.output_tokens or 0
        truth = math.log1p(tokens)
        losses.append(_pinball(truth, math.log1p(expected), 0.5) + _pinball(truth, math.log1p(limit), COVERAGE))
        errors.append(abs(tokens - expected))
        limits.append(limit)
        if success is not None and row.succeeded is not None:
            squares.append((success - row.succeeded) ** 2)
    brier = _mean(squares) if len(squares) >= LEAST_LABELLED else None
    covered = _mean([float((row.output_tokens or 0) <= limit) for row, limit in zip(rows, limits, strict=True)])
    return Score(len(rows), _mean(losses), _mean(errors), covered, _mean(limits), len(squares), brier)


def _first_judged(rows: Sequence[PastAttempt], serving: PerformanceEngine | None) -> int:
    """Where the rows begin that are kept out: the later half of those that the version that serves has not seen."""
    if serving is None:
        return max(len(rows) - max(int(KEPT_OUT * len(rows)), LEAST_JUDGED), 0)
    fresh = next((at for at, row in enumerate(rows) if row.ended_at > serving.trained_until_), len(rows))
    return fresh + (len(rows) - fresh) // 2


def _of_engine(engine: PerformanceEngine) -> Forecast:
    def forecast(row: PastAttempt) -> tuple[float, float, float | None]:
        chances = engine.chances(row.text, {"ux": row.model, "task": row.model})
        return *engine.expected(row), chances.small if row.role == "ux" else chances.large

    return forecast


def _plain(rows: Sequence[PastAttempt]) -> Forecast:
    """The median, the quantile and the rate of success of each role, whatever the text."""
    tokens: dict[str, list[int]] = defaultdict(list)
    successes: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if has_length(row):
            tokens[row.role].append(row.output_tokens or 0)
            tokens[""].append(row.output_tokens or 0)
        if row.succeeded is not None:
            successes[row.role].append(row.succeeded)

    def forecast(row: PastAttempt) -> tuple[float, float, float | None]:
        known = sorted(tokens[row.role] if len(tokens[row.role]) >= LEAST_ROWS else tokens[""])
        limit = known[min(math.ceil(COVERAGE * (len(known) + 1)) - 1, len(known) - 1)]
        seen = successes[row.role]
        return known[len(known) // 2], limit, (sum(seen) + 1) / (len(seen) + 2) if seen else None

    return forecast


def _pinball(truth: float, limit: float, level: float) -> float:
    return max(level * (truth - limit), (level - 1) * (truth - limit))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _compared(score: Score, rivals: dict[str, Score]) -> str:
    against = ", ".join(f"{name} {rival.loss:.3f}" for name, rival in rivals.items())
    told = f"loss {score.loss:.3f} on {score.judged} later answers, against {against}"
    known = {name: rival.brier for name, rival in rivals.items() if rival.brier is not None}
    if score.brier is None or not known:
        return told
    others = ", ".join(f"{name} {brier:.3f}" for name, brier in known.items())
    return f"{told}; Brier score of success {score.brier:.3f} on {score.labelled}, against {others}"
