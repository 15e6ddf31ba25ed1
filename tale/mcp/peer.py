"""One MCP server as it is spoken to in its own era: handshakes, exchanges, streams that are taken up again."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import urlsplit

import aiohttp

from tale.exceptions import ServerException
from tale.mcp import envelopes, failures
from tale.mcp.answers import AnswerReader, NotAMessage
from tale.mcp.envelopes import HANDSHAKE_VERSIONS, MODERN_VERSION, ClientSession, Envelope
from tale.mcp.places import LOOPBACK_NAMES
from tale.mcp.questions import OnQuestion, answer_to
from tale.mcp.standing_stream import StandingStream
from tale.mcp.wire import EVENT_STREAM, LAST_EVENT_HEADER, SESSION_HEADER, Message, as_object, notification
from tale.traces import TRACE_HEADER, current_trace, traceparent_of

CONNECT_LIMIT_S: Final = 5.0
CLOSE_LIMIT_S: Final = 1.0  # for last words to the server
QUOTED_CHARACTERS: Final = 20
STREAM_ATTEMPTS: Final = 3  # in a row, to take up a stream that broke
LINE_LIMIT_BYTES: Final = 16 * 1024 * 1024
ERROR_STATUS, BAD_REQUEST, NOT_FOUND = 400, 400, 404

OnProgress = Callable[[float, float | None, str | None], None]

logger = logging.getLogger(__name__)


class _SessionLost(Exception):
    """The server does not know the session, or not any more."""


class Peer:
    """Speaks the modern era, and the handshake to a server that knows only that. `timeout_s` limits silence."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        timeout_s: float,
        on_question: OnQuestion | None,
        capabilities: Mapping[str, Any],
        modern: bool,
    ) -> None:
        self.url = url
        self._api_key = api_key
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_LIMIT_S, sock_read=timeout_s)
        self._on_question = on_question
        self._capabilities = capabilities
        self._modern = modern
        self._http: aiohttp.ClientSession | None = None
        self._ids = itertools.count(1)
        self._session: ClientSession | None = None
        self._standing: StandingStream | None = None
        self._handshake = asyncio.Lock()
        self._last_words: set[asyncio.Task[None]] = set()

    def http(self) -> aiohttp.ClientSession:
        """The pooled connections to this server."""
        if self._http is None:
            headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
            self._http = aiohttp.ClientSession(
                headers={**headers, "Accept": f"application/json, {EVENT_STREAM}"},
                timeout=self._timeout,
                trust_env=urlsplit(self.url).hostname not in LOOPBACK_NAMES,
                read_bufsize=LINE_LIMIT_BYTES,
            )
        return self._http

    async def ask(
        self, method: str, params: Message, on_progress: OnProgress | None, headers: Mapping[str, str]
    ) -> Message:
        """The result of one request.

        Raises aiohttp.ClientError or TimeoutError when the server does not answer, failures.Busy when it will not now,
        and an exception of tale when it refuses.
        """
        reopened = repeated = False
        while True:
            session = None if self._modern else await self._open_session()
            try:
                answer = await self._exchange(session, method, params, on_progress, headers)
            except _SessionLost:
                if reopened:
                    raise ServerException("The server forgets each session at once.", {"url": self.url}) from None
                reopened = True
                continue
            result, refusal = answer.get("result"), as_object(answer.get("error"))
            if isinstance(result, dict) and not refusal:
                return cast("Message", result)
            if not refusal:
                raise failures.foreign(self.url, HTTPStatus.OK, str(answer))
            if session is None and failures.means_handshake_only(refusal, MODERN_VERSION):
                self._modern = False
            elif refusal.get("code") == failures.UNSUPPORTED_VERSION_CODE and not repeated:
                repeated = True  # the server has our version among those that it names
            else:
                raise failures.of_protocol(refusal, self.url)

    async def close(self) -> None:
        """End the session, if there is one, and close the connections."""
        if self._last_words:  # they go over the connections that are closed next
            _, unsaid = await asyncio.wait(self._last_words, timeout=CLOSE_LIMIT_S)
            for task in unsaid:
                task.cancel()
        http, self._http = self._http, None
        if http is None:
            return
        if self._standing is not None:
            await self._standing.close()
        session, self._session = self._session, None
        if session is not None and session.session_id is not None:
            limit = aiohttp.ClientTimeout(total=CLOSE_LIMIT_S)
            try:
                async with http.delete(f"{self.url}/mcp", headers=session.headers, timeout=limit):
                    pass
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.debug("The session could not be ended: %s", error)
        await http.close()

    async def _open_session(self) -> ClientSession:
        async with self._handshake:  # calls that come side by side open one
            if self._session is None:
                self._session = await self._shake_hands()
                await self._listen(self._session)
            return self._session

    async def _listen(self, session: ClientSession) -> None:
        """Whoever answers questions hears those, too, that a server asks outside of its answers."""
        if self._standing is not None:
            await self._standing.close()
            self._standing = None
        if self._on_question is None or session.session_id is None:
            return

        async def on_message(message: Message) -> None:
            await self._receive(message, session, None)

        self._standing = StandingStream(self.http(), f"{self.url}/mcp", session, on_message)
        await self._standing.open()

    async def _shake_hands(self) -> ClientSession:
        request_id = next(self._ids)
        envelope = envelopes.initialize(request_id, capabilities=self._capabilities)
        async with self.http().post(f"{self.url}/mcp", json=envelope.body) as response:
            answer = await self._read(response, AnswerReader(request_id, _ignore))
            session_id = response.headers.get(SESSION_HEADER)
        result: object = (answer or {}).get("result")
        if not isinstance(result, dict):
            raise failures.of_protocol(as_object((answer or {}).get("error")), self.url)
        version = str(cast("Message", result).get("protocolVersion"))
        if version not in HANDSHAKE_VERSIONS:
            raise ServerException(
                f"The server speaks version {version[:QUOTED_CHARACTERS]!r} of the protocol, which is not known here.",
                {"url": self.url},
            )
        session = ClientSession(session_id, version)
        await self._tell(session, notification("notifications/initialized", None))
        return session

    async def _exchange(
        self,
        session: ClientSession | None,
        method: str,
        params: Message,
        on_progress: OnProgress | None,
        headers: Mapping[str, str],
    ) -> Message:
        request_id, wants_progress = next(self._ids), on_progress is not None
        if session is None:
            envelope = envelopes.modern(
                method, params, request_id, capabilities=self._capabilities, wants_progress=wants_progress
            )
            envelope.headers.update(headers)
        else:
            envelope = envelopes.in_session(session, method, params, request_id, wants_progress=wants_progress)
        if trace_id := current_trace.get():
            envelope.headers[TRACE_HEADER] = traceparent_of(trace_id)

        async def on_message(message: Message) -> None:
            await self._receive(message, session, on_progress)

        try:
            return await self._post(session, envelope, AnswerReader(request_id, on_message))
        except asyncio.CancelledError:
            if session is not None:  # in the modern era the lost connection says it
                self._say_last(session, notification("notifications/cancelled", {"requestId": request_id}))
            raise

    async def _post(self, session: ClientSession | None, envelope: Envelope, reader: AnswerReader) -> Message:
        answer = None
        try:
            async with self.http().post(f"{self.url}/mcp", json=envelope.body, headers=envelope.headers) as response:
                if session is not None and response.status == NOT_FOUND:
                    if self._session is session:  # another call may have opened a new one meanwhile
                        self._session = None
                    raise _SessionLost
                answer = await self._read(response, reader)
        except (aiohttp.ClientError, TimeoutError):
            if session is None or reader.last_event_id is None:
                raise
        return answer if answer is not None else await self._take_up(session, reader)

    async def _take_up(self, session: ClientSession | None, reader: AnswerReader) -> Message:
        """Read on where a stream ended before the answer came."""
        if session is None:
            raise aiohttp.ServerDisconnectedError("the stream ended without an answer")
        breaks = 0
        while True:
            await asyncio.sleep(reader.retry_s)
            headers = {**session.headers, "Accept": EVENT_STREAM, LAST_EVENT_HEADER: reader.last_event_id or ""}
            try:
                async with self.http().get(f"{self.url}/mcp", headers=headers) as response:
                    if response.status >= ERROR_STATUS:
                        raise aiohttp.ServerDisconnectedError("the stream cannot be taken up again")
                    answer = await self._read(response, reader)
            except (aiohttp.ClientConnectorError, aiohttp.ClientPayloadError, TimeoutError):
                breaks += 1
                if breaks == STREAM_ATTEMPTS:
                    raise
                continue
            if answer is not None:
                return answer
            breaks = 0

    async def _read(self, response: aiohttp.ClientResponse, reader: AnswerReader) -> Message | None:
        failures.refuse_unserved(response.status, response.headers, self.url)
        try:
            return await reader.read(response)
        except NotAMessage as error:
            if response.status == BAD_REQUEST and error.text:  # some servers refuse in plain words
                return {"error": {"message": error.text}}
            raise failures.foreign(self.url, response.status, error.text) from error

    async def _receive(self, message: Message, session: ClientSession | None, on_progress: OnProgress | None) -> None:
        """Take what comes on a response's stream before the answer."""
        if "id" in message and "method" in message:
            if session is not None:
                await self._tell(session, await answer_to(message, self._on_question))
        elif message.get("method") == "notifications/progress" and on_progress:
            told = as_object(message.get("params"))
            progress, total, text = (told.get(name) for name in ("progress", "total", "message"))
            if isinstance(progress, int | float):
                on_progress(
                    progress, total if isinstance(total, int | float) else None, text if isinstance(text, str) else None
                )

    async def _tell(self, session: ClientSession, message: Message) -> None:
        async with self.http().post(f"{self.url}/mcp", json=message, headers=session.headers):
            return

    def _say_last(self, session: ClientSession, message: Message) -> None:
        async def say() -> None:
            try:
                await self._tell(session, message)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.debug("The server could not be told of a cancellation: %s", error)

        task = asyncio.create_task(say(), name="mcp-last-words")
        self._last_words.add(task)
        task.add_done_callback(self._last_words.discard)


async def _ignore(_: Message) -> None:
    """What comes beside the answer to a handshake is of no interest."""
