"""Turns requests into the numbers that are learned from: features, words, dense vectors, embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse as scipy_sparse

from tale.learning.features import FloatArray, Request, features_of
from tale.learning.lexical import Lexicon, Sparse

MOST_DEVIATIONS: Final = 5.0  # a feature further off its mean tells no more
GIST_LENGTH: Final = 32  # directions of embeddings that trees see; of all values they grow no better
MOST_KEPT: Final = 8  # requests that are kept as they were encoded: several models are asked about the same few


@dataclass(frozen=True)
class Encoded:
    """Requests as numbers: features (n, f), words (n, terms), dense vectors (n, width), embeddings (n, e or 0).

    Embeddings are told from their mean; `gist` (n, up to 32) are their strongest directions.
    """

    features: FloatArray
    words: Sparse
    vectors: NDArray[np.float32]
    embeddings: FloatArray
    gist: FloatArray

    def __len__(self) -> int:
        return len(self.features)

    def taken(self, rows: NDArray[np.int64]) -> "Encoded":
        """The same of some rows."""
        dense = self.vectors[rows], self.embeddings[rows], self.gist[rows]
        return Encoded(self.features[rows], self.words[rows], *dense)

    def followed_by(self, other: "Encoded") -> "Encoded":
        """These requests, and then the others."""
        return Encoded(
            np.concatenate([self.features, other.features]),
            scipy_sparse.vstack([self.words, other.words], format="csr"),
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.embeddings, other.embeddings]),
            np.concatenate([self.gist, other.gist]),
        )

    @property
    def table(self) -> FloatArray:
        """What is dense and short, side by side."""
        return np.hstack([self.features, self.vectors.astype(np.float64), self.gist])


class Encoder:
    """Turns requests into numbers; features are standardised by those it was fitted on.

    It may serve several models: what it was asked last is not worked out twice.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[Request, ...], Encoded] | None = None
        self._fitted: tuple[dict[tuple[object, ...], int], Encoded] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None, "_fitted": None}

    def fit(self, requests: Sequence[Request], *, seed: int = 0) -> Encoded:
        """Learn words and scales from the requests; returns them encoded."""
        self._last = None
        self.lexicon_ = Lexicon()
        words = self.lexicon_.fit([request.text for request in requests], seed=seed)
        features = features_of(requests)
        self.means_: FloatArray = features.mean(axis=0)
        deviations = features.std(axis=0)
        self.scales_: FloatArray = np.where(deviations > 0, deviations, 1.0)
        self._fit_embeddings(requests)
        encoded = self._encoded(requests, features, words)
        self._fitted = {_read_of(request): row for row, request in enumerate(requests)}, encoded
        return encoded

    def encode(self, requests: Sequence[Request]) -> Encoded:
        """The requests as numbers; an embedding that is missing or of another length counts as the mean of all."""
        asked, last = tuple(requests), self._last
        if last is not None and last[0] == asked:
            return last[1]
        words = self.lexicon_.sparse([request.text for request in requests])
        encoded = self._encoded(requests, features_of(requests), words)
        self._last = (asked, encoded) if len(asked) <= MOST_KEPT else None
        return encoded

    def encode_again(self, requests: Sequence[Request]) -> Encoded:
        """As `encode`; those that it was fitted on in this process are not worked out twice."""
        if self._fitted is None:
            return self.encode(requests)
        row_of, encoded = self._fitted
        rows = {request: row_of.get(_read_of(request)) for request in requests}
        new = [request for request, row in rows.items() if row is None]
        rows.update((request, len(encoded) + number) for number, request in enumerate(new))
        if new:
            encoded = encoded.followed_by(self.encode(new))
        return encoded.taken(np.array([rows[request] for request in requests], dtype=np.int64))

    def _encoded(self, requests: Sequence[Request], features: FloatArray, words: Sparse) -> Encoded:
        standard = np.clip((features - self.means_) / self.scales_, -MOST_DEVIATIONS, MOST_DEVIATIONS)
        embeddings = self._embeddings(requests)
        return Encoded(standard, words, self.lexicon_.dense(words), embeddings, embeddings @ self.gist_directions_)

    def _fit_embeddings(self, requests: Sequence[Request]) -> None:
        """Learn the mean of the embeddings and their strongest directions, which are none where there are none."""
        self.embedding_mean_: FloatArray = np.zeros(len(requests[0].embedding or ()))
        embeddings = self._embeddings(requests)
        self.embedding_mean_ = embeddings.mean(axis=0)
        centred = embeddings - self.embedding_mean_
        _, directions = np.linalg.eigh(centred.T @ centred)  # the strongest last
        self.gist_directions_: FloatArray = np.ascontiguousarray(directions[:, -GIST_LENGTH:])

    def _embeddings(self, requests: Sequence[Request]) -> FloatArray:
        mean = self.embedding_mean_
        told = [request.embedding if len(request.embedding or ()) == len(mean) else None for request in requests]
        return np.array([mean if each is None else each for each in told]).reshape(len(told), len(mean)) - mean


def _read_of(request: Request) -> tuple[object, ...]:
    """What is read of a request: nothing depends on who is asked."""
    return request.text, request.conversation, request.embedding
