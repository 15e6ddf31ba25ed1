"""A client for MCP servers on HTTP: light (no SDK), pooled, patient while a server works, clear when it is gone."""

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, cast

import aiohttp

from tale.circuit_breaker import CircuitBreaker
from tale.constants import DEFAULT_HTTP_TIMEOUT
from tale.exceptions import NetworkException, ServerException, TaleBaseException
from tale.mcp import failures
from tale.mcp.parameter_headers import ParameterHeaders
from tale.mcp.peer import ERROR_STATUS, OnProgress, Peer
from tale.mcp.questions import INPUT_REQUIRED, OnQuestion, inputs_for
from tale.mcp.wire import Message

ATTEMPTS: Final = 3
BACKOFF_S: Final = 0.2  # before the second attempt; doubled before each further one
BUSY_LIMIT_S: Final = 5.0  # a server that is busy for longer is not waited for
QUESTION_ROUNDS: Final = 10


class HTTPMCPClient:
    """Talks to one server. Speaks the protocol's modern era, and the handshake to servers that know only that.

    `timeout_s` limits silence, not the whole call: a call may take as long as its server shows signs of life.
    Cancelling a call cancels it on the server. Raises NetworkException with the URL and the cause when the server
    cannot be reached, and the server's own exception when a tool refuses. A server that has not answered several
    times in a row is left alone for moments, in which calls fail at once.

    `on_question` answers what a server asks in the midst of a call; `capabilities` must then say which kinds of
    question it takes. `modern` False shakes hands at once.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_HTTP_TIMEOUT,
        on_question: OnQuestion | None = None,
        capabilities: Mapping[str, Any] | None = None,
        modern: bool = True,
        backoff_s: float = BACKOFF_S,
        draw: Callable[[], float] = random.random,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/mcp")
        self._backoff_s = backoff_s
        self._draw = draw
        self._breaker = breaker or CircuitBreaker()
        self._on_question = on_question
        self._parameter_headers = ParameterHeaders()
        self._peer = Peer(
            self.url,
            api_key=api_key,
            timeout_s=timeout_s,
            on_question=on_question,
            capabilities=capabilities or {},
            modern=modern,
        )

    async def __aenter__(self) -> "HTTPMCPClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> dict[str, Any]:
        """Check that the server is there and alive; returns its health."""
        health = await self.health()
        if health.get("status") not in ("ok", "degraded", "starting"):
            raise ServerException("The server is not well.", {"url": self.url, "status": health.get("status")})
        return health

    async def health(self) -> dict[str, Any]:
        """What GET /health answers."""
        try:
            async with self._peer.http().get(f"{self.url}/health") as response:
                body = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise failures.unreachable(self.url, error) from error
        if not isinstance(body, dict) or response.status >= ERROR_STATUS:
            raise NetworkException("What answers is not a tale server.", {"url": self.url, "status": response.status})
        self._breaker.succeeded()
        return cast("dict[str, Any]", body)

    async def list_tools(self) -> list[dict[str, Any]]:
        """The server's tools with their schemas; those whose parameters ask for impossible headers are left out."""
        tools: list[dict[str, Any]] = []
        cursors: list[object] = [None]
        while True:
            page = await self.request("tools/list", {"cursor": cursors[-1]} if cursors[-1] else {}, idempotent=True)
            tools += self._parameter_headers.learn(page.get("tools"))
            cursor: object = page.get("nextCursor")
            if not cursor:
                return tools
            if cursor in cursors:
                raise ServerException("The server's list of tools goes round in circles.", {"url": self.url})
            cursors.append(cursor)

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        timeout_s: float | None = None,
        idempotent: bool = False,
    ) -> dict[str, Any]:
        """Call a tool and return its structured result.

        `on_progress` gets (progress, total, message). `timeout_s` limits the whole call. A call that could not be
        delivered is made again, a few times; one that broke off only when it is `idempotent`.
        """
        given = {key: value for key, value in (arguments or {}).items() if value is not None}
        params: Message = {"name": name, "arguments": given}
        try:
            async with asyncio.timeout(timeout_s):
                result = await self.request("tools/call", params, on_progress=on_progress, idempotent=idempotent)
        except TimeoutError as error:
            raise NetworkException(
                f"{name} took longer than {timeout_s:g} s.", {"url": self.url, "cause": "timeout"}
            ) from error
        if result.get("isError"):
            raise failures.of_tool(result)
        structured = result.get("structuredContent")
        if isinstance(structured, dict):
            return cast("dict[str, Any]", structured)
        return {"result": failures.text_of(result)}

    async def request(
        self,
        method: str,
        params: Message | None = None,
        *,
        on_progress: OnProgress | None = None,
        idempotent: bool = False,
    ) -> Message:
        """The result of any request of the protocol; questions that the server has first are answered."""
        params = params or {}
        for _ in range(QUESTION_ROUNDS):
            result = await self._guarded(method, params, on_progress, idempotent)
            if result.get("resultType") != INPUT_REQUIRED:
                return result
            params = {**params, "requestState": None, **await inputs_for(result, self._on_question)}
            params = {key: value for key, value in params.items() if value is not None}
        raise ServerException(f"The server still asks after {QUESTION_ROUNDS} rounds of answers.", {"url": self.url})

    async def close(self) -> None:
        """End the session, if there is one, and close the connections."""
        await self._peer.close()

    async def _guarded(self, method: str, params: Message, on_progress: OnProgress | None, idempotent: bool) -> Message:
        """One request under the circuit breaker."""
        if wait_s := self._breaker.wait_s():
            raise NetworkException(
                f"{self.url} has not answered {self._breaker.failures} times in a row; "
                f"it is left alone for {wait_s:.1f} s.",
                {"url": self.url, "cause": "circuit open", "retry_after_s": wait_s},
            )
        try:
            result = await self._persistently(method, params, on_progress, idempotent)
        except NetworkException:
            self._breaker.failed()
            raise
        except TaleBaseException:
            self._breaker.succeeded()
            raise
        except BaseException:
            self._breaker.withdrawn()
            raise
        self._breaker.succeeded()
        return result

    async def _persistently(
        self, method: str, params: Message, on_progress: OnProgress | None, idempotent: bool
    ) -> Message:
        """One request, made again where that does no harm."""
        headers = self._parameter_headers.of(method, params)
        for attempt in itertools.count(1):
            pause_s = self._backoff_s * 2 ** (attempt - 1) * (0.5 + self._draw())
            try:
                return await self._peer.ask(method, params, on_progress, headers)
            except failures.Busy as busy:
                if attempt == ATTEMPTS or busy.retry_after_s > BUSY_LIMIT_S:
                    raise ServerException(
                        f"The server takes no more requests now; try again in {busy.retry_after_s:g} s.",
                        {"url": self.url, "retry_after_s": busy.retry_after_s},
                    ) from busy
                pause_s += busy.retry_after_s
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                undelivered = isinstance(error, aiohttp.ClientConnectorError)
                if attempt == ATTEMPTS or not (undelivered or idempotent):
                    raise failures.unreachable(self.url, error) from error
            await asyncio.sleep(pause_s)
        raise AssertionError("the loop above returns or raises")
