"""The public data that learning is measured on, as the benchmarks read it: pairs of models, answers with lengths."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tale.learning.features import Request, shortened
from tale.learning.intent_encoder import read_encoder

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Told = Callable[[Sequence[Request]], list[Request]]  # requests, and what else is known of them


class Embedded:
    """Requests with the sentence embeddings of the encoder that comes with tale; each text is read once."""

    def __init__(self) -> None:
        encoder = read_encoder()
        if encoder is None:
            raise SystemExit("The encoder of messages cannot be loaded; install tale again.")
        self._encoder = encoder
        self._known: dict[str, tuple[float, ...]] = {}

    def __call__(self, requests: Sequence[Request]) -> list[Request]:
        """The same requests with embeddings."""
        return [replace(request, embedding=self._of(request.text)) for request in requests]

    def _of(self, text: str) -> tuple[float, ...]:
        if text not in self._known:
            self._known[text] = tuple(self._encoder.encode([shortened(text)])[0].tolist())
        return self._known[text]


@dataclass(frozen=True)
class Pair:
    """Prompts with the quality of a weak and of a strong model, and the kind of task, known while training only."""

    prompts: list[str]
    kinds: list[str]
    weak: Floats
    strong: Floats

    def taken(self, rows: Rows) -> "Pair":
        return Pair([self.prompts[i] for i in rows], [self.kinds[i] for i in rows], self.weak[rows], self.strong[rows])


def pair_of(frame: pl.DataFrame, kind: str, weak: str, strong: str) -> Pair:
    qualities = [frame[name].cast(pl.Float64).to_numpy() for name in (weak, strong)]
    return Pair(frame["prompt"].to_list(), frame[kind].to_list(), *qualities)


@dataclass(frozen=True)
class Lengths:
    """Answers: request, true kind, prompt and tokens of each, in the order of arrival."""

    requests: list[Request]
    kinds: NDArray[np.str_]
    prompts: list[str]
    tokens: Floats

    def taken(self, rows: Rows) -> "Lengths":
        requests, prompts = [self.requests[i] for i in rows], [self.prompts[i] for i in rows]
        return Lengths(requests, self.kinds[rows], prompts, self.tokens[rows])

    def untold(self) -> list[Request]:
        """The requests as they come in use: nobody says of what kind they are."""
        return [replace(each, kind=None) for each in self.requests]

    @property
    def groups(self) -> list[str]:
        return [f"{kind} {each.model}" for kind, each in zip(self.kinds, self.requests, strict=True)]


def lengths_of(
    data: Path, *, source: str | None = None, part: str | None = None, told: Told = list[Request]
) -> Lengths:
    frame = pl.read_parquet(data / "lengths.parquet").sort("arrival")
    frame = frame.filter(source=source) if source else frame
    frame = frame.filter(split=part) if part else frame
    texts = dict(pl.read_parquet(data / "prompts.parquet").select("prompt_id", "prompt").rows())
    rows = frame.select("prompt_id", "model", "source").rows()
    requests = told([Request(texts[prompt], model, kind) for prompt, model, kind in rows])
    kinds = frame["source"].to_numpy().astype(str)
    return Lengths(requests, kinds, frame["prompt_id"].to_list(), frame["output_tokens"].cast(pl.Float64).to_numpy())
