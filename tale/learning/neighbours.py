"""Earlier requests that are nearly the same as a new one, and what came of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tale.learning.encoding import Encoded
from tale.learning.features import FloatArray

NEAR: Final = 0.8  # cosine of words from which two texts count as nearly the same
CANDIDATE: Final = 0.9  # cosine of dense vectors, which are compared first; alone they take one subject for one text
MOST_CANDIDATES: Final = 8
NEAR_WEIGHTS: Final = (0.0, 0.05, 0.2, 0.5, 1.0)
UNTRIED_WEIGHT: Final = 0.2  # where too few texts have neighbours to tell
LEAST_TRIED, MOST_TRIED = 20, 2_000  # texts
AT_ONCE: Final = 250  # of them compared with all others


def same_text_key(text: str) -> str:
    """What texts share that differ in blanks and capitals only.

    >>> same_text_key("  Say  Hello") == same_text_key("say hello")
    True
    """
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class Evidence:
    """What is known of texts like some new ones, a row each: the answers it counts for, and how they turned out.

    `answers` (n,) and `surprises` (n, targets): the mean by which answers differed from what the texts had suggested;
    `same` (n,) is the row of the very same text in the history, or -1.
    """

    answers: FloatArray
    surprises: FloatArray
    same: NDArray[np.int64]


class History:
    """Distinct texts as they were encoded, and by how much their answers (n,) differed from what was expected.

    `surprises` (n, targets) are those about predictions that had not seen the text. An answer to a text that is only
    like the asked one counts for `near_weight_` of an answer to the same: what foretells the texts of the history best
    from their neighbours, each left out in turn, where `half_sure` answers to a text tell half of what there is.
    """

    def __init__(
        self, keys: Sequence[str], encoded: Encoded, *, surprises: FloatArray, answers: FloatArray, half_sure: float
    ) -> None:
        self.rows_ = {key: row for row, key in enumerate(keys)}
        self.vectors_ = encoded.vectors
        self.words_ = encoded.words
        self.surprises_ = surprises
        self.answers_ = answers
        self.near_weight_ = 1.0
        self.near_weight_ = self._best_near_weight(encoded, half_sure)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "rows_": json.dumps(list(self.rows_))}  # as with the terms of a lexicon

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows = {key: row for row, key in enumerate(json.loads(state["rows_"]))}
        self.__dict__.update(state, rows_=rows)

    def evidence(self, keys: Sequence[str], encoded: Encoded) -> Evidence:
        """What the history tells of texts with these keys."""
        same = np.array([self.rows_.get(key, -1) for key in keys], dtype=np.int64)
        answers = np.where(same >= 0, self.answers_[same], 0.0) if len(self.answers_) else np.zeros(len(keys))
        surprises = np.where((same >= 0)[:, None], self.surprises_[same], 0.0)
        if self.near_weight_ > 0:
            for row in np.flatnonzero(same < 0):
                cosines = self.vectors_ @ encoded.vectors[row]
                answers[row], surprises[row] = self._of_neighbours(encoded, int(row), cosines)
        return Evidence(answers, surprises, same)

    def _of_neighbours(self, encoded: Encoded, row: int, cosines: NDArray[np.float32]) -> tuple[float, FloatArray]:
        """Answers and mean surprise of the texts nearest to one, whose cosines to all of the history's are given."""
        nothing = 0.0, np.zeros(self.surprises_.shape[1])
        near = np.flatnonzero(cosines >= CANDIDATE)
        if not len(near):
            return nothing
        if len(near) > MOST_CANDIDATES:
            near = near[np.argpartition(-cosines[near], MOST_CANDIDATES)[:MOST_CANDIDATES]]
        shared = np.asarray((self.words_[near] @ encoded.words[row].T).toarray(), dtype=np.float64)[:, 0]
        weights = np.clip((shared - NEAR) / (1 - NEAR), 0.0, 1.0) * self.answers_[near] * self.near_weight_
        total = float(weights.sum())
        return (total, weights @ self.surprises_[near] / total) if total > 0 else nothing

    def _best_near_weight(self, encoded: Encoded, half_sure: float) -> float:
        """One of NEAR_WEIGHTS, by the squared error of what neighbours foretell of the history's own texts."""
        found: list[tuple[int, float, FloatArray]] = []
        for begin in range(0, min(len(self.answers_), MOST_TRIED), AT_ONCE):
            rows = range(begin, min(begin + AT_ONCE, len(self.answers_), MOST_TRIED))
            cosines = self.vectors_[rows.start : rows.stop] @ self.vectors_.T
            cosines[np.arange(len(rows)), rows] = 0.0  # to themselves
            found += [(row, *self._of_neighbours(encoded, row, cosines[row - begin])) for row in rows]
        known = [(row, answers, surprise) for row, answers, surprise in found if answers > 0]
        if len(known) < LEAST_TRIED:
            return UNTRIED_WEIGHT
        truth = self.surprises_[[row for row, _, _ in known]]
        answers = np.array([answers for _, answers, _ in known])[:, None]
        foretold = np.array([surprise for _, _, surprise in known])
        own = self.answers_[[row for row, _, _ in known]][:, None]
        errors = [
            float((own * (truth - answers * each / (answers * each + half_sure) * foretold) ** 2).sum())
            for each in NEAR_WEIGHTS
        ]
        return NEAR_WEIGHTS[int(np.argmin(errors))]
