"""Models on Ollama, through its official client."""

import json
import logging
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import httpx
import ollama

from tale.addresses import without_password
from tale.exceptions import ModelException, NetworkException, TaleBaseException, ValidationException
from tale.models.apart import done_apart, read_apart
from tale.models.backend import BackendStream, PullListener
from tale.models.figures import count_of, seconds_of
from tale.models.prompt_size import CONTEXT_EXCEEDED, tells_of_length
from tale.records import (
    ChatRequest,
    Delta,
    EngineTimings,
    Message,
    ModelInfo,
    PullProgress,
    Reply,
    ToolCall,
    ToolCallPart,
    Usage,
    Vectors,
)
from tale.traces import TRACE_HEADER, traceparent_of

KEEP_FOREVER: Final = -1
DROP_NOW: Final = 0
DEFAULT_CONTEXT_TOKENS: Final = 4_096
CONNECT_LIMIT_S: Final = 5.0
HEALTH_LIMIT_S: Final = 5.0
LOAD_SILENCE_S: Final = 600.0  # Ollama says nothing while it loads a model from a slow disk
NS_PER_S: Final = 1e9
NOT_FOUND, FIRST_SERVER_ERROR, BUSY = 404, 500, 503
CHAT: Final = ("/api/chat",)

logger = logging.getLogger(__name__)


