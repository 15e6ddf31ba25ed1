"""Texts as vectors of their words: weighted counts of words and pairs of words, and a short dense vector made of them.

Counts are weighted by rarity (TF-IDF, with 1 + log of the count); the dense vector is a truncated singular value
decomposition of them (latent semantic analysis, Deerwester et al. 1990), of unit length.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse as scipy_sparse
from sklearn.utils import extmath

from tale.learning.features import FloatArray, shortened, words_of

Sparse: TypeAlias = Any  # scipy.sparse.csr_matrix, whose types are unknown to checkers

MOST_TERMS: Final = 30_000
LEAST_TEXTS: Final = 2  # that a term has to be in: one that is in a single text says nothing about another
VECTOR_LENGTH: Final = 64
FAINTEST: Final = 1e-6  # of the strongest direction: what is fainter is rounding


class Lexicon:
    """The terms of some texts and what they weigh; it turns texts into vectors.

    `sparse(texts)` gives rows of unit length in float64, one column a term; `dense(sparse)` gives float32 rows of
    `width` columns, of unit length or zero where no term is known.
    """

    def __init__(self) -> None:
        self.terms_: dict[str, int] = {}
        self.rarity_: FloatArray = np.zeros(0)
        self.directions_: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "terms_": json.dumps(list(self.terms_))}  # one by one they take many times as much

    def __setstate__(self, state: dict[str, Any]) -> None:
        terms = {term: column for column, term in enumerate(json.loads(state["terms_"]))}
        self.__dict__.update(state, terms_=terms)

    @property
    def width(self) -> int:
        """How long a dense vector is."""
        return self.directions_.shape[1]

    def fit(self, texts: Sequence[str], *, seed: int = 0) -> Sparse:
        """Learn terms, weights and directions; returns the sparse vectors of the texts."""
        counted = [Counter(_terms(text)) for text in texts]
        found = Counter(term for terms in counted for term in terms)
        kept = [term for term, texts_with in found.most_common(MOST_TERMS) if texts_with >= LEAST_TEXTS]
        self.terms_ = {term: column for column, term in enumerate(kept)}
        self.rarity_ = np.array([1 + math.log((1 + len(texts)) / (1 + found[term])) for term in kept])
        vectors = self._vectors(counted)
        width = min(VECTOR_LENGTH, min(vectors.shape) - 1)
        if width < 1:
            self.directions_ = np.zeros((len(kept), 0), dtype=np.float32)
            return vectors
        found = cast(Any, extmath).randomized_svd(vectors, width, n_iter=4, random_state=seed)
        strengths, directions = (np.asarray(part, dtype=np.float64) for part in found[1:])
        kept_directions = directions[strengths > FAINTEST * strengths[0]]
        self.directions_ = np.ascontiguousarray(kept_directions.T, dtype=np.float32)
        return vectors

    def sparse(self, texts: Sequence[str]) -> Sparse:
        """The weighted counts of each text, shape (texts, terms)."""
        return self._vectors([Counter(_terms(text)) for text in texts])

    def dense(self, sparse: Sparse) -> NDArray[np.float32]:
        """The short vectors of sparse ones, shape (texts, width)."""
        single = sparse.astype(np.float32)  # beside float64, all directions would be turned into float64 at each call
        vectors = np.asarray(single @ self.directions_, dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)

    def _vectors(self, counted: Sequence[Counter[str]]) -> Sparse:
        columns: list[int] = []
        weights: list[float] = []
        ends = [0]
        for terms in counted:
            known = [(self.terms_[term], count) for term, count in terms.items() if term in self.terms_]
            row = [(1 + math.log(count)) * float(self.rarity_[column]) for column, count in known]
            length = math.sqrt(sum(weight * weight for weight in row)) or 1.0
            columns += [column for column, _ in known]
            weights += [weight / length for weight in row]
            ends.append(len(columns))
        return scipy_sparse.csr_matrix(
            (weights, columns, ends), shape=(len(counted), len(self.terms_)), dtype=np.float64
        )


def _terms(text: str) -> Iterator[str]:
    words = words_of(shortened(text))
    yield from words
    yield from map(" ".join, pairwise(words))
