"""The host's pool as a role in another process sees it: reached through the model server."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, cast

from tale.exceptions import ModelException, NetworkException, TaleBaseException
from tale.models.backend import ChatStream
from tale.models.engine import EngineState
from tale.models.openai_backend import OpenAIBackend
from tale.models.openai_wire import Gathered, chunks_of, events_of, json_of, usage_of
from tale.models.pool import Beside, ModelState, PoolStatus
from tale.records import CallContext, ChatRequest, Dispatched, Reply, Usage, Vectors

CONTEXT_KEY: Final = "tale"  # of request bodies and of chunks: what OpenAI's API has no word for
PING_INTERVAL_S: Final = 15.0  # while models are fetched and others go first, the model server shows that it lives
SILENCE_LIMIT_S: Final = 4 * PING_INTERVAL_S
EMBED_LIMIT_S: Final = 3_600.0  # vectors come in one answer, before which nothing is heard


class RemoteModelPool:
    """Calls of this process, made, measured and recorded in the process that holds the models."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url.rstrip("/")
        self._engine = _ModelServer(f"{self._url}/v1", api_key=api_key, timeout_s=SILENCE_LIMIT_S, provider="remote")

    async def start(self) -> None:
        """Nothing to start: connections are made as they are needed."""

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.close()

    async def chat(self, request: ChatRequest, context: CallContext, *, beside: Beside | None = None) -> ChatStream:
        """Stream a generation; closing the generator stops the engine."""
        body = {**self._engine.body_of(request, context), "stream": True}
        gathered = Gathered(request.model)
        exchange = self._engine.exchange(request.model, "/chat/completions", body, trace_id=context.trace_id)
        async with exchange as response:
            async for chunk in chunks_of(response):
                extra = cast("dict[str, Any]", chunk.get(CONTEXT_KEY) or {})
                if told := extra.get("dispatched"):
                    dispatched = Dispatched(**told)
                    gathered.model = dispatched.model
                    yield dispatched
                for event in events_of(chunk, gathered):
                    if not isinstance(event, Usage):  # the model server's pool keeps account of it
                        yield event
        if gathered.finish_reason is None:
            raise NetworkException("The model server broke off before the end of its answer.", {"url": self._url})
        if beside is not None:
            await beside()
        yield gathered.reply()

    async def complete(self, request: ChatRequest, context: CallContext) -> Reply:
        """Generate without streaming."""
        stream = self.chat(request, context)
        try:
            async for event in stream:
                if isinstance(event, Reply):
                    return event
        finally:
            await stream.aclose()
        raise ModelException("The model server ended without an answer.", {"url": self._url})

    async def count_tokens(self, request: ChatRequest, context: CallContext) -> int | None:
        """Input tokens of the request; None where the engine cannot tell."""
        body = self._engine.body_of(request, context)
        async with self._engine.exchange("", "/tale/count_tokens", body, at_root=True) as response:
            return (await json_of(response)).get("input_tokens")

    async def embed(self, model: str, texts: Sequence[str], context: CallContext) -> Vectors:
        """One vector a text."""
        body = {"model": model, "input": list(texts), CONTEXT_KEY: asdict(context)}
        exchange = self._engine.exchange(model, "/embeddings", body, total_s=EMBED_LIMIT_S, trace_id=context.trace_id)
        async with exchange as response:
            answer = await json_of(response)
        rows = [row["embedding"] for row in cast("list[dict[str, Any]]", answer["data"])]
        return Vectors(rows, usage_of(answer.get("usage") or {}))

    async def status(self) -> PoolStatus:
        """How the models stand; unknown while the model server does not answer."""
        try:
            async with self._engine.exchange("", "/tale/status", None, at_root=True, total_s=2.0) as response:
                told = await json_of(response)
        except TaleBaseException as error:
            return PoolStatus("remote", f"The model server cannot be used: {error.message}", self._url, ())
        models = tuple(ModelState(**model) for model in cast("list[dict[str, Any]]", told.pop("models")))
        engines = tuple(EngineState(**engine) for engine in cast("list[dict[str, Any]]", told.pop("engines", [])))
        return PoolStatus(**told, models=models, engines=engines)


class _ModelServer(OpenAIBackend):
    """The HTTP half of an OpenAI-compatible engine, with the context of each call in the body."""

    exchange = OpenAIBackend._exchange

    def body_of(self, request: ChatRequest, context: CallContext) -> dict[str, Any]:
        return {**self._body(request), CONTEXT_KEY: asdict(context)}
