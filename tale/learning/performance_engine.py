"""What a history of tasks teaches: how long answers will be, how complex a task is, and which model does it."""

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Final, cast, get_args

import numpy as np
from sklearn.base import BaseEstimator

from tale.exceptions import ModelException, ValidationException
from tale.learning.artefacts import from_bytes, to_bytes
from tale.learning.complexity import complexity_shares, likeliest
from tale.learning.conformal import AdaptiveLevel
from tale.learning.engine_route import Chances, choose
from tale.learning.engine_rows import bounded, has_length, is_counted, outcome_of, prepared, request_of
from tale.learning.features import Request, kind_of
from tale.learning.lengths import Outlook
from tale.learning.model_weights import small_cost
from tale.learning.neighbours import same_text_key
from tale.learning.prompts import (
    CHARACTERS_A_TOKEN,
    DEFAULT,
    STATED,
    VARIANTS,
    Chosen,
    PromptVariants,
    instruction_tokens,
    known_as,
)
from tale.learning.router import SuccessRouter
from tale.learning.token_budget import TokenBudgetModel
from tale.predictions import PastAttempt, Prediction, TaskQuestion
from tale.records import Role

COVERAGE: Final = 0.95
LEAST_ROWS: Final = 25  # answers of known length; a limit at 0.95 takes 19 of them, and some are kept out to judge
MOST_LIKE: Final = 3  # tasks that are named as like a new one
KEPT_LIKE: Final = 5  # tasks that are remembered of each text
CAP_SLACK: Final = 3.0  # of the limit that answers stay within, to where they are cut: to go on costs all tokens again
LEAST_CUT: Final = 512  # tokens; a shorter answer is cheaper to let run than to cut and go on with
FRAME_TOKENS: Final = 12.0  # around each message, in the templates of chat models
ROLES: Final[tuple[Role, ...]] = get_args(Role)
MAGIC: Final = "tale-engine 3"


@dataclass(frozen=True)
class Checked:
    """How a prediction did, made before its answer was learned from: its log error (truth - expected), and whether the
    limit held that comes from the fit alone, without what was adapted since."""

    ended_at: float
    log_error: float
    covered: bool


@dataclass(frozen=True)
class Way:
    """How a model would do a task: the instructions, the row of the outlook, and the tokens of the answer.

    `tokens` and `default_tokens`, those with the default instructions, are medians.
    """

    chosen: Chosen
    row: int
    tokens: float
    mean_tokens: float
    default_tokens: float


