"""How complex a request is, by what came of requests like it: simple, medium or complex.

The outcome defines the class, not the look of the text:
- simple: the small model succeeds, and the answer is not long;
- medium: only the large model succeeds, or the small one does with a long answer;
- complex: neither succeeds.
Where one model was not asked, what is known decides: a small model that succeeds makes it simple (or medium), a large
one that fails makes it complex, and all else is unknown. "Long" is above LONG_TOKENS.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from sklearn.base import BaseEstimator

from tale.exceptions import ValidationException
from tale.learning.features import FloatArray, Request
from tale.learning.success import OutcomeHeads

CLASSES: Final = ("simple", "medium", "complex")
LONG_TOKENS: Final = 1_000
METHODS: Final = ("trees", "words", "kernel", "kinds")


def complexity_of(
    small_ok: bool | None, large_ok: bool | None, *, tokens: float | None = None, long_tokens: int = LONG_TOKENS
) -> str | None:
    """The class that an outcome defines; None where what is known does not tell.

    >>> complexity_of(True, None), complexity_of(True, True, tokens=2_000), complexity_of(False, True)
    ('simple', 'medium', 'medium')
    >>> complexity_of(False, False), complexity_of(None, False), complexity_of(False, None)
    ('complex', 'complex', None)
    """
    if small_ok:
        return "medium" if tokens is not None and tokens > long_tokens else "simple"
    if large_ok is False:
        return "complex"
    return "medium" if large_ok and small_ok is False else None


class ComplexityModel(BaseEstimator):
    """Calibrated probabilities of simple, medium and complex; scikit-learn conventions.

    `fit` takes requests, oldest first, and their classes (None: unknown, left out); `classes_` is the order of columns.
    """

    def __init__(
        self, *, methods: Sequence[str] = METHODS, trees: int = 150, most_texts: int = 20_000, seed: int = 0
    ) -> None:
        self.methods = methods
        self.trees = trees
        self.most_texts = most_texts
        self.seed = seed

    def fit(self, X: Sequence[Request], y: Sequence[str | None]) -> "ComplexityModel":
        """Learn from requests and what their outcomes make them."""
        if unknown := {label for label in y if label is not None} - set(CLASSES):
            raise ValidationException(f"Complexity is simple, medium or complex, not {sorted(unknown)[0]!r}.")
        known = [(request, label) for request, label in zip(X, y, strict=True) if label is not None]
        if not known:
            raise ValidationException("No request with a known outcome was given; there is nothing to learn.")
        outcomes = np.array([[float(label == name) for name in CLASSES] for _, label in known])
        self.classes_ = CLASSES
        self.heads_ = OutcomeHeads(
            methods=self.methods,
            trees=self.trees,
            most_texts=self.most_texts,
            use_history=True,
            contrasts=None,
            seed=self.seed,
        ).fit([request for request, _ in known], outcomes)
        return self

    def predict_proba(self, X: Sequence[Request]) -> FloatArray:
        """The probability of each class, shape (n, 3); rows sum to one."""
        if not hasattr(self, "heads_"):
            raise ValidationException("The model of complexity has learned nothing yet; call fit first.")
        likely = self.heads_.probabilities(X)
        return likely / likely.sum(axis=1, keepdims=True)

    def predict(self, X: Sequence[Request]) -> list[str]:
        """The most probable class of each request."""
        return [CLASSES[column] for column in self.predict_proba(X).argmax(axis=1)]
