"""How many tokens an answer will take, and the budget it stays within with a stated probability."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sklearn.base import BaseEstimator

from tale.exceptions import ValidationException
from tale.learning.conformal import Scores
from tale.learning.features import FloatArray, Request
from tale.learning.lengths import LengthModel, Outlook

METHODS: Final = ("trees", "words", "kernel", "kinds")
STATED_LEVEL: Final = 0.8  # the length told to the model in its prompt: what most answers need
HARD_LEVEL: Final = 0.95  # where the answer is cut off


@dataclass(frozen=True)
class Budget:
    """What is expected of one answer, in tokens: the middle, the budget to state in the prompt, and the hard cap.

    None where too few answers were seen for a promise at that level (19 for 0.95).
    """

    expected_tokens: int
    stated_tokens: int | None
    hard_tokens: int | None
    kind: str
    earlier_answers: float  # to nearly the same text, that were counted in


class TokenBudgetModel(BaseEstimator):
    """Estimates the distribution of output tokens for requests; scikit-learn conventions.

    `fit` takes requests, oldest first, and their output tokens (None where unknown: the row is left out). Texts alone
    suffice; kinds of task that are told in training are recognised in texts later. Raises ValidationException where no
    row has a known, finite number of tokens.

    Parameters: `methods` are those of TextEnsemble; `trees` of each forest; `most_texts`, the latest distinct texts
    that are learned from; `use_history`, whether answers to nearly the same text correct the prediction; `seed`.
    """

    def __init__(
        self,
        *,
        methods: Sequence[str] = METHODS,
        trees: int = 150,
        most_texts: int = 20_000,
        use_history: bool = True,
        seed: int = 0,
    ) -> None:
        self.methods = methods
        self.trees = trees
        self.most_texts = most_texts
        self.use_history = use_history
        self.seed = seed

    def fit(self, X: Sequence[Request], y: Sequence[float | None]) -> "TokenBudgetModel":
        """Learn from requests and their output tokens."""
        rows = zip(X, y, strict=True)
        known = [(request, float(value)) for request, value in rows if value is not None and _is_known(value)]
        if not known:
            raise ValidationException("No answer with a known number of tokens was given; there is nothing to learn.")
        requests = [request for request, _ in known]
        tokens = np.array([value for _, value in known])
        self.lengths_ = LengthModel(
            methods=self.methods,
            trees=self.trees,
            most_texts=self.most_texts,
            use_history=self.use_history,
            seed=self.seed,
        ).fit(requests, np.log1p(tokens))
        tokens = tokens[self.lengths_.rows_used_]
        unseen = self.lengths_.unseen_
        self.scores_ = Scores().fit(tokens, np.expm1(unseen.centre), unseen.spread, unseen.kinds)
        return self

    def predict(self, X: Sequence[Request]) -> FloatArray:
        """The output tokens to expect of each request (the middle of what may come), shape (n,)."""
        return np.maximum(np.expm1(self.outlook(X).centre), 0.0)

    def predict_quantile(self, X: Sequence[Request], level: float | Mapping[str, float]) -> FloatArray:
        """Tokens (n,) that each answer stays within with probability `level`, or with that of its kind.

        A mapping names the level of each kind, "" that of all others: so adaptive levels are put in.
        """
        outlook = self.outlook(X)
        return self.limits(outlook, level)

    def budgets(
        self,
        X: Sequence[Request],
        *,
        stated: float | Mapping[str, float] = STATED_LEVEL,
        hard: float | Mapping[str, float] = HARD_LEVEL,
    ) -> list[Budget]:
        """The expected length, the stated budget and the hard cap of each request, at these levels."""
        outlook = self.outlook(X)
        expected = np.maximum(np.expm1(outlook.centre), 0.0)
        caps = np.ceil(self.limits(outlook, hard))
        told = np.minimum(np.ceil(self.limits(outlook, stated)), caps)
        rows = zip(expected, told, caps, outlook.kinds, outlook.answers, strict=True)
        return [Budget(round(mid), _whole(low), _whole(cap), str(kind), float(n)) for mid, low, cap, kind, n in rows]

    def outlook(self, X: Sequence[Request]) -> Outlook:
        """What `limits` needs, for limits at several levels."""
        if not hasattr(self, "scores_"):
            raise ValidationException("The model of token budgets has learned nothing yet; call fit first.")
        return self.lengths_.outlook(X)

    def limits(self, outlook: Outlook, level: float | Mapping[str, float]) -> FloatArray:
        """As `predict_quantile`, for requests whose outlook is known."""
        centre = np.expm1(outlook.centre)
        if isinstance(level, float | int):
            return self.scores_.limits(level, centre, outlook.spread, outlook.kinds)
        found = np.zeros(len(centre))
        for kind in np.unique(outlook.kinds):
            own = outlook.kinds == kind
            asked = level.get(str(kind), level.get("", HARD_LEVEL))
            found[own] = self.scores_.limits(asked, centre[own], outlook.spread[own], outlook.kinds[own])
        return found


def _whole(tokens: float) -> int | None:
    return int(tokens) if np.isfinite(tokens) else None


def _is_known(value: float) -> bool:
    return bool(np.isfinite(value)) and value >= 0
