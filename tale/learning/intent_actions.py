"""Learns from control messages what they order: to stop, to wait, to go on, to do it again, another model, a wish."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse as untyped
from sklearn.model_selection import GroupKFold
from sklearn.svm import LinearSVC

from tale.learning.intent_data import ACTIONS
from tale.learning.intent_encoder import Vectors
from tale.learning.intent_shares import fitted_sharpness, log_shares
from tale.records import Action

C: Final = 0.3
FOLDS: Final = 3  # of the messages whose margins set the temperature
LEAST_MESSAGES: Final = 100  # from which anything can be learned

Floats = npt.NDArray[np.float64]
sparse: Any = untyped  # its functions have no types


@dataclass(frozen=True, slots=True)
class Actions:
    """Linear margins over the features of a message and its vectors, made probabilities by one temperature.

    `columns` (features,) are the places of the features that control messages have, in order; `weights` has the shape
    (actions, features + values of the vectors), `offsets` (actions,).
    """

    columns: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    offsets: Floats
    sharpness: float

    def told(self, places: Sequence[int], values: Sequence[float], vectors: Vectors | None) -> tuple[Action, float]:
        """The likeliest action of a message and its probability.

        `places` are those of its features, `values` their weights, `vectors` (views, 1, WIDTH) its vectors, if actions
        were learned with vectors.
        """
        found = np.searchsorted(self.columns, places)
        known = [
            (int(place), value)
            for place, wanted, value in zip(found, places, values, strict=True)
            if place < len(self.columns) and self.columns[place] == wanted
        ]
        margins = self.offsets + self.weights[:, [place for place, _ in known]] @ [value for _, value in known]
        if vectors is not None:
            margins += self.weights[:, len(self.columns) :] @ vectors[:, 0].ravel()
        shares = np.exp(log_shares(self.sharpness * margins[np.newaxis]))[0]
        best = int(shares.argmax())
        return ACTIONS[best], float(shares[best])

    def to_parts(self) -> dict[str, Any]:
        """What was learned as arrays and numbers, so that it can be stored."""
        return {name: getattr(self, name) for name in Actions.__slots__}

    @classmethod
    def from_parts(cls, parts: dict[str, Any], vector_values: int) -> "Actions":
        """The inverse of `to_parts`; raises KeyError or ValueError for parts that do not fit together."""
        made = cls(**{name: parts[name] for name in Actions.__slots__})
        if made.weights.shape != (len(ACTIONS), len(made.columns) + vector_values):
            raise ValueError("the weights of the actions do not fit the features")
        return made


def learned(
    features: Any, vectors: Vectors | None, actions: Sequence[Action | None], groups: Sequence[str]
) -> Actions | None:
    """What the messages that have an action teach; None where they are too few.

    `features` is a sparse matrix (messages, features), `vectors` (views, messages, WIDTH); groups stay together.
    """
    rows = [row for row, action in enumerate(actions) if action is not None]
    wanted = np.array([ACTIONS.index(action) for action in actions if action is not None])
    if len(rows) < LEAST_MESSAGES or len(set(wanted)) < len(ACTIONS):
        return None
    own = features[rows].tocsc()
    columns = np.flatnonzero(np.diff(own.indptr)).astype(np.int32)
    given = [own[:, columns]]
    if vectors is not None:
        given.append(sparse.csr_matrix(np.hstack(list(vectors[:, rows]))))
    given = sparse.hstack(given, format="csr")
    margins = np.zeros((len(rows), len(ACTIONS)))
    for kept, left in GroupKFold(FOLDS).split(margins, wanted, [groups[row] for row in rows]):
        weights, offsets = _separated(given[kept], wanted[kept])
        margins[left] = given[left] @ weights.T + offsets
    weights, offsets = _separated(given, wanted)
    return Actions(columns, weights.astype(np.float32), offsets, fitted_sharpness(margins, wanted))


def _separated(given: Any, wanted: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Weights and offsets by which each action is told from all others; what a fold lacks is told of no message."""
    linear: Any = LinearSVC(C=C, random_state=0).fit(given, wanted)
    weights, offsets = np.zeros((len(ACTIONS), given.shape[1])), np.full(len(ACTIONS), -1.0)
    weights[linear.classes_], offsets[linear.classes_] = linear.coef_, linear.intercept_
    return weights, offsets
