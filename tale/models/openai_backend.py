"""Any engine that speaks OpenAI's HTTP API: vLLM, SGLang, llama-server, Ray Serve, and those tale starts itself."""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

import aiohttp

from tale.addresses import without_password
from tale.exceptions import ModelException, NetworkException, TaleBaseException
from tale.models.backend import BackendStream, PullListener
from tale.models.figures import count_of
from tale.models.openai_wire import (
    Gathered,
    body_of,
    chunks_of,
    events_of,
    json_of,
    prompt_of,
    refusal,
    vectors_of,
)
from tale.records import ChatRequest, ModelInfo, Reply, Vectors
from tale.traces import TRACE_HEADER, traceparent_of

CONNECT_LIMIT_S: Final = 5.0
HEALTH_LIMIT_S: Final = 5.0
COUNT_LIMIT_S: Final = 5.0
REUSE_S: Final = 2.0  # servers close idle connections after 5 s or later, so that none is closed just as it is used
ERROR_STATUS: Final = 400
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

Json = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served: a base URL that ends in /v1, and the key it asks for."""

    base_url: str
    api_key: str | None = None


class OpenAIBackend:
    """Talks to one engine, or through `_endpoint` to one engine a model.

    `timeout_s` limits silence, not the whole call. `llama_cpp` says that the engine is llama.cpp's server, which tells
    its timings and prompt progress and can count tokens.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float,
        provider: str = "openai",
        llama_cpp: bool = False,
    ) -> None:
        self.provider = provider
        self._address = base_url.rstrip("/")
        self.url = without_password(self._address)  # as it may be told
        self._api_key = api_key
        self._llama_cpp = llama_cpp
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S, sock_read=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[str, int] = {}  # tokens by model, where the engine tells them

    async def chat(self, request: ChatRequest) -> BackendStream:
        """Stream a generation; closing the generator closes the connection, which stops the engine."""
        body = {**self._body(request), "stream": True, "stream_options": {"include_usage": True}}
        if self._llama_cpp:
            body["return_progress"] = True
        gathered = Gathered(request.model)
        async with self._exchange(request.model, "/chat/completions", body, trace_id=request.trace_id) as response:
            if response.content_type == "application/json":  # an engine that does not stream
                chunk = await json_of(response)
                for event in events_of(chunk, gathered, is_whole=True):
                    yield event
            else:
                async for chunk in chunks_of(response):
                    for event in events_of(chunk, gathered):
                        yield event
        if gathered.finish_reason is None:
            raise NetworkException(
                "The engine broke off before the end of its answer.", {"url": self.url, "model": request.model}
            )
        yield gathered.reply()

    async def complete(self, request: ChatRequest) -> Reply:
        """Generate without streaming."""
        body = self._body(request)
        async with self._exchange(request.model, "/chat/completions", body, trace_id=request.trace_id) as response:
            chunk = await json_of(response)
        gathered = Gathered(request.model)
        for _ in events_of(chunk, gathered, is_whole=True):
            pass
        return gathered.reply()

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """One vector a text."""
        async with self._exchange(model, "/embeddings", {"model": model, "input": list(texts)}) as response:
            body = await json_of(response)
        return vectors_of(body, model)

    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Input tokens under the model's template; None where the engine has no way to tell."""
        if not self._llama_cpp:
            return await self._counted_by_vllm(request) if request.model in self._contexts else None
        async with self._exchange(request.model, "/apply-template", prompt_of(request), at_root=True) as response:
            prompt = (await json_of(response))["prompt"]
        body = {"content": prompt, "add_special": True, "parse_special": True}
        async with self._exchange(request.model, "/tokenize", body, at_root=True) as response:
            return len((await json_of(response))["tokens"])

    async def health(self) -> bool:
        """Whether the engine answers."""
        try:
            await self._listed()
        except TaleBaseException as error:
            logger.debug("The engine is not well: %s", error)
            return False
        return True

    async def list_models(self) -> list[ModelInfo]:
        """The models the engine serves."""
        return [ModelInfo(name, loaded=True, context_tokens=self._contexts.get(name)) for name in await self._listed()]

    async def pull(self, model: str, listener: PullListener | None = None) -> None:
        """Check that the engine serves the model; fetching is its own affair."""
        if model not in await self._listed():
            raise ModelException(
                f"The engine at {self.url} does not serve {model!r}; start it with that model.", {"model": model}
            )

    async def remove(self, model: str) -> None:
        """Refused: the engine manages its own models."""
        raise ModelException(f"The engine at {self.url} manages its own models; remove {model!r} there.")

    async def load(self, model: str) -> float:
        """Check that the engine serves the model; it is loaded then."""
        await self.pull(model)
        return 0.0

    async def unload(self, model: str) -> None:
        """Nothing to do: the engine manages its own memory."""

    async def is_responsive(self, model: str) -> bool:
        """Whether the engine answers."""
        return await self.health()

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _endpoint(self, model: str) -> Endpoint:
        """Where `model` is served. Subclasses that run an engine a model say it here."""
        return Endpoint(self._address, self._api_key)

    def _extra(self, request: ChatRequest) -> Json:
        """What a subclass adds to the body of a generation."""
        return {}

    def _body(self, request: ChatRequest) -> Json:
        return body_of(request) | self._extra(request)

    async def _listed(self) -> list[str]:
        async with self._exchange("", "/models", None, total_s=HEALTH_LIMIT_S) as response:
            body = await json_of(response)
        rows = cast("list[Json]", body.get("data") or [])
        lengths = {str(row["id"]): count_of(row.get("max_model_len")) for row in rows}
        self._contexts = {name: length for name, length in lengths.items() if length}
        return list(lengths)

    async def _counted_by_vllm(self, request: ChatRequest) -> int | None:
        """Input tokens as vLLM counts them; None where another engine has no such address."""
        body: Json = {"model": request.model, **prompt_of(request)}
        try:
            async with self._exchange(
                request.model, "/tokenize", body, at_root=True, total_s=COUNT_LIMIT_S
            ) as response:
                return count_of((await json_of(response)).get("count"))
        except TaleBaseException as error:
            logger.debug("The engine does not count tokens: %s", error)
            return None

    @asynccontextmanager
    async def _exchange(
        self,
        model: str,
        path: str,
        body: Json | None,
        *,
        at_root: bool = False,
        total_s: float | None = None,
        trace_id: str | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """One HTTP exchange, its failures told as tale's own; closing it early closes the connection."""
        endpoint = await self._endpoint(model)
        base = endpoint.base_url.removesuffix("/v1") if at_root else endpoint.base_url
        headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
        if trace_id is not None:
            headers[TRACE_HEADER] = traceparent_of(trace_id)
        limit = aiohttp.ClientTimeout(total=total_s) if total_s else self._timeout
        method = "GET" if body is None else "POST"
        try:
            async with self._http(base).request(
                method, f"{base}{path}", json=body, headers=headers, timeout=limit
            ) as response:
                if response.status >= ERROR_STATUS:
                    raise refusal(response.status, await response.text(), model, without_password(endpoint.base_url))
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _lost(error, without_password(endpoint.base_url)) from error

    def _http(self, url: str) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                trust_env=urlsplit(url).hostname not in LOOPBACK,
                cookie_jar=aiohttp.DummyCookieJar(),  # no call is to depend on another
                # The pool's slots limit what runs, not the sockets. llama.cpp's server holds a thread for each idle
                # connection, so that there each call gets its own.
                connector=aiohttp.TCPConnector(limit=0, force_close=True)
                if self._llama_cpp
                else aiohttp.TCPConnector(limit=0, keepalive_timeout=REUSE_S),
            )
        return self._session


def _lost(error: Exception, url: str) -> NetworkException:
    cause = str(error) or type(error).__name__
    if isinstance(error, TimeoutError):
        return NetworkException(f"The engine at {url} has been silent for too long.", {"url": url, "cause": cause})
    return NetworkException(f"The engine at {url} does not answer.", {"url": url, "cause": cause})