class OllamaBackend:
    """Talks to one Ollama. `context_tokens` is given by model name, `timeout_s` limits silence within an answer.

    Each model is always asked for with the same context and keep_alive: Ollama loads it anew when they differ.
    """

    provider = "ollama"

    def __init__(self, url: str, *, timeout_s: float, context_tokens: Mapping[str, int]) -> None:
        self._address = url.rstrip("/")
        self.url = without_password(self._address)  # as it may be told
        self._context_tokens = context_tokens
        self._timeout = httpx.Timeout(max(timeout_s, LOAD_SILENCE_S), connect=CONNECT_LIMIT_S)
        self._tls: ssl.SSLContext | None = None

    def chat(self, request: ChatRequest) -> BackendStream:
        """Stream a generation; closing the generator closes the connection, which stops Ollama."""
        return read_apart(self._chat(request))

    async def _chat(self, request: ChatRequest) -> BackendStream:
        gathered = _Gathered(request.model)
        async with self._client(request.model, trace_id=request.trace_id) as client:
            stream: AsyncIterator[ollama.ChatResponse] = await client.chat(**self._arguments(request), stream=True)
            try:
                async for part in stream:
                    if delta := gathered.take(part.message):
                        yield delta
                    if part.done:
                        yield gathered.reply(part)
                        return
            finally:
                await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue] - it is an async generator
        raise NetworkException("Ollama broke off before the end of its answer.", {"url": self.url})

    async def complete(self, request: ChatRequest) -> Reply:
        """Generate without streaming."""
        return await done_apart(self._complete(request))

    async def _complete(self, request: ChatRequest) -> Reply:
        async with self._client(request.model, trace_id=request.trace_id) as client:
            part: ollama.ChatResponse = await client.chat(**self._arguments(request), stream=False)
        gathered = _Gathered(request.model)
        gathered.take(part.message)
        return gathered.reply(part)

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """One vector a text."""
        return await done_apart(self._embed(model, texts))

    async def _embed(self, model: str, texts: Sequence[str]) -> Vectors:
        async with self._client(model) as client:
            answer = await client.embed(model, list(texts), keep_alive=KEEP_FOREVER)
        return Vectors([list(row) for row in answer.embeddings], Usage(input_tokens=count_of(answer.prompt_eval_count)))

    async def count_tokens(self, request: ChatRequest) -> int | None:
        """None: Ollama has no way to count tokens."""
        return None

    async def health(self) -> bool:
        """Whether Ollama answers."""
        try:
            async with self._client("", timeout=httpx.Timeout(HEALTH_LIMIT_S)) as client:
                await client.list()
        except TaleBaseException as error:
            logger.debug("Ollama is not well: %s", error)
            return False
        return True

    async def list_models(self) -> list[ModelInfo]:
        """Ollama's models, and those of `context_tokens` that it could fetch."""
        async with self._client("") as client:
            listed, running = await client.list(), await client.ps()
        loaded = {entry.model or entry.name: entry for entry in running.models}
        sizes = {entry.model: entry.size for entry in listed.models if entry.model}
        found: list[ModelInfo] = []
        for name in sorted({*sizes, *self._context_tokens}):
            entry, size = loaded.get(name), sizes.get(name)
            found.append(
                ModelInfo(
                    name,
                    size_bytes=None if size is None else int(size),
                    memory_bytes=int(entry.size) if entry and entry.size is not None else None,
                    context_tokens=self._context_of(name),
                    loaded=entry is not None,
                    available=name in sizes,
                    source="Ollama's library",
                )
            )
        return found

    async def pull(self, model: str, listener: PullListener | None = None) -> None:
        """Have Ollama fetch a model; progress is summed over its layers."""
        totals: dict[str, int] = {}
        done: dict[str, int] = {}
        async with self._client(model) as client:
            async for part in await client.pull(model, stream=True):
                if part.digest and part.total:
                    totals[part.digest], done[part.digest] = part.total, part.completed or 0
                    if listener:
                        listener(PullProgress(model, sum(done.values()), sum(totals.values()), "Ollama's library"))

    async def remove(self, model: str) -> None:
        """Have Ollama delete a model."""
        async with self._client(model) as client:
            await client.delete(model)

    async def load(self, model: str) -> float:
        """Bring a model into memory and keep it there."""
        began = time.perf_counter()
        async with self._client(model) as client:
            await client.chat(model, [], options=self._options(model), keep_alive=KEEP_FOREVER)
        return time.perf_counter() - began

    async def unload(self, model: str) -> None:
        """Free a model's memory."""
        async with self._client(model) as client:
            await client.chat(model, [], options=self._options(model), keep_alive=DROP_NOW)

    async def is_responsive(self, model: str) -> bool:
        """Whether Ollama answers; it loads a model that it dropped by itself."""
        return await self.health()

    async def close(self) -> None:
        """Nothing: each call closes its own connection, and Ollama keeps its models."""

    def _context_of(self, model: str) -> int:
        return self._context_tokens.get(model, DEFAULT_CONTEXT_TOKENS)

    def _options(self, model: str) -> dict[str, Any]:
        return {"num_ctx": self._context_of(model)}

    def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        wanted = {
            "num_predict": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stop": list(request.stop) or None,
        }
        options = self._options(request.model) | {key: value for key, value in wanted.items() if value is not None}
        return {
            "model": request.model,
            "messages": _messages_of(request.messages),
            "tools": None if request.tool_choice == "none" else list(request.tools) or None,
            "options": options,
            "keep_alive": KEEP_FOREVER,
            "format": dict(request.json_schema) if request.json_schema is not None else _format_of(request),
        }

    @asynccontextmanager
    async def _client(
        self, model: str, *, trace_id: str | None = None, timeout: httpx.Timeout | None = None
    ) -> AsyncGenerator[ollama.AsyncClient]:
        """A client for one call, whose failures are told as tale's own.

        A call that is cancelled at certain moments stays in the pool of httpx as if it went on: Ollama writes for
        nobody, and a hundred of them let no other in. Closing the pool is what ends them surely.
        """
        context = {"url": self.url, "model": model} if model else {"url": self.url}
        if self._tls is None:
            self._tls = httpx.create_ssl_context()  # reading the certificates takes long; they are read once
        headers = {TRACE_HEADER: traceparent_of(trace_id)} if trace_id else None
        client = _Client(self._address, timeout=timeout or self._timeout, headers=headers, verify=self._tls)
        try:
            yield client
        except ollama.ResponseError as error:
            raise _refusal(error, model, context) from error
        except (httpx.ConnectError, ConnectionError) as error:
            raise NetworkException(
                f"Ollama does not answer at {self.url}; start it with `ollama serve`.", {**context, "cause": error}
            ) from error
        except (httpx.HTTPError, ValueError) as error:
            cause = str(error) or type(error).__name__
            raise NetworkException("Ollama broke off its answer.", {**context, "cause": cause}) from error
        finally:
            await client.close()


