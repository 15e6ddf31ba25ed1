"""A pool handed to what is under test: it answers as it was told to, when it was told to."""

import asyncio
from collections.abc import Sequence

from tale.models.backend import ChatStream
from tale.models.pool import Beside, ModelState, PoolStatus
from tale.records import CallContext, ChatRequest, Delta, Dispatched, EngineTimings, Reply, Usage, Vectors


class ScriptedPool:
    """Plays one script a call, the last one for ever after.

    A script is a list of texts to stream; an exception in it is raised there, an asyncio.Event is waited for.
    """

    def __init__(self, *scripts: Sequence[str | Exception | asyncio.Event], tokens: int | None = None) -> None:
        self.scripts = [list(script) for script in scripts] or [["Hello", " world"]]
        self.tokens = tokens
        self.calls: list[tuple[ChatRequest, CallContext]] = []
        self.stopped = 0  # generations that were cut short
        self.states: tuple[ModelState, ...] = ()
        self.started = asyncio.Event()

    async def chat(self, request: ChatRequest, context: CallContext, *, beside: Beside | None = None) -> ChatStream:
        script = self.scripts[min(len(self.calls), len(self.scripts) - 1)]
        self.calls.append((request, context))
        text = ""
        try:
            yield Dispatched("scripted", context.role, "as scripted")
            for step in script:
                self.started.set()
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    text += step
                    yield Delta(step)
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise
        if beside is not None:
            await beside()
        yield Reply(text, "scripted", "stop", Usage(12, len(script), 0), EngineTimings(prefill_s=0.1, decode_s=0.2))

    async def complete(self, request: ChatRequest, context: CallContext) -> Reply:
        async for event in self.chat(request, context):
            if isinstance(event, Reply):
                return event
        raise AssertionError("a script ends with a reply")

    async def count_tokens(self, request: ChatRequest, context: CallContext) -> int | None:
        return self.tokens

    async def embed(self, model: str, texts: Sequence[str], context: CallContext) -> Vectors:
        return Vectors([[0.0] for _ in texts])

    async def status(self) -> PoolStatus:
        return PoolStatus(provider="scripted", reason="It is a test.", url=None, models=self.states)

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""
