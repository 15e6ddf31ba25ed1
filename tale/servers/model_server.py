"""The model server: this host's pool, for roles in other processes and on other hosts, in OpenAI's form.

Its requests leave no rows but those of the model calls that they make: who asked has a row of the request.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tale import __version__
from tale.exceptions import NetworkException, TaleBaseException, ValidationException
from tale.mcp.health import Health, HealthRoutes
from tale.mcp.listener import Listener
from tale.models.backend import ChatEvent
from tale.models.model_pool import ModelPool
from tale.models.remote_pool import CONTEXT_KEY, PING_INTERVAL_S
from tale.records import CallContext, Delta, Dispatched, Priority, PromptProgress, Reply
from tale.servers.metrics_page import MetricsPage
from tale.servers.openai_answers import (
    DONE,
    PING,
    choice_of,
    delta_of,
    embeddings_of,
    event,
    finish_reason_of,
    timings_of,
    usage_of,
)
from tale.servers.openai_forms import ChatBody, EmbeddingBody, read_form
from tale.settings import Settings
from tale.traces import TRACE_HEADER, trace_id_of

NAME: Final = "tale-model"
BODY_LIMIT_BYTES: Final = 4 * 1024 * 1024
OPEN: Final = frozenset({"/health", "/health/live", "/health/ready"})  # the paths that ask for no key
LOOKS: Final = frozenset({"/tale/status", "/metrics"})  # those that are no use of the models

logger = logging.getLogger(__name__)


class ModelServer:
    """Serves one pool. Every path but those of health, which `health` answers, asks for the key.

    `on_use` is told of each request that is more than a look.
    """

    def __init__(
        self,
        settings: Settings,
        pool: ModelPool,
        *,
        api_key: str,
        health: Health,
        on_use: Callable[[], None],
        ping_interval_s: float = PING_INTERVAL_S,
        metrics: MetricsPage | None = None,
    ) -> None:
        self._pool = pool
        self._api_key = api_key
        self._on_use = on_use
        self._ping_interval_s = ping_interval_s
        application = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[self._guard])
        application.router.add_routes(HealthRoutes(NAME, version=__version__, health=health).routes())
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_post("/v1/embeddings", self._embeddings)
        application.router.add_get("/tale/status", self._status)
        application.router.add_post("/tale/count_tokens", self._count_tokens)
        application.router.add_routes(metrics.routes() if metrics else [])
        self._listener = Listener(NAME, application, host=settings.host, port=settings.model_port)

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
        if request.path in OPEN:
            return await handler(request)
        if not hmac.compare_digest(given, self._api_key.encode()):
            refusal = {"error": {"type": "ServerException", "message": "The model server asks for a key."}}
            return web.json_response(refusal, status=401, headers={"WWW-Authenticate": f'Bearer realm="{NAME}"'})
        if request.path not in LOOKS:
            self._on_use()
        try:
            return await handler(request)
        except TaleBaseException as error:
            return web.json_response(_error(error), status=503 if isinstance(error, NetworkException) else 400)

    async def _models(self, request: web.Request) -> web.Response:
        status = await self._pool.status()
        rows = [{"id": model.name, "object": "model", "owned_by": status.provider} for model in status.models]
        return web.json_response({"object": "list", "data": rows})

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(await self._pool.status()))

    async def _count_tokens(self, request: web.Request) -> web.Response:
        body = read_form(await request.read(), ChatBody)
        tokens = await self._pool.count_tokens(body.request(), _context_of(request, body))
        return web.json_response({"input_tokens": tokens})

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = read_form(await request.read(), EmbeddingBody)
        vectors = await self._pool.embed(body.model, body.texts(), body.tale or CallContext("ux", "embed"))
        return web.json_response(embeddings_of(vectors, body.model, body.encoding_format))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = read_form(await request.read(), ChatBody)
        if not body.stream:
            reply = await self._pool.complete(body.request(), _context_of(request, body))
            return web.json_response(_answer(reply))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        stream = self._pool.chat(body.request(), _context_of(request, body))
        pings = asyncio.create_task(_ping(response, self._ping_interval_s), name="model-server-pings")
        try:
            async for told in stream:
                await response.write(event(_chunk(told)))
        except TaleBaseException as error:  # the status is out already: the stream itself says what happened
            await response.write(event(_error(error)))
        finally:
            pings.cancel()
            await stream.aclose()
        await response.write(DONE)
        return response


async def _ping(response: web.StreamResponse, interval_s: float) -> None:
    """Comments that tell the client that we live while models are fetched and others go first."""
    with suppress(ConnectionError):  # what a lost connection means is decided where the answer is written
        while True:
            await asyncio.sleep(interval_s)
            await response.write(PING)


def _context_of(request: web.Request, body: ChatBody) -> CallContext:
    trace_id = trace_id_of(request.headers.get(TRACE_HEADER))
    return body.tale or CallContext("task", "chat", Priority.TASK, trace_id=trace_id)


def _chunk(told: ChatEvent) -> dict[str, Any]:
    chunk: dict[str, Any] = {"object": "chat.completion.chunk", "choices": []}
    match told:
        case Dispatched():
            return {**chunk, CONTEXT_KEY: {"dispatched": asdict(told)}}
        case PromptProgress(processed_tokens=processed, total_tokens=total):
            return {**chunk, "prompt_progress": {"processed": processed, "total": total}}
        case Delta(logprobs=logprobs):
            choice: dict[str, Any] = {"index": 0, "delta": delta_of(told), "finish_reason": None}
            return {**chunk, "choices": [choice if logprobs is None else {**choice, "logprobs": logprobs}]}
        case Reply():
            ending: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": finish_reason_of(told)}
            return {**chunk, "model": told.model, "choices": [ending], **_figures(told)}


def _answer(reply: Reply) -> dict[str, Any]:
    return {"object": "chat.completion", "model": reply.model, "choices": [choice_of(reply)], **_figures(reply)}


def _figures(reply: Reply) -> dict[str, Any]:
    return {"usage": usage_of(reply.usage), "timings": timings_of(reply)}


def _error(error: TaleBaseException) -> dict[str, Any]:
    context = json.loads(json.dumps(error.context, default=str))
    return {"error": {"type": type(error).__name__, "message": error.message, "context": context}}


def build_model_server(
    settings: Settings,
    pool: ModelPool,
    *,
    health: Health,
    on_use: Callable[[], None],
    metrics: MetricsPage | None = None,
) -> ModelServer:
    """The model server of this pool; the settings must name a key."""
    if settings.api_key is None:
        raise ValidationException("The model server needs a key; set api_key (TALE_API_KEY).")
    key = settings.api_key.get_secret_value()
    return ModelServer(settings, pool, api_key=key, health=health, on_use=on_use, metrics=metrics)


if __name__ == "__main__":
    import sys

    from tale.servers.bootstrap import run_role

    sys.exit(run_role("model"))
