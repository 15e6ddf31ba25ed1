"""Tells labels by likeness to learned messages: ridge regression on a kernel over vectors of messages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tale.learning.intent_encoder import VIEWS, WIDTH, Vectors

LANDMARKS: Final = 2_000
PENALTY: Final = 0.1
STEADINESS: Final = 1e-6  # of the mean of the diagonal, added to it
SEED: Final = 0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Likeness:
    """What was learned: `landmarks` (views, landmarks, WIDTH), and `coefficients` (landmarks, labels)."""

    landmarks: Vectors
    coefficients: Floats

    def margins(self, vectors: Vectors) -> Floats:
        """How much speaks for each label, about -1 to 1: shape (messages, labels)."""
        margins: Floats = likeness_of(vectors, self.landmarks) @ self.coefficients
        return margins

    def to_parts(self) -> dict[str, Any]:
        """What was learned as arrays, so that it can be stored."""
        return {"landmarks": self.landmarks.astype(np.float16), "coefficients": self.coefficients}

    @classmethod
    def from_parts(cls, parts: dict[str, Any]) -> "Likeness":
        """The inverse of `to_parts`; raises KeyError or ValueError for parts that do not fit together."""
        landmarks: Vectors = parts["landmarks"].astype(np.float32)
        coefficients: Floats = parts["coefficients"]
        if landmarks.shape != (len(VIEWS), len(coefficients), WIDTH):
            raise ValueError("the landmarks do not fit the coefficients")
        return cls(landmarks, coefficients)


def likeness_of(vectors: Vectors, landmarks: Vectors) -> Vectors:
    """Likeness between 0 and 1, by a Gaussian kernel on each view: shape (messages, landmarks)."""
    total = np.zeros((vectors.shape[1], landmarks.shape[1]), dtype=np.float32)
    for view, weight in enumerate(VIEWS.values()):
        near = vectors[view] @ landmarks[view].T  # changed in place: there are many millions of them
        near -= 1.0
        near *= 2.0
        np.exp(near, out=near)
        near *= weight
        total += near
    return total


def learned(
    vectors: Vectors,
    wanted: npt.NDArray[np.int64],
    counts: Floats,
    *,
    labels: int,
    groups: Sequence[str],
    folds: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
) -> tuple[Likeness, Floats]:
    """What all messages teach, and the margins of each message by a model that learned from the other folds.

    `vectors` is (views, messages, WIDTH). Landmarks are drawn from the messages (Nyström method, Williams and Seeger
    2001): those that count most before all others, and one of each group before a second. `folds` has the messages to
    learn from and those to judge.
    """
    order = np.random.default_rng(SEED).permutation(len(wanted))
    repeated = np.ones(len(order), dtype=np.bool_)
    repeated[np.unique(np.array(groups)[order], return_index=True)[1]] = False
    chosen = order[np.lexsort((repeated, -counts[order]))][:LANDMARKS]
    # Landmarks are rounded as they are stored, so that a model is the same when it is read back.
    landmarks = vectors[:, chosen].astype(np.float16).astype(np.float32)
    among = PENALTY * likeness_of(landmarks, landmarks).astype(np.float64)
    rows = likeness_of(vectors, landmarks)
    targets = np.where(np.eye(labels)[wanted] > 0, 1.0, -1.0)
    margins = np.zeros((len(wanted), labels))
    left, right = _sums(rows, targets, counts)
    for _, judged in folds:
        part_left, part_right = _sums(rows[judged], targets[judged], counts[judged])
        margins[judged] = rows[judged] @ _solved(left - part_left, right - part_right, among)
    return Likeness(landmarks, _solved(left, right, among)), margins


def _sums(rows: Vectors, targets: Floats, counts: Floats) -> tuple[Floats, Floats]:
    weighed = (rows * np.sqrt(counts)[:, np.newaxis]).astype(np.float32)
    left: Floats = (weighed.T @ weighed).astype(np.float64)
    return left, rows.T @ (targets * counts[:, np.newaxis])


def _solved(left: Floats, right: Floats, among: Floats) -> Floats:
    steady = left + among
    steady[np.diag_indices_from(steady)] += STEADINESS * left.trace() / len(left)
    solved: Floats = np.linalg.solve(steady, right).astype(np.float64)
    return solved
