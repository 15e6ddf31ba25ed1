"""The model server: this host's pool, for roles in other processes and on other hosts, in OpenAI's form."""

import asyncio
import hmac
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final, Literal, TypeVar, cast

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tale import __version__
from tale.exceptions import NetworkException, TaleBaseException, ValidationException
from tale.mcp.listener import Listener
from tale.models.backend import ChatEvent
from tale.models.model_pool import ModelPool
from tale.models.remote_pool import CONTEXT_KEY, PING_INTERVAL_S
from tale.records import CallContext, ChatRequest, Delta, Dispatched, Message, Priority, PromptProgress, Reply
from tale.settings import Settings

BODY_LIMIT_BYTES: Final = 4 * 1024 * 1024
MS: Final = 1000

B = TypeVar("B", bound=BaseModel)

logger = logging.getLogger(__name__)


class _ChatMessage(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str


class _ChatBody(BaseModel):
    """The part of OpenAI's request that the pool can pass on; the rest is ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    messages: list[_ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    stream: bool = False
    response_format: dict[str, Any] | None = None
    tale: CallContext | None = None

    def request(self) -> ChatRequest:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        schema = cast("dict[str, Any]", (self.response_format or {}).get("json_schema") or {})
        return ChatRequest(
            model=self.model,
            messages=tuple(Message(message.role, message.content) for message in self.messages),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            stop=tuple(stop),
            json_schema=schema.get("schema"),
        )

    def context(self) -> CallContext:
        return self.tale or CallContext("task", "chat", Priority.TASK)


class _EmbeddingBody(BaseModel):
    """OpenAI's request for vectors; the rest is ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    input: list[str] | str
    tale: CallContext | None = None


class ModelServer:
    """Serves one pool. Every path but /health asks for the key."""

    def __init__(
        self, settings: Settings, pool: ModelPool, *, api_key: str, ping_interval_s: float = PING_INTERVAL_S
    ) -> None:
        self._pool = pool
        self._home = str(settings.home)
        self._api_key = api_key
        self._ping_interval_s = ping_interval_s
        application = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[self._guard])
        application.router.add_get("/health", self._health)
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_post("/v1/embeddings", self._embeddings)
        application.router.add_get("/tale/status", self._status)
        application.router.add_post("/tale/count_tokens", self._count_tokens)
        self._listener = Listener("tale-model", application, host=settings.host, port=settings.model_port)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._listener.port

    async def start(self) -> None:
        """Bind the port and serve; raises ServerException."""
        await self._listener.start()

    async def stop(self) -> None:
        """Close the port; calls under way are cancelled."""
        await self._listener.stop()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode("utf-8", "surrogateescape")
        if request.path != "/health" and not hmac.compare_digest(given, self._api_key.encode()):
            refusal = {"error": {"type": "ServerException", "message": "The model server asks for a key."}}
            return web.json_response(refusal, status=401, headers={"WWW-Authenticate": 'Bearer realm="tale-model"'})
        try:
            return await handler(request)
        except TaleBaseException as error:
            return web.json_response(_error(error), status=503 if isinstance(error, NetworkException) else 400)

    async def _health(self, request: web.Request) -> web.Response:
        body = {"name": "tale-model", "role": "model", "version": __version__, "status": "ok", "pid": os.getpid()}
        return web.json_response({**body, "home": self._home})

    async def _models(self, request: web.Request) -> web.Response:
        status = await self._pool.status()
        rows = [{"id": model.name, "object": "model", "owned_by": status.provider} for model in status.models]
        return web.json_response({"object": "list", "data": rows})

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(await self._pool.status()))

    async def _count_tokens(self, request: web.Request) -> web.Response:
        body = await _body_of(request, _ChatBody)
        return web.json_response({"input_tokens": await self._pool.count_tokens(body.request(), body.context())})

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await _body_of(request, _EmbeddingBody)
        texts = [body.input] if isinstance(body.input, str) else body.input
        vectors = await self._pool.embed(body.model, texts, body.tale or CallContext("ux", "embed"))
        rows = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(vectors)]
        return web.json_response({"object": "list", "data": rows})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await _body_of(request, _ChatBody)
        if not body.stream:
            reply = await self._pool.complete(body.request(), body.context())
            return web.json_response(_answer(reply))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        stream = self._pool.chat(body.request(), body.context())
        pings = asyncio.create_task(_ping(response, self._ping_interval_s), name="model-server-pings")
        try:
            async for event in stream:
                await _send(response, _chunk(event))
        except TaleBaseException as error:  # the status is out already: the stream itself says what happened
            await _send(response, _error(error))
        finally:
            pings.cancel()
            await stream.aclose()
        await response.write(b"data: [DONE]\n\n")
        return response


async def _body_of(request: web.Request, form: type[B]) -> B:
    try:
        return form.model_validate_json(await request.read())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValidationException(f"The request's {where or 'body'}: {first['msg']}.") from error


async def _ping(response: web.StreamResponse, interval_s: float) -> None:
    """Comments that tell the client that we live while models are fetched and others go first."""
    with suppress(ConnectionError):  # what a lost connection means is decided where the answer is written
        while True:
            await asyncio.sleep(interval_s)
            await response.write(b": ping\n\n")


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n".encode())


def _chunk(event: ChatEvent) -> dict[str, Any]:
    chunk: dict[str, Any] = {"object": "chat.completion.chunk", "choices": []}
    match event:
        case Dispatched():
            return {**chunk, CONTEXT_KEY: {"dispatched": asdict(event)}}
        case PromptProgress(processed_tokens=processed, total_tokens=total):
            return {**chunk, "prompt_progress": {"processed": processed, "total": total}}
        case Delta(text=text):
            return {**chunk, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        case Reply():
            ending: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": event.finish_reason or "stop"}
            return {**chunk, "model": event.model, "choices": [ending], **_figures(event)}


def _answer(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason or "stop"}
    return {"object": "chat.completion", "model": reply.model, "choices": [choice], **_figures(reply)}


def _figures(reply: Reply) -> dict[str, Any]:
    usage, timings = reply.usage, reply.timings
    return {
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        },
        "timings": {"prompt_ms": _ms(timings.prefill_s), "predicted_ms": _ms(timings.decode_s)},
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * MS


def _error(error: TaleBaseException) -> dict[str, Any]:
    context = json.loads(json.dumps(error.context, default=str))
    return {"error": {"type": type(error).__name__, "message": error.message, "context": context}}


def build_model_server(settings: Settings, pool: ModelPool) -> ModelServer:
    """The model server of this pool; the settings must name a key."""
    if settings.api_key is None:
        raise ValidationException("The model server needs a key; set api_key (TALE_API_KEY).")
    return ModelServer(settings, pool, api_key=settings.api_key.get_secret_value())


if __name__ == "__main__":
    import sys

    from tale.servers.bootstrap import run_role

    sys.exit(run_role("model"))
