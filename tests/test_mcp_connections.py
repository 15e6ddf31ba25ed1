"""Connections that are slow, huge or no good HTTP are answered in a line, and end soon."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
from fakes.mcp_workshop import Caller, Workshop, calling, request

from tale.mcp.connection import ConnectionLimits
from tale.mcp.http_server import Limits

QUICK = ConnectionLimits(headers_s=0.1, body_s=0.1, idle_s=5.0, linger_s=0.05, connections=3)
HEAD = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
PING = json.dumps(request("ping")).encode()


@dataclass
class Line:
    """A bare connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """All that comes until the server closes, or resets what was still being sent."""
        told = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(10):
                while data := await self.reader.read(4_096):
                    told += data
        return told

    async def answer(self) -> tuple[int, bytes]:
        """One answer on a connection that stays open."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
            return int(head.split()[1]), await self.reader.readexactly(length)


@pytest.fixture
async def client() -> AsyncIterator[Caller]:
    async with calling(Workshop().server(limits=Limits(body_bytes=10_000, connection=QUICK))) as caller:
        yield caller


@asynccontextmanager
async def connected(client: Caller) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(client.url.rpartition(":")[2]))
    yield Line(reader, writer)
    writer.close()


async def said(client: Caller, data: bytes) -> tuple[int, bytes]:
    """The status and body of the answer to these bytes, after which the server closes."""
    async with connected(client) as line:
        await line.send(data)
        head, _, body = (await line.rest()).partition(b"\r\n\r\n")
        return int(head.split()[1]), body


# Bytes that are no good HTTP


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 9_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: x\r\n" % number for number in range(500)) + b"\r\n", 431),
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (HEAD + b"No colon\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
        (HEAD + b"Content-Length: -5\r\n\r\nhello", 400),
        (HEAD + b"Content-Length: 5x\r\n\r\nhello", 400),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"X: a\r\n b\r\n\r\n", 400),
    ],
)
async def test_what_is_no_good_http_is_refused_in_a_line(
    client: Caller, data: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        told, body = await said(client, data)
    assert told == status
    assert json.loads(body)["error"]["message"]
    assert "Traceback" not in caplog.text


# Too slow


@pytest.mark.parametrize("data", [b"", b"POST", b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"])
async def test_headers_have_to_come_soon(client: Caller, data: bytes) -> None:
    status, body = await said(client, data)
    assert (status, body) == (408, b"")


async def test_headers_that_trickle_are_given_up(client: Caller) -> None:
    async with connected(client) as line:
        await line.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n")
        trickle = asyncio.create_task(_trickle(line, b"X-A: b\r\n"))
        assert b" 408 " in await line.rest()
        trickle.cancel()


async def test_a_connection_may_rest_between_requests_but_not_in_the_midst_of_one(client: Caller) -> None:
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(PING) + PING
    async with connected(client) as line:
        await line.send(whole)
        assert (await line.answer())[0] == 200
        await asyncio.sleep(0.2)  # longer than headers may take: nothing has begun, so nothing is late
        await line.send(whole)
        assert (await line.answer())[0] == 200
        await line.send(HEAD)
        assert b" 408 " in await line.rest()


async def test_a_body_has_to_come_soon(client: Caller) -> None:
    status, body = await said(client, HEAD + b"Content-Length: 100\r\n\r\n{")
    assert status == 408
    assert json.loads(body)["error"]["message"] == "The body did not come within 0.1 s"


async def test_chunks_that_trickle_are_given_up(client: Caller) -> None:
    async with connected(client) as line:
        await line.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        trickle = asyncio.create_task(_trickle(line, b"1\r\n \r\n"))
        assert b" 408 " in await line.rest()
        trickle.cancel()


async def _trickle(line: Line, data: bytes) -> None:
    with suppress(ConnectionError):
        while not line.writer.is_closing():
            await line.send(data)
            await asyncio.sleep(0.01)


async def test_a_request_that_takes_long_is_not_slow(client: Caller) -> None:
    workshop = Workshop()
    async with calling(workshop.server(limits=Limits(connection=QUICK))) as patient:
        body = json.dumps(request("tools/call", {"name": "stall"})).encode()
        async with connected(patient) as line:
            await line.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await workshop.started.wait()
            await asyncio.sleep(0.2)  # longer than headers and bodies may take
            workshop.release.set()
            assert (await line.answer())[0] == 200


# Too much


async def test_a_body_that_is_too_large_is_refused(client: Caller) -> None:
    answer = await client.post(b" " * 10_001)
    assert answer.status == 413
    assert answer.headers["Connection"] == "close"
    assert answer.error["message"] == "The body is larger than the 10,000 bytes that are taken"


async def test_a_body_that_grows_when_it_is_unpacked_is_refused() -> None:
    async with calling(Workshop().server(limits=Limits(body_bytes=10_000))) as client:
        for size in (1_000_000, 50_000_000):
            body = gzip.compress(b" " * size)
            assert (await client.post(body, {"Content-Encoding": "gzip"})).status == 413


async def test_a_body_that_is_not_packed_as_it_says_is_refused(
    client: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.post(b"no deflate at all", {"Content-Encoding": "deflate"})
    assert "Traceback" not in caplog.text
    assert answer.status == 400
    assert answer.headers["Connection"] == "close"
    assert answer.error["message"] == "The body cannot be read as its headers describe it"


async def test_connections_beyond_the_limit_are_sent_away(client: Caller, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(client) as first, connected(client), connected(client):
        async with connected(client) as fourth:
            refused = await fourth.rest()
            assert b" 503 " in refused
            assert b"Retry-After: 1\r\n" in refused
        await first.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await first.answer())[0] == 200
    assert "too many connections" in caplog.text