def _refusal(error: ollama.ResponseError, model: str, context: dict[str, Any]) -> TaleBaseException:
    if error.status_code == NOT_FOUND:
        return ModelException(f"Ollama does not have {model}; run `tale models pull {model}`.", context)
    if error.status_code == BUSY:
        return ModelException("Ollama has too many requests waiting; try again in a moment.", context)
    if error.status_code < FIRST_SERVER_ERROR and tells_of_length(error.error):
        return ValidationException(
            f"The prompt does not fit the model's context; Ollama said: {error.error}",
            {**context, "param": "messages", "code": CONTEXT_EXCEEDED},
        )
    return ModelException(f"Ollama refused: {error.error}.", {**context, "status": error.status_code})


class _Client(ollama.AsyncClient):
    """The official client, which has no word for it that a prompt beyond the context is to be refused.

    Ollama would shorten it and say nothing, as old versions do all the same.
    """

    async def _request(self, cls: Any, *args: Any, stream: bool = False, **kwargs: Any) -> Any:
        if args[1:] == CHAT:
            kwargs["json"] = {**kwargs["json"], "truncate": False}
        return await super()._request(cls, *args, stream=stream, **kwargs)


class _Gathered:
    """What the parts of one answer have told so far."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[ToolCall] = []

    def take(self, message: ollama.Message) -> Delta | None:
        """Take one part in and tell what is new in it."""
        text, reasoning = message.content or "", message.thinking or ""
        if text:
            self._text.append(text)
        if reasoning:
            self._reasoning.append(reasoning)
        parts = [self._called(call.function) for call in message.tool_calls or ()]
        return Delta(text, reasoning, tuple(parts)) if text or reasoning or parts else None

    def reply(self, part: ollama.ChatResponse) -> Reply:
        """The whole, with the figures of the last part."""
        return Reply(
            "".join(self._text),
            self._model,
            part.done_reason,
            Usage(input_tokens=count_of(part.prompt_eval_count), output_tokens=count_of(part.eval_count)),
            EngineTimings(
                load_s=seconds_of(part.load_duration, NS_PER_S),
                prefill_s=seconds_of(part.prompt_eval_duration, NS_PER_S),
                decode_s=seconds_of(part.eval_duration, NS_PER_S),
            ),
            reasoning="".join(self._reasoning) or None,
            tool_calls=tuple(self._tool_calls),
        )

    def _called(self, function: ollama.Message.ToolCall.Function) -> ToolCallPart:
        """Ollama's calls come whole and without an id."""
        arguments = json.dumps(dict(function.arguments), ensure_ascii=False)
        call = ToolCall(f"call_{uuid.uuid4().hex}", function.name, arguments)
        self._tool_calls.append(call)
        return ToolCallPart(len(self._tool_calls) - 1, call.id, call.name, call.arguments)


def _messages_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages in Ollama's form, in which a tool's answer names the tool."""
    named = {call.id: call.name for message in messages for call in message.tool_calls}
    told: list[dict[str, Any]] = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if images := [_image(part) for part in message.parts if part.get("type") == "image_url"]:
            entry["images"] = images
        if message.tool_calls:
            entry["tool_calls"] = [
                {"function": {"name": call.name, "arguments": _arguments(call)}} for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            entry["tool_name"] = message.name or named.get(message.tool_call_id, message.tool_call_id)
        told.append(entry)
    return told


def _image(part: Mapping[str, Any]) -> str:
    """The bytes of a picture in base64; Ollama fetches none by address."""
    address = str(part["image_url"]["url"])
    scheme, _, data = address.partition(";base64,")
    if not scheme.startswith("data:") or not data:
        raise ValidationException("Ollama takes pictures as data: URLs in base64 only.", {"url": address[:80]})
    return data


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise ValidationException(f"The arguments of the tool call {call.id} are not a JSON object.")
    return cast("dict[str, Any]", arguments)


def _format_of(request: ChatRequest) -> str | None:
    return "json" if request.json_object else None
