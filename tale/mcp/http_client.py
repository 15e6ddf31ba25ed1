"""A client for MCP servers on HTTP: light (no SDK), pooled, patient while a server works, clear when it is gone."""

import asyncio
import itertools
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Final, cast
from urllib.parse import urlsplit

import aiohttp

from tale import __version__, exceptions
from tale.constants import DEFAULT_HTTP_TIMEOUT
from tale.exceptions import NetworkException, ServerException, TaleBaseException, ValidationException

MODERN_VERSION: Final = "2026-07-28"
HANDSHAKE_VERSION: Final = "2025-11-25"
META: Final = "io.modelcontextprotocol"
SESSION_HEADER: Final = "Mcp-Session-Id"
ERROR_META_KEY: Final = "tale/error"
ATTEMPTS: Final = 3
BACKOFF_S: Final = 0.1
CONNECT_LIMIT_S: Final = 5.0
LINE_LIMIT_BYTES: Final = 16 * 1024 * 1024
UNAUTHORIZED, NOT_FOUND, ERROR_STATUS = 401, 404, 400
UNSUPPORTED_VERSION_CODE: Final = -32022

Message = dict[str, Any]
OnProgress = Callable[[float, float | None, str | None], None]

logger = logging.getLogger(__name__)


class HTTPMCPClient:
    """Talks to one server. Speaks the protocol's modern era, and the handshake to servers that know only that.

    `timeout_s` limits silence, not the whole call: a call may take as long as its server shows signs of life.
    Cancelling a call closes its response, which the server takes as a cancel. Raises NetworkException with the URL and
    the cause when the server cannot be reached, and the server's own exception when a tool refuses.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = DEFAULT_HTTP_TIMEOUT) -> None:
        self.url = url.rstrip("/").removesuffix("/mcp")
        self._api_key = api_key
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S, sock_read=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._ids = itertools.count(1)
        self._handshake_id: str | None = None  # of the session, with a server of the handshake era
        self._modern = True

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
            async with self._http().get(f"{self.url}/health") as response:
                body = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._unreachable(error) from error
        if not isinstance(body, dict) or response.status >= ERROR_STATUS:
            raise NetworkException("What answers is not a tale server.", {"url": self.url, "status": response.status})
        return cast("dict[str, Any]", body)

    async def list_tools(self) -> list[dict[str, Any]]:
        """The server's tools with their schemas."""
        tools: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = await self._request("tools/list", {"cursor": cursor} if cursor else {}, None, None, idempotent=True)
            tools += page["tools"]
            cursor = page.get("nextCursor")
            if not cursor:
                return tools

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
                result = await self._request("tools/call", params, name, on_progress, idempotent=idempotent)
        except TimeoutError as error:
            raise NetworkException(
                f"{name} took longer than {timeout_s:g} s.", {"url": self.url, "cause": "timeout"}
            ) from error
        if result.get("isError"):
            raise _tool_failure(result)
        structured = result.get("structuredContent")
        return cast("dict[str, Any]", structured) if isinstance(structured, dict) else {"result": _text_of(result)}

    async def close(self) -> None:
        """End the session, if there is one, and close the connections."""
        session, self._session = self._session, None
        if session is None:
            return
        if self._handshake_id is not None:
            headers = {SESSION_HEADER: self._handshake_id, "Mcp-Protocol-Version": HANDSHAKE_VERSION}
            try:
                async with session.delete(f"{self.url}/mcp", headers=headers):
                    self._handshake_id = None
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.debug("The session could not be ended: %s", error)
        await session.close()

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
            local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
            self._session = aiohttp.ClientSession(
                headers={**headers, "Accept": "application/json, text/event-stream"},
                timeout=self._timeout,
                trust_env=not local,
                read_bufsize=LINE_LIMIT_BYTES,
            )
        return self._session

    async def _request(
        self, method: str, params: Message, name: str | None, on_progress: OnProgress | None, *, idempotent: bool
    ) -> Message:
        for attempt in itertools.count(1):
            try:
                return await self._send(method, params, name, on_progress)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                undelivered = isinstance(error, aiohttp.ClientConnectorError)
                if attempt == ATTEMPTS or not (undelivered or idempotent):
                    raise self._unreachable(error) from error
                await asyncio.sleep(BACKOFF_S * 2**attempt * (0.5 + random.random()))  # noqa: S311 - jitter
        raise AssertionError("the loop above returns or raises")

    async def _send(self, method: str, params: Message, name: str | None, on_progress: OnProgress | None) -> Message:
        if not self._modern and self._handshake_id is None:
            await self._shake_hands()
        request_id = next(self._ids)
        body, headers = self._envelope(method, params, name, on_progress is not None, request_id)
        async with self._http().post(f"{self.url}/mcp", json=body, headers=headers) as response:
            answer = await self._answer(response, request_id, on_progress)
        error = answer.get("error")
        if error is None:
            return cast("Message", answer["result"])
        if self._modern and _knows_handshake_only(error):
            self._modern = False
            return await self._send(method, params, name, on_progress)
        if response.status == NOT_FOUND and self._handshake_id is not None:
            self._handshake_id = None  # the server was restarted: introduce ourselves again
            return await self._send(method, params, name, on_progress)
        raise _protocol_failure(error, self.url)

    def _envelope(
        self, method: str, params: Message, name: str | None, wants_progress: bool, request_id: int
    ) -> tuple[Message, dict[str, str]]:
        meta: Message = {"progressToken": request_id} if wants_progress else {}
        if self._modern:
            meta |= {
                f"{META}/protocolVersion": MODERN_VERSION,
                f"{META}/clientInfo": {"name": "tale", "version": __version__},
                f"{META}/clientCapabilities": {},
            }
            headers = {"Mcp-Protocol-Version": MODERN_VERSION, "Mcp-Method": method}
            if name is not None:
                headers["Mcp-Name"] = name
        else:
            headers = {"Mcp-Protocol-Version": HANDSHAKE_VERSION, SESSION_HEADER: self._handshake_id or ""}
        if meta:
            params = {**params, "_meta": meta}
        return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}, headers

    async def _shake_hands(self) -> None:
        params = {
            "protocolVersion": HANDSHAKE_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "tale", "version": __version__},
        }
        body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        async with self._http().post(f"{self.url}/mcp", json=body) as response:
            answer = await self._answer(response, 0, None)
            if error := answer.get("error"):
                raise _protocol_failure(error, self.url)
            self._handshake_id = response.headers.get(SESSION_HEADER, "")
        headers = {"Mcp-Protocol-Version": HANDSHAKE_VERSION, SESSION_HEADER: self._handshake_id}
        ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        async with self._http().post(f"{self.url}/mcp", json=ready, headers=headers):
            return

    async def _answer(
        self, response: aiohttp.ClientResponse, request_id: int, on_progress: OnProgress | None
    ) -> Message:
        if response.status == UNAUTHORIZED:
            raise ServerException("The server asks for a key; give it in TALE_API_KEY.", {"url": self.url})
        if response.content_type == "text/event-stream":
            async for message in _events(response):
                if message.get("id") == request_id and "method" not in message:
                    return message
                if message.get("method") == "notifications/progress" and on_progress:
                    told = cast("Message", message.get("params") or {})
                    on_progress(told.get("progress", 0), told.get("total"), told.get("message"))
            raise aiohttp.ServerDisconnectedError("the stream ended without an answer")
        try:
            body = await response.json(content_type=None)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            text = (await response.text())[:200].strip()
            raise NetworkException(
                f"The server answered {response.status} {text!r}, which is no MCP message.", {"url": self.url}
            )
        return cast("Message", body)

    def _unreachable(self, error: Exception) -> NetworkException:
        cause = str(error) or type(error).__name__
        return NetworkException(f"{self.url} does not answer.", {"url": self.url, "cause": cause})


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Message]:
    """The JSON messages of an event stream."""
    data: list[str] = []
    async for raw in response.content:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            message = json.loads("\n".join(data))
            data.clear()
            if isinstance(message, dict):
                yield cast("Message", message)


def _knows_handshake_only(error: Message) -> bool:
    if error.get("code") == UNSUPPORTED_VERSION_CODE:
        return True
    text = str(error.get("message", "")).lower()
    return "protocol version" in text or "session" in text


def _tool_failure(result: Message) -> TaleBaseException:
    told = cast("Message", result.get("_meta") or {}).get(ERROR_META_KEY)
    if isinstance(told, dict):
        described = cast("Message", told)
        kind = getattr(exceptions, str(described.get("type")), None)
        if isinstance(kind, type) and issubclass(kind, TaleBaseException):
            return kind(str(described.get("message")), described.get("context"))
    return ServerException(_text_of(result) or "The tool failed and did not say why.")


def _protocol_failure(error: Message, url: str) -> TaleBaseException:
    invalid_params = -32602
    kind = ValidationException if error.get("code") == invalid_params else ServerException
    return kind(f"{error.get('message')}.", {"url": url, "code": error.get("code")})


def _text_of(result: Message) -> str:
    blocks = cast("list[Message]", result.get("content") or [])
    return "\n".join(str(block["text"]) for block in blocks if block.get("type") == "text")
