"""Learns from labelled messages what a message asks for, and tells it with its probability and its reasons."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse as untyped
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GroupKFold
from sklearn.svm import LinearSVC

from tale.learning import intent_actions
from tale.learning.intent_actions import Actions
from tale.learning.intent_data import LABELS
from tale.learning.intent_encoder import VIEWS, WIDTH, Encoder, Vectors, vectors_of
from tale.learning.intent_likeness import Likeness, learned
from tale.learning.intent_reasons import reasons_of
from tale.learning.intent_shares import fitted_sharpness, log_shares
from tale.learning.intent_text import streams_of
from tale.learning.intent_words import Meanings
from tale.learning.terms import Terms
from tale.records import Action, Detection, Intent

C: Final = 0.3
FOLDS: Final = 3  # of the messages whose margins set the temperature
BETWEEN_BLANKS: Final[dict[str, Any]] = {"token_pattern": r"\S+", "lowercase": False, "sublinear_tf": True}
VECTORIZERS: Final[dict[str, dict[str, Any]]] = {
    "words": {**BETWEEN_BLANKS, "ngram_range": (1, 2), "min_df": 2},
    "letters": {"analyzer": "char_wb", "ngram_range": (2, 5), "sublinear_tf": True, "min_df": 3},
    "meanings": {**BETWEEN_BLANKS, "ngram_range": (1, 4), "min_df": 2},
    "shape": {**BETWEEN_BLANKS, "ngram_range": (1, 2), "min_df": 2},
}

Floats = npt.NDArray[np.float64]
Folds = Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
sparse: Any = untyped  # its functions have no types


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one kind of features as the vectorizer does that learned them, whose checks of input take ten times longer.

    The terms stand among the features of all readers from `first` on.
    """

    split: Callable[[str], list[str]]
    terms: Terms
    rarities: Floats
    first: int

    def read(self, text: str) -> tuple[list[int], list[float]]:
        """The places of the terms in a text, and how much each weighs; the weights have the length 1."""
        counts = Counter(self.split(text))
        places = self.terms.places_of(list(counts))
        found = [(place, count) for place, count in zip(places, counts.values(), strict=True) if place is not None]
        weights = [(1 + math.log(count)) * float(self.rarities[place]) for place, count in found]
        length = math.sqrt(sum(weight * weight for weight in weights)) or 1.0
        return [self.first + place for place, _ in found], [weight / length for weight in weights]


