"""OpenAI's API on the gateway: existing clients talk to this home's models by changing one address."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tale.exceptions import ModelException, NetworkException, TaleBaseException, ValidationException
from tale.mcp.exchange import PING_INTERVAL_S
from tale.models.pool import ModelState, Pool
from tale.models.prompt_size import fewest_tokens, likely_tokens, most_tokens
from tale.records import CallContext, ChatRequest, Delta, Dispatched, Priority, Reply, Role
from tale.servers.http_calls import HttpCall, Record
from tale.servers.openai_answers import choice_of, embeddings_of, usage_of
from tale.servers.openai_failures import CODE, PARAM, UNKNOWN_MODEL, told_of
from tale.servers.openai_forms import ChatBody, EmbeddingBody, read_form
from tale.servers.openai_stream import StreamedAnswer

AUTO: Final = "tale-auto"
ALIASES: Final[Mapping[str, Role]] = {AUTO: "ux", "tale-ux": "ux", "tale-task": "task"}
STATUS_AGE_S: Final = 10.0  # which models there are changes with a restart, their contexts when they are loaded
ROOM_TOKENS: Final = 256  # for an answer whose length the client leaves open
REQUEST_ID: Final = "x-request-id"

Json = dict[str, Any]
Handle = Callable[[web.Request, HttpCall], Awaitable[web.StreamResponse]]


class OpenAIApi:
    """The handlers. `server` is the name under which calls are kept, by `record`; `created` is Unix time."""

    def __init__(
        self, pool: Pool, *, server: str, record: Record, created: float, ping_interval_s: float = PING_INTERVAL_S
    ) -> None:
        self._pool = pool
        self._server = server
        self._record = record
        self._created = int(created)
        self._ping_interval_s = ping_interval_s
        self._models: dict[str, ModelState] = {}
        self._provider = ""
        self._read_at: float | None = None

    def routes(self) -> list[web.RouteDef]:
        """What is served."""
        return [
            web.post("/v1/chat/completions", self._kept(self._chat)),
            web.post("/v1/embeddings", self._kept(self._embeddings)),
            web.get("/v1/models", self._kept(self._list)),
            web.get("/v1/models/{model:.+}", self._kept(self._describe)),
        ]

    def _kept(self, handle: Handle) -> Handler:
        """The handler of a request whose row is kept and whose failures are told."""

        async def served(request: web.Request) -> web.StreamResponse:
            call = HttpCall(request, self._server, self._record)
            try:
                response = await handle(request, call)
            except (asyncio.CancelledError, ConnectionError, TaleBaseException) as error:
                await asyncio.shield(call.ended(error))
                failure = told_of(error, request)
                if failure is None:
                    raise
                response = failure.response({REQUEST_ID: call.id})
            except Exception as error:  # the edge of a request: what surrounds it logs and answers
                await call.ended(error)
                raise
            else:
                await call.ended()
            return response

        return served

    async def _chat(self, request: web.Request, call: HttpCall) -> web.StreamResponse:
        body = read_form(await request.read(), ChatBody)
        asked, context = await self._routed(body.request(), call)
        if body.stream:
            return await self._streamed(request, call, body, asked, context)
        stream = self._pool.chat(asked, context, beside=call.ended)
        try:
            async for event in stream:
                if isinstance(event, Reply):
                    return _json(_answer(event, call), call)
        finally:
            await stream.aclose()
        raise ModelException("The engine ended without an answer.", {"model": asked.model})

    async def _streamed(
        self, request: web.Request, call: HttpCall, body: ChatBody, asked: ChatRequest, context: CallContext
    ) -> web.StreamResponse:
        head = {"id": f"chatcmpl-{call.id}", "object": "chat.completion.chunk", "created": int(call.started_at)}
        answer = StreamedAnswer(request, head, {REQUEST_ID: call.id}, ping_interval_s=self._ping_interval_s)
        model = asked.model
        stream = self._pool.chat(asked, context, beside=call.ended)
        try:
            async for event in stream:
                match event:
                    case Delta():
                        await answer.piece(event, model)
                    case Dispatched():
                        model = event.model
                    case Reply():
                        await answer.end(event, body.stream_options.include_usage if body.stream_options else None)
                    case _:
                        pass
        except (TaleBaseException, asyncio.CancelledError) as error:
            failure = told_of(error, request)
            if failure is None or not answer.response.prepared:
                raise
            await stream.aclose()
            await call.ended(error)
            await answer.fail(failure)
        finally:
            answer.close()
            await stream.aclose()
        return answer.response

    async def _embeddings(self, request: web.Request, call: HttpCall) -> web.StreamResponse:
        body = read_form(await request.read(), EmbeddingBody)
        role, model = await self._role_of(body.model or AUTO)
        if body.dimensions is not None:
            raise ValidationException(
                "The request's dimensions: the models here have one size each; leave it out.", {PARAM: "dimensions"}
            )
        vectors = await self._pool.embed(model, body.texts(), _context(role, "embed", call))
        return _json(embeddings_of(vectors, model, body.encoding_format), call)

    async def _list(self, request: web.Request, call: HttpCall) -> web.StreamResponse:
        models = await self._known(STATUS_AGE_S)
        names = [*models, *(alias for alias in ALIASES if alias not in models)]
        return _json({"object": "list", "data": [self._described(name) for name in names]}, call)

    async def _describe(self, request: web.Request, call: HttpCall) -> web.StreamResponse:
        name = request.match_info["model"]
        await self._role_of(name)
        return _json(self._described(name), call)

    def _described(self, name: str) -> Json:
        owner = self._provider if name in self._models else "tale"
        return {"id": name, "object": "model", "created": self._created, "owned_by": owner}

    async def _routed(self, request: ChatRequest, call: HttpCall) -> tuple[ChatRequest, CallContext]:
        """The request with the name of a real model, and why it is that one."""
        name = request.model or AUTO
        role, model = await self._role_of(name)
        reason = None
        if name == AUTO:
            role, reason = await self._chosen(request)
            model = _name_in(self._models, role)
        context = _context(role, "chat", call, reason)
        return (request if request.model == model else replace(request, model=model)), context

    async def _chosen(self, request: ChatRequest) -> tuple[Role, str]:
        """The role that serves a chat whose client leaves the choice to us.

        Where nobody can count its tokens, one that may be too long for the small model goes to the larger one, if that
        has more room: to be wrong costs a larger model, not a refusal.
        """
        ux = self._models.get(_name_in(self._models, "ux"))
        room = ux.context_tokens if ux else None
        if room is None:
            return "ux", f"{AUTO}: chat goes to the small model"
        answer_tokens = request.max_tokens or ROOM_TOKENS
        if most_tokens(request) + answer_tokens <= room:
            return "ux", f"{AUTO}: the chat fits the small model"
        context = CallContext("ux", "chat", Priority.CHAT)
        tokens = await self._pool.count_tokens(replace(request, model=""), context)
        fewest, likely = (fewest_tokens(request), likely_tokens(request)) if tokens is None else (tokens, tokens)
        may_fit = fewest + answer_tokens <= room
        if may_fit and (likely + answer_tokens <= room or not self._has_more_room(room)):
            return "ux", f"{AUTO}: the chat fits the small model"
        count = f"about {likely:,}" if tokens is None else f"{tokens:,}"
        return (
            "task",
            f"{AUTO}: {count} tokens and {answer_tokens:,} to answer exceed the small model's {room:,}",
        )

    def _has_more_room(self, tokens: int) -> bool:
        """Whether the context of the task model may hold more tokens than these."""
        larger = self._models.get(_name_in(self._models, "task"))
        return larger is None or larger.context_tokens is None or larger.context_tokens > tokens

    async def _role_of(self, name: str) -> tuple[Role, str]:
        """The role in which a model serves, and its real name. Raises for one that is not here."""
        models = await self._known(STATUS_AGE_S)
        if name not in models and name not in ALIASES:
            models = await self._known(0.0)
        if found := models.get(name):
            return found.role, name
        role = ALIASES.get(name)
        if role is None:
            names = ", ".join([*models, *ALIASES])
            raise ValidationException(
                f"There is no model {name!r} here; choose from {names}.", {PARAM: "model", CODE: UNKNOWN_MODEL}
            )
        return role, _name_in(models, role)

    async def _known(self, age_s: float) -> Mapping[str, ModelState]:
        """The pool's models, looked at again when what is known of them is older."""
        now = time.monotonic()
        if self._read_at is None or now - self._read_at >= age_s or not self._models:
            status = await self._pool.status()
            if not status.models:
                raise NetworkException(f"The models cannot be used now: {status.reason}")
            self._models = {model.name: model for model in status.models}
            self._provider, self._read_at = status.provider, now
        return self._models


def _name_in(models: Mapping[str, ModelState], role: Role) -> str:
    """The model of a role; one model alone serves both."""
    return next((name for name, model in models.items() if model.role == role), next(iter(models)))


def _context(role: Role, operation: str, call: HttpCall, reason: str | None = None) -> CallContext:
    return CallContext(
        role, operation, Priority.CHAT, trace_id=call.trace_id, route_reason=reason, key_name=call.key_name
    )


def _answer(reply: Reply, call: HttpCall) -> Json:
    return {
        "id": f"chatcmpl-{call.id}",
        "object": "chat.completion",
        "created": int(call.started_at),
        "model": reply.model,
        "choices": [choice_of(reply)],
        "usage": usage_of(reply.usage),
    }


def _json(body: Json, call: HttpCall) -> web.Response:
    text = json.dumps(body, separators=(",", ":"))
    return web.Response(text=text, content_type="application/json", headers={REQUEST_ID: call.id})