class PerformanceEngine(BaseEstimator):
    """Fit it on past attempts, ask it about new tasks, update it with what came of them; scikit-learn conventions.

    Lengths are those of `TokenBudgetModel`, successes those of `SuccessRouter`; on top of both comes what was learned
    since the fit: answers to the very same texts, and an adaptive level for each kind of task (Gibbs and Candès 2021).
    Instructions are chosen by `PromptVariants`.
    """

    def __init__(self, *, trees: int = 150, seed: int = 0) -> None:
        self.trees = trees
        self.seed = seed

    def fit(
        self, X: Sequence[PastAttempt], y: None = None, *, priors: Sequence[PastAttempt] = ()
    ) -> "PerformanceEngine":
        """Learn from past attempts, and from priors, which are older and nobody's word.

        Raises ValidationException where fewer than 25 have a known length.
        """
        own = prepared(X)
        rows = [*priors, *own]
        known = [row for row in rows if has_length(row)]
        if len(known) < LEAST_ROWS:
            raise ValidationException(
                f"There are {len(known)} answers of known length to learn from; {LEAST_ROWS} are needed."
            )
        self.budget_ = TokenBudgetModel(trees=self.trees, seed=self.seed)
        self.budget_.fit([request_of(row) for row in known], [row.output_tokens for row in known])
        self.names_: dict[str, str] = {row.role: row.model for row in rows}  # the latest of each
        labelled = [row for row in rows if row.succeeded is not None and row.model == self.names_[row.role]]
        self.router_: SuccessRouter | None = None
        if labelled:
            self.router_ = SuccessRouter(trees=self.trees, seed=self.seed)
            self.router_.fit(
                [request_of(row) for row in labelled],
                [outcome_of(row) for row in labelled],
                encoder=self.budget_.lengths_.encoder_,
            )
        self.tried_: dict[str, int] = dict(Counter(row.role for row in labelled))
        self.tried_of_kind_: dict[str, int] = dict(Counter(kind_of(row.text) for row in labelled if row.role == "ux"))
        self.rows_ = len(known)
        self.trained_until_ = rows[-1].ended_at
        self.like_: dict[str, list[str]] = {}
        for row in rows:
            self._remember(row)
        self.arms_ = _learned_arms(priors, own)
        self._begin()
        return self

    def predict(
        self, question: TaskQuestion, *, version: str = "", randomness: random.Random | None = None
    ) -> Prediction:
        """What is expected of a task. With `randomness` some checked tasks go to the small model to learn of it."""
        outlook, ways = self._ways(question, randomness)
        kind, shift = str(outlook.kinds[0]), self._shift(question.text)
        names = self.names_of(question)
        chances = replace(self.chances(question.text, names), cost=_cost_ratio(question, names, ways))
        choice = choose(chances, question, randomness=randomness)
        way = ways[choice.role]
        row, variant = way.row, way.chosen.variant
        lower = self._limit(outlook, row, 1 - COVERAGE, shift)
        upper = self._limit(outlook, row, self._level(kind).asked, shift)
        log_tokens, log_error = float(outlook.centre[row]) + shift, float(outlook.spread[row])
        shares = complexity_shares(chances.small, chances.large, log_tokens=log_tokens, log_error=log_error)
        top = question.limit_tokens if math.isinf(upper) else math.ceil(upper)
        return Prediction(
            version=version,
            kind=kind,
            complexity=likeliest(shares),
            complexity_shares=shares,
            output_tokens=_within(way.tokens, top),
            lower_tokens=_within(math.floor(lower), top),
            upper_tokens=top,
            coverage=COVERAGE,
            role=choice.role,
            reason=choice.reason,
            stated_tokens=_within(way.default_tokens, top) if variant == STATED else None,
            cap_tokens=None if math.isinf(upper) or question.has_schema else max(math.ceil(CAP_SLACK * top), LEAST_CUT),
            gain=_rounded(chances.gain),
            ux_success=_rounded(chances.small),
            task_success=_rounded(chances.large),
            explored=choice.explored or way.chosen.explored,
            neighbours=tuple(task for task, _ in self.like(question.text)),
            variant=variant,
            task_output_tokens=_within(ways["task"].default_tokens, question.limit_tokens),
        )

    def update(self, rows: Sequence[PastAttempt]) -> list[Checked]:
        """Take in what came of tasks, oldest first; returns how predictions for them, made before that, did."""
        known = [row for row in rows if is_counted(row)]
        if not known:
            return []
        outlook = self.budget_.lengths_.outlook(
            [self._request(row.text, row.role, row.model, row.variant) for row in known]
        )
        checked: list[Checked] = []
        for number, row in enumerate(known):
            kind, shift = str(outlook.kinds[number]), self._shift(row.text)
            tokens, centre = row.output_tokens or 0, float(outlook.centre[number])
            truth, is_whole = math.log1p(tokens), has_length(row)
            served = _in_whole(self._limit(outlook, number, self._level(kind).asked, shift))
            as_fitted = _in_whole(self._limit(outlook, number, COVERAGE, 0.0))
            if is_whole or tokens > served:  # what was cut beyond a limit would be so uncut, too
                self.levels_[kind] = self._level(kind).after(covered=tokens <= served)
            if is_whole or tokens > as_fitted:
                checked.append(Checked(row.ended_at, truth - centre - shift, tokens <= as_fitted))
            if is_whole:
                answers, total = self.recent_.get(same_text_key(row.text), (0, 0.0))
                self.recent_[same_text_key(row.text)] = (answers + 1, total + truth - centre)
            if _has_choice(row):
                _observe(self.prompts_, row, kind, is_bounded=True)
            self._remember(row)
        return checked

    def expected(self, row: PastAttempt) -> tuple[float, float]:
        """The tokens to expect of an attempt by the model that made it, and the limit at COVERAGE; as from the fit."""
        outlook = self.budget_.lengths_.outlook([self._request(row.text, row.role, row.model, row.variant)])
        limit = self._limit(outlook, 0, COVERAGE, 0.0)
        middle = max(math.expm1(float(outlook.centre[0])), 0.0)
        return middle, limit if math.isfinite(limit) else 2 * middle

    def names_of(self, question: TaskQuestion) -> dict[Role, str]:
        """The models that fill the roles: those of the question, or else those that were learned from last."""
        told: dict[Role, str | None] = {"ux": question.ux_model, "task": question.task_model}
        return {role: name or self.names_.get(role, "") for role, name in told.items()}

    def chances(self, text: str, names: Mapping[Role, str]) -> Chances:
        """How likely each of these models succeeds, and how often the small one was tried with tasks of this kind.

        Only of the models that were learned from last is anything known.
        """
        if self.router_ is None:
            return Chances(None, None, 0)
        small, large = (float(each) for each in self.router_.predict_proba([Request(text, "")])[0])
        tried, tried_large = (self.tried_.get(role, 0) if names[role] == self.names_.get(role) else 0 for role in ROLES)
        of_kind = self.tried_of_kind_.get(kind_of(text), 0)
        return Chances(small if tried else None, large if tried_large else None, min(tried, 2 * of_kind))

    def like(self, text: str, *, most: int = MOST_LIKE) -> list[tuple[str, float]]:
        """Ids of the tasks whose texts are likest, with the cosine of their vectors, from 0 to 1."""
        if same := self.like_.get(same_text_key(text)):
            return [(task, 1.0) for task in same[::-1][:most]]
        history, encoder = self.budget_.lengths_.history_, self.budget_.lengths_.encoder_
        if not len(history.vectors_) or not history.vectors_.shape[1]:
            return []
        cosines = history.vectors_ @ encoder.encode([Request(text, "")]).vectors[0]
        keys = list(history.rows_)
        nearest = [(keys[int(row)], float(cosines[row])) for row in np.argsort(-cosines)[:most] if cosines[row] > 0]
        return [(self.like_[key][-1], round(min(cosine, 1.0), 3)) for key, cosine in nearest if self.like_.get(key)]

    def correction(self, text: str) -> float:
        """By how much, on the log scale, earlier answers to the same or nearly the same text change the expectation."""
        plain = copy(self.budget_.lengths_)
        plain.use_history = False
        request = [Request(text, self.names_.get("task", ""))]
        changed = self.budget_.lengths_.outlook(request).centre - plain.outlook(request).centre
        return float(changed[0]) + self._shift(text)

    def to_bytes(self) -> bytes:
        """The engine as it came from `fit`; what it was updated with is learned again from the history."""
        facts: dict[str, Any] = {name: getattr(self, name) for name in FACTS}
        told = {"magic": MAGIC, "trees": self.trees, "seed": self.seed, "facts": facts}
        return json.dumps(told).encode() + b"\n" + to_bytes([self.budget_, self.router_])

    @classmethod
    def from_bytes(cls, data: bytes) -> "PerformanceEngine":
        """The engine that was stored. Raises ModelException where it cannot be used."""
        first, _, rest = data.partition(b"\n")
        try:
            told: dict[str, Any] = json.loads(first)
            if told["magic"] != MAGIC:
                raise ModelException("What was learned is of another tale; it has to be learned again.")
            engine = cls(trees=told["trees"], seed=told["seed"])
            engine.__dict__.update({name: told["facts"][name] for name in FACTS})
        except (ValueError, KeyError, TypeError) as error:
            raise ModelException("What was learned is damaged; it has to be learned again.") from error
        match cast("list[object]", from_bytes(rest, list)):  # stored as one, since they share an encoder
            case [TokenBudgetModel() as budget, (SuccessRouter() | None) as router]:
                engine.budget_, engine.router_ = budget, router
            case _:
                raise ModelException("What was learned is damaged; it has to be learned again.")
        engine._begin()
        return engine

    def _begin(self) -> None:
        """Forget what was learned since the fit."""
        self.levels_: dict[str, AdaptiveLevel] = {}
        self.recent_: dict[str, tuple[int, float]] = {}  # by text: answers since the fit, and the sum of their errors
        self.prompts_ = PromptVariants(self.arms_)

    def _ways(self, question: TaskQuestion, randomness: random.Random | None) -> tuple[Outlook, dict[Role, Way]]:
        """The instructions that each model would get, and what is expected with all that are in question."""
        variants = tuple(VARIANTS) if has_variants(question) else (DEFAULT,)
        names = self.names_of(question)
        asked = [self._request(question.text, role, names[role], variant) for role in ROLES for variant in variants]
        outlook = self.budget_.lengths_.outlook(asked)
        centre = outlook.centre + self._shift(question.text)
        middles = np.maximum(np.expm1(centre), 1.0).tolist()
        means = np.maximum(np.exp(centre) * outlook.smear - 1.0, 1.0).tolist()
        ways: dict[Role, Way] = {}
        for begin, role in zip(range(0, len(asked), len(variants)), ROLES, strict=True):
            tokens = dict(zip(variants, middles[begin : begin + len(variants)], strict=True))
            chosen = Chosen(DEFAULT)
            if len(variants) > 1:
                chosen = self.prompts_.choose(
                    *(names[role], str(outlook.kinds[0])),
                    tokens=tokens,
                    default_mean_tokens=means[begin],
                    has_check=question.has_check,
                    randomness=randomness,
                )
            row = begin + variants.index(chosen.variant)
            ways[role] = Way(chosen, row, middles[row], means[row], tokens[DEFAULT])
        return outlook, ways

    def _request(self, text: str, role: Role, model: str, variant: str) -> Request:
        """A request to a model, which is taken to write as much as the one before it while nothing is known of it."""
        habits = self.budget_.lengths_.habit_of_
        is_known = model in habits or known_as(model, variant) in habits
        return Request(text, known_as(model if is_known else self.names_.get(role, ""), variant))

    def _remember(self, row: PastAttempt) -> None:
        same = self.like_.setdefault(same_text_key(row.text), [])
        if row.task_id not in same:
            same.append(row.task_id)
        del same[:-KEPT_LIKE]

    def _level(self, kind: str) -> AdaptiveLevel:
        return self.levels_.get(kind, AdaptiveLevel(COVERAGE))

    def _shift(self, text: str) -> float:
        """How far off, on the log scale, answers to the very same text were since the fit; the more, the surer."""
        answers, total = self.recent_.get(same_text_key(text), (0, 0.0))
        return total / (answers + 1)

    def _limit(self, outlook: Outlook, row: int, level: float, shift: float) -> float:
        """Tokens that an answer stays within with that probability; infinite where too little is known."""
        centre = np.expm1(outlook.centre[[row]])
        limit = float(self.budget_.scores_.limits(level, centre, outlook.spread[[row]], outlook.kinds[[row]])[0])
        return limit if math.isinf(limit) else math.expm1(math.log1p(limit) + shift)


