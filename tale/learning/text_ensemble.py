"""Several simple methods as one: each weighs what it brings on texts that it has not seen (stacking, Wolpert 1992)."""

from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
from scipy import optimize

from tale.learning.encoding import Encoded
from tale.learning.features import FloatArray
from tale.learning.text_methods import KernelMethod, KindMethod, Method, TreeMethod, WordMethod

MOST_ROWS, DRAFT_ROWS = 5_000, 2_500  # that a tree sees
EVENNESS: Final = 0.02  # share of the targets' spread with which equal weights hold out against what the data say


class TextEnsemble:
    """Predicts targets (n, targets) from encoded requests.

    Methods are chosen by name: "trees", "words", "kernel", "kinds" (used where kinds are told). `contrasts` (targets,
    m) names what the weights are to serve: for two success heads their difference; None is each target by itself.
    After `fit`, `unseen_` (n, targets) holds predictions for the same rows by models that had not seen them.
    """

    def __init__(
        self,
        *,
        methods: Sequence[str] = ("trees", "words", "kernel", "kinds"),
        trees: int = 150,
        smallest_leaf: int = 3,
        word_penalty: float = 2.0,
        kernel_penalty: float = 0.5,
        folds: int = 5,
        contrasts: FloatArray | None = None,
        seed: int = 0,
    ) -> None:
        self.methods = methods
        self.trees = trees
        self.smallest_leaf = smallest_leaf
        self.word_penalty = word_penalty
        self.kernel_penalty = kernel_penalty
        self.folds = folds
        self.contrasts = contrasts
        self.seed = seed

    def fit(
        self, encoded: Encoded, targets: FloatArray, *, weights: FloatArray, kinds: Sequence[str] | None = None
    ) -> "TextEnsemble":
        """Learn all methods and their weights. With fewer than `folds` rows, or no method, it knows the mean alone."""
        self.means_: FloatArray = np.average(targets, axis=0, weights=weights)
        self.fitted_: list[Method] = []
        self.shares_: FloatArray = np.zeros(0)
        self.unseen_: FloatArray = np.repeat(self.means_[None, :], len(targets), axis=0)
        usable = [name for name in self.methods if name != "kinds" or kinds is not None]
        if not usable or len(targets) < self.folds or not np.ptp(targets, axis=0).any():
            return self
        apart = self._apart(encoded, targets, weights, kinds)
        self.shares_ = self._weighed(apart - self.means_, targets - self.means_, weights)
        self.unseen_ = self._blended(apart)
        self.fitted_ = self._all_fitted(encoded, targets, weights, kinds, draft=False)
        return self

    def predict(self, encoded: Encoded) -> FloatArray:
        """What the methods say together, shape (n, targets)."""
        if not self.fitted_:
            return np.repeat(self.means_[None, :], len(encoded), axis=0)
        return self._blended(np.stack([method.predict(encoded) for method in self.fitted_]))

    def kind_method(self) -> KindMethod | None:
        """The method that tells kinds apart, where there is one."""
        return next((method for method in self.fitted_ if isinstance(method, KindMethod)), None)

    def _blended(self, predictions: FloatArray) -> FloatArray:
        return self.means_ + np.einsum("m,mnt->nt", self.shares_, predictions - self.means_)

    def _apart(
        self, encoded: Encoded, targets: FloatArray, weights: FloatArray, kinds: Sequence[str] | None
    ) -> FloatArray:
        """Predictions (methods, n, targets) of each part by models of the other parts."""
        part = np.random.default_rng(self.seed).permutation(len(targets)) % self.folds
        found: FloatArray | None = None
        for number in range(self.folds):
            rest, left_out = np.flatnonzero(part != number), np.flatnonzero(part == number)
            told = None if kinds is None else [kinds[row] for row in rest.tolist()]
            fitted = self._all_fitted(encoded.taken(rest), targets[rest], weights[rest], told, draft=True)
            seen = encoded.taken(left_out)
            if found is None:
                found = np.zeros((len(fitted), *targets.shape))
            for row, method in enumerate(fitted):
                found[row, left_out] = method.predict(seen)
        return found if found is not None else np.zeros((0, *targets.shape))

    def _all_fitted(
        self, encoded: Encoded, targets: FloatArray, weights: FloatArray, kinds: Sequence[str] | None, *, draft: bool
    ) -> list[Method]:
        # Weights and errors do not need the last per cent: for them a third of the trees does, on fewer rows.
        trees, rows = (max(self.trees // 3, 20), DRAFT_ROWS) if draft else (self.trees, MOST_ROWS)
        made: dict[str, Method] = {
            "trees": TreeMethod(trees=trees, smallest_leaf=self.smallest_leaf, most_rows=rows, seed=self.seed),
            "words": WordMethod(penalty=self.word_penalty),
            "kernel": KernelMethod(penalty=self.kernel_penalty, seed=self.seed),
        }
        if kinds is not None:
            made["kinds"] = KindMethod(kinds)
        chosen = [made[name] for name in self.methods if name in made]
        for method in chosen:
            method.fit(encoded, targets, weights=weights)
        return chosen

    def _weighed(self, predictions: FloatArray, targets: FloatArray, weights: FloatArray) -> FloatArray:
        """The weight of each method, none below zero, by least squares that lean towards equal ones."""
        contrasts = np.eye(targets.shape[1]) if self.contrasts is None else self.contrasts
        roots = np.sqrt(weights)[:, None]
        wanted = ((targets @ contrasts) * roots).ravel()
        offered = np.stack([((each @ contrasts) * roots).ravel() for each in predictions], axis=1)
        count = offered.shape[1]
        hold = np.sqrt(EVENNESS * float(wanted @ wanted)) * np.eye(count)
        found = cast(Any, optimize).nnls(np.vstack([offered, hold]), np.concatenate([wanted, hold.sum(axis=1) / count]))
        return np.asarray(found[0], dtype=np.float64)
