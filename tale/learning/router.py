"""Which model takes a request: by the gain in success that the large model promises, against what it costs more."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from sklearn.base import BaseEstimator

from tale.exceptions import ValidationException
from tale.learning.encoding import Encoder
from tale.learning.features import FloatArray, Request
from tale.learning.success import OutcomeHeads

Choice = Literal["small", "large"]

METHODS: Final = ("trees", "words", "kinds")  # "kernel" beside them made routes worse on unseen texts
EXPLORED: Final = 0.02  # share of requests that go the other way, so that both models' success stays known
MOST_LOST: Final = 0.15  # expected utility that trying the other way may cost at most


@dataclass(frozen=True)
class Prices:
    """What a call costs and what success is worth, in one unit of the caller's (say, parameter-weighted tokens)."""

    small: float
    large: float
    success: float


@dataclass(frozen=True)
class Decision:
    """A route with its reasons: the probabilities, the gain P(large) - P(small), and how large a gain would have to be.

    `explored` says that the other way was tried on purpose; `propensity` is the probability with which the choice was
    made, for evaluation on logged decisions.
    """

    choice: Choice
    small_success: float
    large_success: float
    gain: float
    needed_gain: float
    explored: bool
    propensity: float


class SuccessRouter(BaseEstimator):
    """Two calibrated heads, P(small model succeeds) and P(large model succeeds); scikit-learn conventions.

    `fit` takes requests, oldest first, and pairs of outcomes (small, large), each 0 to 1 or None where that model was
    not asked. Raises ValidationException where no outcome is known. Where all outcomes are alike, so are predictions.
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

    def fit(
        self,
        X: Sequence[Request],
        y: Sequence[tuple[float | None, float | None]],
        *,
        encoder: Encoder | None = None,
    ) -> "SuccessRouter":
        """Learn from requests and the outcomes (small, large) of each; an encoder that was fitted may be shared."""
        outcomes = np.array([[np.nan if value is None else value for value in pair] for pair in y], dtype=np.float64)
        outcomes = np.clip(outcomes.reshape(len(X), 2), 0.0, 1.0)
        if np.isnan(outcomes).all():
            raise ValidationException("No outcome of either model was given; there is nothing to learn.")
        self.heads_ = OutcomeHeads(
            methods=self.methods,
            trees=self.trees,
            most_texts=self.most_texts,
            use_history=self.use_history,
            contrasts=np.array([[-1.0], [1.0]]),
            seed=self.seed,
        ).fit(X, outcomes, encoder=encoder)
        return self

    def predict_proba(self, X: Sequence[Request]) -> FloatArray:
        """P(small succeeds) and P(large succeeds) of each request, shape (n, 2)."""
        if not hasattr(self, "heads_"):
            raise ValidationException("The router has learned nothing yet; call fit first.")
        return self.heads_.probabilities(X)

    def predict(self, X: Sequence[Request]) -> FloatArray:
        """The expected gain P(large) - P(small) of each request, shape (n,)."""
        likely = self.predict_proba(X)
        return likely[:, 1] - likely[:, 0]


def route(
    small_success: float,
    large_success: float,
    *,
    prices: Prices,
    randomness: random.Random | None = None,
    explored: float = EXPLORED,
) -> Decision:
    """The model with the higher expected utility: success x its probability - cost.

    With `randomness` the other one is tried in a share `explored` of the cases, but only where that is expected to lose
    less than MOST_LOST of what success is worth.

    >>> route(0.6, 0.9, prices=Prices(small=0.3, large=1.0, success=10)).choice
    'large'
    >>> route(0.2, 0.2, prices=Prices(small=0.3, large=1.0, success=10)).choice  # neither can do it
    'small'
    """
    gain = large_success - small_success
    needed = (prices.large - prices.small) / prices.success if prices.success > 0 else float("inf")
    best: Choice = "large" if gain > needed else "small"
    may_explore = randomness is not None and abs(gain - needed) < MOST_LOST
    tries = randomness is not None and may_explore and randomness.random() < explored
    other: Choice = "small" if best == "large" else "large"
    propensity = 1.0 if not may_explore else explored if tries else 1 - explored
    choice = other if tries else best
    return Decision(choice, small_success, large_success, gain, needed, tries, propensity)