@dataclass(frozen=True, slots=True)
class IntentModel:
    """Linear margins over weighed words, letters and meanings, made probabilities by one temperature.

    Where there is an encoder, margins by likeness to learned messages are added to them. `actions` tells what control
    messages order; None where it could not be learned.

    `readers` are those of each kind of features; `weights` has the shape (labels, features), `offsets` (labels,).
    `sharpness` is the inverse of the temperature.
    """

    meanings: Meanings
    weights: npt.NDArray[np.float32]
    offsets: Floats
    sharpness: float
    readers: dict[str, Reader]
    encoder: Encoder | None = None
    likeness: Likeness | None = None
    actions: Actions | None = None

    @classmethod
    def of(
        cls,
        meanings: Meanings,
        terms: dict[str, list[str]],
        rarities: dict[str, Floats],
        *,
        weights: Floats,
        offsets: Floats,
        sharpness: float,
        encoder: Encoder | None = None,
        likeness: Likeness | None = None,
        actions: Actions | None = None,
    ) -> "IntentModel":
        """The model of what was learned; raises ValueError for weights that do not fit the terms."""
        readers: dict[str, Reader] = {}
        count = 0
        for name, given in VECTORIZERS.items():
            vectorizer: Any = TfidfVectorizer(**given)
            readers[name] = Reader(vectorizer.build_analyzer(), Terms(terms[name]), rarities[name], count)
            count += len(terms[name])
        if weights.shape != (len(LABELS), count):
            raise ValueError("the weights do not fit the terms")
        parts = (readers, encoder, likeness, actions)
        return cls(meanings, weights.astype(np.float32, copy=False), offsets, sharpness, *parts)

    @classmethod
    def trained(
        cls,
        texts: Sequence[str],
        labels: Sequence[Intent],
        *,
        groups: Sequence[str],
        meanings: Meanings,
        counts: Sequence[float] | None = None,
        actions: Sequence[Action | None] = (),
        encoder: Encoder | None = None,
    ) -> "IntentModel":
        """Learn from messages, their labels, and how much each counts (alike, if not told); groups stay together.

        `actions` are those of the first messages, of control messages alone.
        """
        vectorizers: dict[str, Any] = {name: TfidfVectorizer(**given) for name, given in VECTORIZERS.items()}
        streams = [streams_of(text, meanings) for text in texts]
        columns = [each.fit_transform([stream[name] for stream in streams]) for name, each in vectorizers.items()]
        features = sparse.hstack(columns, format="csr")
        wanted = np.array([LABELS.index(label) for label in labels])
        weighed = np.ones(len(texts)) if counts is None else np.array(counts)
        folds = list(GroupKFold(FOLDS).split(features, wanted, groups))
        margins = _unseen_margins(features, wanted, weighed, folds)
        likeness, vectors = None, None
        if encoder is not None:
            vectors = vectors_of(texts, encoder)
            likeness, alike = learned(vectors, wanted, weighed, labels=len(LABELS), groups=groups, folds=folds)
            margins += alike
        weights, offsets = _separated(features, wanted, weighed)
        return cls.of(
            meanings,
            {name: each.get_feature_names_out().tolist() for name, each in vectorizers.items()},
            {name: each.idf_ for name, each in vectorizers.items()},
            weights=weights,
            offsets=offsets,
            sharpness=fitted_sharpness(margins, wanted),
            encoder=encoder,
            likeness=likeness,
            actions=intent_actions.learned(features, vectors, actions, groups),
        )

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """The probability of each label, in the order of LABELS: shape (messages, labels)."""
        margins = np.array([self._parts(text)[2].sum(axis=1) for text in texts]) + self.offsets
        return np.exp(log_shares(self.sharpness * (margins + self._alike(self._vectors(texts), len(texts)))))

    def detect(self, text: str) -> Detection:
        """What a message asks for and, of a control message, what it orders."""
        places, values, parts = self._parts(text)
        vectors = self._vectors([text])
        row = np.exp(log_shares(self.sharpness * (parts.sum(axis=1) + self.offsets + self._alike(vectors, 1))))[0]
        best = int(row.argmax())
        told = {label: round(float(share), 4) for label, share in zip(LABELS, row, strict=True)}
        # What spoke for the label more than it did for the others.
        spoken = parts[best] - (parts.sum(axis=0) - parts[best]) / (len(LABELS) - 1)
        telling = self.readers["meanings"].first  # what stands before, words and letters as they are, is no reason
        named = ((*self._feature(at), float(part)) for at, part in zip(places, spoken, strict=True) if at >= telling)
        reasons, action, sure = reasons_of(named, self.meanings.reasons), None, None
        if LABELS[best] == "control" and self.actions:
            action, sure = self.actions.told(places, values, vectors)
        return Detection(LABELS[best], told[LABELS[best]], reasons, "model", told, action, sure and round(sure, 4))

    def action_of(self, text: str) -> tuple[Action, float] | None:
        """What a control message orders, and its probability; None where that was not learned."""
        places, values, _ = self._parts(text)
        return None if self.actions is None else self.actions.told(places, values, self._vectors([text]))

    def to_parts(self) -> dict[str, Any]:
        """What was learned, in numbers and texts alone, so that it can be stored."""
        return {
            "terms": {name: "\n".join(reader.terms) for name, reader in self.readers.items()},
            "rarities": {name: reader.rarities for name, reader in self.readers.items()},
            "weights": self.weights,
            "offsets": self.offsets,
            "sharpness": self.sharpness,
            "likeness": self.likeness and self.likeness.to_parts(),
            "actions": self.actions and self.actions.to_parts(),
        }

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], meanings: Meanings, encoder: Encoder | None = None) -> "IntentModel":
        """The inverse of `to_parts`; raises KeyError or ValueError for parts that do not fit together."""
        actions = parts["actions"]
        return cls.of(
            meanings,
            {name: terms.split("\n") for name, terms in parts["terms"].items()},
            parts["rarities"],
            weights=parts["weights"],
            offsets=parts["offsets"],
            sharpness=parts["sharpness"],
            encoder=encoder,
            likeness=Likeness.from_parts(parts["likeness"]) if encoder else None,
            actions=actions and Actions.from_parts(actions, len(VIEWS) * WIDTH if encoder else 0),
        )

    def _feature(self, place: int) -> tuple[str, str]:
        """The kind and the term of a feature."""
        name, reader = next((name, each) for name, each in reversed(self.readers.items()) if each.first <= place)
        return name, reader.terms[place - reader.first]

    def _vectors(self, texts: Sequence[str]) -> Vectors | None:
        return None if self.encoder is None else vectors_of(texts, self.encoder)

    def _alike(self, vectors: Vectors | None, count: int) -> Floats:
        """What likeness to learned messages adds to the margins: shape (messages, labels)."""
        if vectors is None or self.likeness is None:
            return np.zeros((count, len(LABELS)))
        return self.likeness.margins(vectors)

    def _parts(self, text: str) -> tuple[list[int], list[float], Floats]:
        """The features of a message, their weights in it, and what each adds to the margin of each label: shape
        (labels, features)."""
        streams = streams_of(text, self.meanings)
        places: list[int] = []
        values: list[float] = []
        for name, reader in self.readers.items():
            found = reader.read(streams[name])
            places += found[0]
            values += found[1]
        return places, values, self.weights[:, places].astype(np.float64) * np.array(values)


def _unseen_margins(features: Any, wanted: npt.NDArray[np.int64], counts: Floats, folds: Folds) -> Floats:
    """The margins of each message by weights that were learned from the other folds: shape (messages, labels)."""
    margins = np.zeros((len(wanted), len(LABELS)))
    for kept, left in folds:
        weights, offsets = _separated(features[kept], wanted[kept], counts[kept])
        margins[left] = features[left] @ weights.T + offsets
    return margins


def _separated(features: Any, wanted: npt.NDArray[np.int64], counts: Floats) -> tuple[Floats, Floats]:
    """Weights and offsets by which each label is told from all others."""
    linear: Any = LinearSVC(C=C, random_state=0).fit(features, wanted, sample_weight=counts)
    return linear.coef_, linear.intercept_
