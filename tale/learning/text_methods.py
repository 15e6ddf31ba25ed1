"""The simple methods that predict figures of a text: trees, words, likeness, and the kind of task it seems to be."""

from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

import numpy as np
from scipy import sparse

from tale.learning.encoding import Encoded
from tale.learning.features import FloatArray
from tale.learning.forest import Forest

FEATURE_WEIGHT: Final = 0.1  # of standardised features beside vectors of words of unit length
KERNEL_WIDTH: Final = 0.055  # of standardised features, where the radial basis function is exp(-d^2)
EMBEDDING_WIDTH: Final = 0.77
LANDMARKS: Final = 500
MOST_ROWS_DUAL: Final = 3_000  # up to so many rows ridge regression is solved at once for all targets
KIND_STRENGTH: Final = 8.0  # as many requests as the mean of all counts for in the mean of a kind
KIND_PENALTY: Final = 0.5
SHARPNESS: Final = 1.5  # ridge regression is less sure of membership than it might be
LEAST_MEMBERSHIP: Final = 1e-3


class Method(Protocol):
    """One way to predict targets (n, targets) from encoded requests."""

    def fit(self, encoded: Encoded, targets: FloatArray, *, weights: FloatArray) -> object: ...

    def predict(self, encoded: Encoded) -> FloatArray: ...


class TreeMethod:
    """A forest over features, dense vectors and the gist of embeddings."""

    def __init__(self, *, trees: int, smallest_leaf: int, most_rows: int, seed: int) -> None:
        self.forest = Forest(trees=trees, smallest_leaf=smallest_leaf, most_rows=most_rows, seed=seed)

    def fit(self, encoded: Encoded, targets: FloatArray, *, weights: FloatArray) -> "TreeMethod":
        """Grow the forest."""
        self.forest.fit(encoded.table, targets, weights=weights)
        return self

    def predict(self, encoded: Encoded) -> FloatArray:
        """The means of the leaves."""
        return self.forest.predict(encoded.table)


class WordMethod:
    """Ridge regression over words, and features and embeddings beside them."""

    def __init__(self, *, penalty: float) -> None:
        self.penalty = penalty

    def fit(self, encoded: Encoded, targets: FloatArray, *, weights: FloatArray) -> "WordMethod":
        """Solve for the coefficients, shape (terms + features + embeddings, targets)."""
        self.intercepts_: FloatArray = np.average(targets, axis=0, weights=weights)
        centred = targets - self.intercepts_
        dense = _beside_words(encoded)
        if len(targets) <= MOST_ROWS_DUAL:
            likeness = np.asarray((encoded.words @ encoded.words.T).toarray()) + dense @ dense.T
            dual = np.linalg.solve(likeness + np.diag(self.penalty / weights), centred)
            self.of_words_: FloatArray = np.asarray(encoded.words.T @ dual)
            self.of_dense_: FloatArray = dense.T @ dual
            return self
        from sklearn.linear_model import Ridge

        rows = cast(Any, sparse).hstack([encoded.words, dense]).tocsr()
        ridge = Ridge(self.penalty, solver="sparse_cg", tol=1e-3, fit_intercept=False)
        coefficients = np.asarray(ridge.fit(rows, centred, sample_weight=weights).coef_, dtype=np.float64)
        coefficients = coefficients.reshape(targets.shape[1], -1).T
        terms = encoded.words.shape[1]
        self.of_words_ = coefficients[:terms]
        self.of_dense_ = coefficients[terms:]
        return self

    def predict(self, encoded: Encoded) -> FloatArray:
        """What the coefficients give."""
        return np.asarray(encoded.words @ self.of_words_) + _beside_words(encoded) @ self.of_dense_ + self.intercepts_


def _beside_words(encoded: Encoded) -> FloatArray:
    return np.hstack([encoded.features * FEATURE_WEIGHT, encoded.embeddings])


class KernelMethod:
    """Ridge regression on likeness to some of the requests, by features and embeddings."""

    def __init__(self, *, penalty: float, seed: int) -> None:
        self.penalty = penalty
        self.seed = seed

    def fit(self, encoded: Encoded, targets: FloatArray, *, weights: FloatArray) -> "KernelMethod":
        """Choose landmarks and solve for the coefficients, shape (landmarks, targets)."""
        points = _points(encoded)
        chosen = np.random.default_rng(self.seed).permutation(len(points))[:LANDMARKS]
        self.landmarks_: FloatArray = points[chosen]
        among = _likeness(self.landmarks_, self.landmarks_)
        likeness = _likeness(points, self.landmarks_)
        self.means_: FloatArray = np.average(targets, axis=0, weights=weights)
        weighted = likeness * weights[:, None]
        left = weighted.T @ likeness + self.penalty * among + 1e-6 * len(points) * np.eye(len(among))
        solved = np.linalg.solve(left, weighted.T @ (targets - self.means_))
        self.coefficients_: FloatArray = np.asarray(solved, dtype=np.float64)
        return self

    def predict(self, encoded: Encoded) -> FloatArray:
        """The mean, and what likeness adds to it."""
        return self.means_ + _likeness(_points(encoded), self.landmarks_) @ self.coefficients_


def _points(encoded: Encoded) -> FloatArray:
    return np.hstack([encoded.features * KERNEL_WIDTH, encoded.embeddings * EMBEDDING_WIDTH])


def _likeness(left: FloatArray, right: FloatArray) -> FloatArray:
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :] - 2 * left @ right.T
    return np.exp(-np.maximum(squares, 0.0))


class KindMethod:
    """The means of each kind of task, by how likely the request is of that kind.

    Kinds are told apart by ridge regression on membership, which did better on few examples than discriminant analysis
    (too sure of itself) and needs no iterations.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = kinds

    def fit(self, encoded: Encoded, targets: FloatArray, *, weights: FloatArray) -> "KindMethod":
        """Learn the kinds and their means; `kinds` names that of each row."""
        self.names_, numbers = np.unique(np.array(self.kinds), return_inverse=True)
        member = np.eye(len(self.names_))[numbers]
        some = np.random.default_rng(0).permutation(len(member))[:MOST_ROWS_DUAL]
        self.membership_ = WordMethod(penalty=KIND_PENALTY).fit(
            encoded.taken(some), member[some], weights=np.ones(len(some))
        )
        weighted = member * weights[:, None]
        overall = np.average(targets, axis=0, weights=weights)
        sums = weighted.T @ targets + KIND_STRENGTH * overall
        self.means_: FloatArray = sums / (weighted.sum(axis=0)[:, None] + KIND_STRENGTH)
        self.kinds = ()
        return self

    def probabilities(self, encoded: Encoded) -> FloatArray:
        """How likely each request is of each kind, shape (n, kinds)."""
        likely = np.maximum(self.membership_.predict(encoded), LEAST_MEMBERSHIP) ** SHARPNESS
        return likely / likely.sum(axis=1, keepdims=True)

    def predict(self, encoded: Encoded) -> FloatArray:
        """The means of the kinds, weighted by their probabilities."""
        return self.probabilities(encoded) @ self.means_
