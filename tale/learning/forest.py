"""A forest of extremely randomised trees as plain arrays, which predicts one row in a fraction of a millisecond.

scikit-learn grows the trees (Geurts et al. 2006); its own predict() takes 10 to 20 ms for a single row, as it walks
through the trees one by one in Python.
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tale.learning.features import FloatArray

ROWS_AT_A_TIME = 2_000  # keeps the table of (rows, trees) small


class Forest:
    """Predicts the mean of each target; `fit` takes rows (n, features), targets (n, targets) and weights (n,)."""

    def __init__(self, *, trees: int = 150, smallest_leaf: int = 3, most_rows: int = 5_000, seed: int = 0) -> None:
        self.trees = trees
        self.smallest_leaf = smallest_leaf
        self.most_rows = most_rows
        self.seed = seed

    def fit(self, rows: FloatArray, targets: FloatArray, *, weights: FloatArray) -> "Forest":
        """Grow the trees; of many rows each tree sees a random part, as more brought nothing measurable."""
        from sklearn.ensemble import ExtraTreesRegressor

        many = len(rows) > self.most_rows
        forest = ExtraTreesRegressor(
            self.trees,
            min_samples_leaf=self.smallest_leaf,
            max_features=0.2,
            bootstrap=many,
            max_samples=self.most_rows if many else None,
            random_state=self.seed,
        )
        forest.fit(rows, targets if targets.shape[1] > 1 else targets[:, 0], sample_weight=weights)
        trees: list[Any] = [tree.tree_ for tree in cast(Any, forest).estimators_]
        starts = np.cumsum([0, *(tree.node_count for tree in trees)])[:-1]
        self.roots_: NDArray[np.int64] = starts.astype(np.int64)
        self.features_: NDArray[np.int64] = np.concatenate([tree.feature for tree in trees]).astype(np.int64)
        self.thresholds_: FloatArray = np.concatenate([tree.threshold for tree in trees])
        own = np.arange(len(self.features_))  # a leaf leads to itself, so that all rows can go on for as long as any
        left = np.concatenate([tree.children_left + start for tree, start in zip(trees, starts, strict=True)])
        right = np.concatenate([tree.children_right + start for tree, start in zip(trees, starts, strict=True)])
        leaf = self.features_ < 0
        self.children_: NDArray[np.int64] = np.stack([np.where(leaf, own, left), np.where(leaf, own, right)], axis=1)
        self.features_[leaf] = 0
        self.depth_: int = max(int(tree.max_depth) for tree in trees)
        self.values_: FloatArray = np.concatenate([tree.value[:, :, 0] for tree in trees])
        return self

    def predict(self, rows: FloatArray) -> FloatArray:
        """The means, shape (n, targets)."""
        rows = rows.astype(np.float32).astype(np.float64)  # as scikit-learn compares them
        parts = [self._means(rows[at : at + ROWS_AT_A_TIME]) for at in range(0, len(rows), ROWS_AT_A_TIME)]
        return np.concatenate(parts) if parts else np.zeros((0, self.values_.shape[1]))

    def _means(self, rows: FloatArray) -> FloatArray:
        nodes = np.repeat(self.roots_[None, :], len(rows), axis=0)
        at = np.arange(len(rows))[:, None]
        for _ in range(self.depth_):
            goes_right = rows[at, self.features_[nodes]] > self.thresholds_[nodes]
            nodes = self.children_[nodes, goes_right.astype(np.int64)]
        return self.values_[nodes].mean(axis=1)