FACTS: Final = ("tried_", "tried_of_kind_", "names_", "rows_", "trained_until_", "like_", "arms_")


def has_variants(question: TaskQuestion) -> bool:
    """Whether the instructions may differ: JSON needs its own, and what failed twice is done with the full ones."""
    return not (question.has_schema or question.again or question.keeps_instructions)


def _has_choice(row: PastAttempt) -> bool:
    """Whether it tells of its instructions: not where there was no choice of them, or only for what is hard."""
    return not (row.is_retry or row.has_schema)


def _learned_arms(priors: Sequence[PastAttempt], own: Sequence[PastAttempt]) -> dict[str, Any]:
    """What came of variants, as JSON can hold it; of each, one's own attempts are bounded by key."""
    prompts = PromptVariants()
    told = bounded([row for row in own if _has_choice(row)], group=lambda row: known_as(row.model, row.variant))
    for row in (*filter(_has_choice, priors), *told):
        _observe(prompts, row, kind_of(row.text), is_bounded=False)
    return prompts.as_json()


def _observe(prompts: PromptVariants, row: PastAttempt, kind: str, *, is_bounded: bool) -> None:
    tokens = row.output_tokens if has_length(row) else None
    prompts.observe(
        *(row.model, kind, row.variant),
        succeeded=row.succeeded,
        key_name=row.key_name,
        tokens=tokens,
        is_bounded=is_bounded,
    )


def _cost_ratio(question: TaskQuestion, names: Mapping[Role, str], ways: Mapping[Role, Way]) -> float:
    """What a call of the small model costs, by its size, where one of the task model costs 1: all tokens count.

    By the mean: seldom, but then greatly, answers of the small model are longer than its median.
    """
    text = question.text
    costs = {
        role: FRAME_TOKENS + instruction_tokens(way.chosen.variant) + len(text) / CHARACTERS_A_TOKEN + way.mean_tokens
        for role, way in ways.items()
    }
    weight = question.small_cost or small_cost(names["ux"], names["task"])
    return weight * costs["ux"] / costs["task"]


def _in_whole(limit: float) -> float:
    """A limit as it is told, in whole tokens; infinite where too little is known."""
    return limit if math.isinf(limit) else math.ceil(limit)


def _within(tokens: float, top: int) -> int:
    return min(max(round(tokens), 1), top)


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
