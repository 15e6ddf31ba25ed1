"""A backend handed to the pool under test: models that load, answer and die when they are told to."""

import asyncio
from collections.abc import Sequence

from tale.exceptions import ModelException, NetworkException, TaleBaseException
from tale.models.backend import ChatStream, PullListener
from tale.records import ChatRequest, Delta, EngineTimings, ModelInfo, PullProgress, Reply, Usage, Vectors


class ScriptedBackend:
    """Two models, `small` and `large`; gates hold a step until they are set, failures are raised once each."""

    provider = "scripted"

    def __init__(self, *, present: Sequence[str] = ("small", "large"), context_tokens: int | None = None) -> None:
        self.present = set(present)
        self.loaded: set[str] = set()
        self.dead: set[str] = set()
        self.context_tokens = context_tokens
        self.contexts: dict[str, int] = {}  # of models that have another
        self.memory_bytes = 100
        self.tokens: int | None = None
        self.words = ["Hello", " world"]
        self.pull_gates: dict[str, asyncio.Event] = {}
        self.load_gates: dict[str, asyncio.Event] = {}
        self.word_gate: asyncio.Event | None = None
        self.load_failures: dict[str, list[TaleBaseException]] = {}
        self.chat_failures: list[TaleBaseException] = []
        self.break_after_first_word = False
        self.requests: list[ChatRequest] = []
        self.loads: list[str] = []
        self.pulls: list[str] = []
        self.stopped = 0
        self.started = asyncio.Event()
        self.closed = False

    async def chat(self, request: ChatRequest) -> ChatStream:
        if request.model in self.dead or request.model not in self.loaded:
            raise NetworkException("The engine is dead.")
        self.requests.append(request)
        self.started.set()
        if self.chat_failures:
            raise self.chat_failures.pop(0)
        try:
            for number, word in enumerate(self.words):
                if number == 1 and self.break_after_first_word:
                    self.dead.add(request.model)
                    raise NetworkException("The engine broke off.")
                if number == 1 and self.word_gate:
                    await self.word_gate.wait()
                yield Delta(word)
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise
        usage = Usage(10, len(self.words), 4, 0)
        yield Reply("".join(self.words), request.model, "stop", usage, EngineTimings(prefill_s=0.0, decode_s=0.0))

    async def complete(self, request: ChatRequest) -> Reply:
        raise AssertionError("the pool always streams")

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        if self.chat_failures:
            raise self.chat_failures.pop(0)
        return Vectors([[1.0] for _ in texts], Usage(input_tokens=sum(len(text.split()) for text in texts)))

    async def count_tokens(self, request: ChatRequest) -> int | None:
        return self.tokens

    async def health(self) -> bool:
        return True

    async def list_models(self) -> list[ModelInfo]:
        return [
            ModelInfo(
                name,
                size_bytes=100,
                memory_bytes=self.memory_bytes if name in self.loaded else None,
                context_tokens=self.contexts.get(name, self.context_tokens),
                loaded=name in self.loaded,
                available=name in self.present,
                licence="MIT",
                source="a script",
            )
            for name in ("small", "large")
        ]

    async def pull(self, model: str, listener: PullListener | None = None) -> None:
        self.pulls.append(model)
        if listener:
            listener(PullProgress(model, 40, 100, "a script"))
        if gate := self.pull_gates.get(model):
            await gate.wait()
        self.present.add(model)

    async def remove(self, model: str) -> None:
        self.present.discard(model)

    async def load(self, model: str) -> float:
        self.loads.append(model)
        if gate := self.load_gates.get(model):
            await gate.wait()
        if failures := self.load_failures.get(model):
            raise failures.pop(0)
        if model not in self.present:
            raise ModelException(f"{model} is not there.")
        self.loaded.add(model)
        self.dead.discard(model)
        return 0.5

    async def unload(self, model: str) -> None:
        self.loaded.discard(model)

    async def is_responsive(self, model: str) -> bool:
        return model in self.loaded and model not in self.dead

    async def close(self) -> None:
        self.closed = True
