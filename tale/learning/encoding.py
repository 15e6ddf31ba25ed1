"""Turns requests into the numbers that are learned from: features, words, dense vectors, embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tale.learning.features import FloatArray, Request, features_of
from tale.learning.lexical import Lexicon, Sparse

MOST_DEVIATIONS: Final = 5.0  # a feature further off its mean tells no more


@dataclass(frozen=True)
class Encoded:
    """Requests as numbers: features (n, f), words (n, terms), dense vectors (n, width), embeddings (n, e or 0)."""

    features: FloatArray
    words: Sparse
    vectors: NDArray[np.float32]
    embeddings: FloatArray

    def __len__(self) -> int:
        return len(self.features)

    def taken(self, rows: NDArray[np.int64]) -> "Encoded":
        """The same of some rows."""
        return Encoded(self.features[rows], self.words[rows], self.vectors[rows], self.embeddings[rows])

    @property
    def table(self) -> FloatArray:
        """All that is dense, side by side."""
        return np.hstack([self.features, self.vectors.astype(np.float64), self.embeddings])


class Encoder:
    """Turns requests into numbers; features are standardised by those it was fitted on."""

    def fit(self, requests: Sequence[Request], *, seed: int = 0) -> Encoded:
        """Learn words and scales from the requests; returns them encoded."""
        self.lexicon_ = Lexicon()
        words = self.lexicon_.fit([request.text for request in requests], seed=seed)
        features = features_of(requests)
        self.means_: FloatArray = features.mean(axis=0)
        deviations = features.std(axis=0)
        self.scales_: FloatArray = np.where(deviations > 0, deviations, 1.0)
        self.embedding_length_ = len(requests[0].embedding or ())
        return self._encoded(requests, features, words)

    def encode(self, requests: Sequence[Request]) -> Encoded:
        """The requests as numbers; an embedding that is missing or of another length counts as zero."""
        words = self.lexicon_.sparse([request.text for request in requests])
        return self._encoded(requests, features_of(requests), words)

    def _encoded(self, requests: Sequence[Request], features: FloatArray, words: Sparse) -> Encoded:
        standard = np.clip((features - self.means_) / self.scales_, -MOST_DEVIATIONS, MOST_DEVIATIONS)
        length = self.embedding_length_
        known = [request.embedding if len(request.embedding or ()) == length else None for request in requests]
        embeddings = np.array([each or (0.0,) * length for each in known], dtype=np.float64).reshape(len(known), length)
        return Encoded(standard, words, self.lexicon_.dense(words), embeddings)
