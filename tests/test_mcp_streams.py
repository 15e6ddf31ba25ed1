"""Event streams of a session can be taken up again where a connection was lost, and keep little while they wait."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import aiohttp
import pytest
from fakes.mcp_workshop import HANDSHAKE, Caller, Workshop, call, calling, events_of, initialize, request

from tale.mcp.base_server import ToolContext
from tale.mcp.http_server import HTTPMCPServer, Limits
from tale.mcp.sessions import Session
from tale.mcp.streams import Stream, Streams

PRIMED = re.compile(rb"id: (\d+-\d+)\nretry: \d+\ndata: \n\n")


class Waiter:
    """Tools that send their client away or talk while it is."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.told = asyncio.Event()

    async def leave(self, context: ToolContext) -> str:
        """Close the stream before the answer."""
        await context.close_stream()
        await self.release.wait()
        await context.progress(1, message="nearly")
        return "done"

    async def talk(self, context: ToolContext) -> str:
        """Tell something, wait, tell more."""
        await context.progress(1, message="first")
        self.told.set()
        await self.release.wait()
        await context.progress(2, message="second")
        return "done"


@pytest.fixture
def waiter() -> Waiter:
    return Waiter()


@pytest.fixture
async def server(waiter: Waiter) -> AsyncIterator[HTTPMCPServer]:
    server = Workshop().server(limits=Limits(ping_interval_s=30))
    server.add_tool(waiter.leave)
    server.add_tool(waiter.talk)
    yield server


@pytest.fixture
async def client(server: HTTPMCPServer) -> AsyncIterator[Caller]:
    async with calling(server) as client:
        await client.open_session()
        yield client


def only_session(server: HTTPMCPServer) -> Session:
    (session,) = server.endpoint.sessions
    return session


@asynccontextmanager
async def reading(client: Caller, event_id: str | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"Accept": "text/event-stream", **client.session_headers()}
    if event_id is not None:
        headers["Last-Event-ID"] = event_id
    async with client.http.get(f"{client.url}/mcp", headers=headers) as response:
        yield response


def ids_of(text: str) -> list[str]:
    return re.findall(r"^id: (\S+)$", text, re.MULTILINE)


def messages_of(text: str) -> list[str | None]:
    return [message.get("params", {}).get("message") for message in events_of(text)]


# What a client sees


async def test_a_stream_says_first_where_its_client_can_come_back_to(client: Caller) -> None:
    answer = await client.in_session(request("tools/call", call("count", {"to": 2}, token=1)))
    assert PRIMED.match(answer.text.encode())
    ids = ids_of(answer.text)
    assert ids == ["1-0", "1-1", "1-2", "1-3"]
    assert answer.result["structuredContent"] == {"result": 2}


async def test_an_older_client_gets_ids_and_no_event_without_data(server: HTTPMCPServer) -> None:
    async with calling(server) as client:
        answer = await client.post(initialize("2025-06-18"))
        client.session_id = answer.headers["Mcp-Session-Id"]
        await client.in_session({"jsonrpc": "2.0", "method": "notifications/initialized"})
        answer = await client.in_session(request("tools/call", call("count", {"to": 1}, token=1)))
    assert "retry:" not in answer.text
    assert ids_of(answer.text) == ["1-1", "1-2"]


async def test_a_tool_sends_its_client_away_and_answers_when_it_comes_back(client: Caller, waiter: Waiter) -> None:
    left = await client.in_session(request("tools/call", call("leave", token=9), 7))
    assert left.messages == []
    (event_id,) = ids_of(left.text)
    async with reading(client, event_id) as stream:
        waiter.release.set()
        text = await stream.text()
    assert messages_of(text) == ["nearly", None]
    assert events_of(text)[-1]["id"] == 7
    assert events_of(text)[-1]["result"]["structuredContent"] == {"result": "done"}


async def test_what_was_said_while_the_client_was_away_is_said_again(
    client: Caller, waiter: Waiter, server: HTTPMCPServer
) -> None:
    lost = asyncio.create_task(client.in_session(request("tools/call", call("talk", token=9), 7)))
    await waiter.told.wait()
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    waiter.release.set()
    async with asyncio.timeout(10):
        while only_session(server).in_flight:
            await asyncio.sleep(0)
    for event_id, expected in (("1-0", ["first", "second", None]), ("1-1", ["second", None]), ("1-3", [])):
        async with reading(client, event_id) as stream:
            assert messages_of(await stream.text()) == expected


async def test_a_client_that_comes_back_takes_over_from_its_dead_connection(client: Caller, waiter: Waiter) -> None:
    body, headers = request("tools/call", call("talk", token=9), 7), client.session_headers()
    headers |= {"Accept": "application/json, text/event-stream"}
    async with client.http.post(f"{client.url}/mcp", json=body, headers=headers) as first:
        await waiter.told.wait()
        async with reading(client, "1-1") as second:
            assert PRIMED.match(await second.content.readuntil(b"\n\n"))
            waiter.release.set()
            assert messages_of(await second.text()) == ["second", None]
        with pytest.raises(aiohttp.ClientError):
            await first.read()


async def test_the_standing_stream_is_taken_over_from_the_event_given(client: Caller, server: HTTPMCPServer) -> None:
    session = only_session(server)
    async with reading(client) as first:
        assert PRIMED.match(await first.content.readuntil(b"\n\n"))
        await session.notify("notifications/tools/list_changed", None)
        await session.notify("notifications/prompts/list_changed", None)
        assert b"tools/list_changed" in await first.content.readuntil(b"\n\n")
        async with reading(client, "0-1") as second:
            assert await first.read()  # ends: the second prompts/list_changed may have come already
            assert PRIMED.match(await second.content.readuntil(b"\n\n"))
            assert b"prompts/list_changed" in await second.content.readuntil(b"\n\n")
            async with reading(client) as third:
                assert third.status == 409


@pytest.mark.parametrize("event_id", ["", "x", "1", "99-1", "-1-1", "1-1 2", "1" * 40 + "-1", "\u00b9-\u00b9"])
async def test_events_that_are_not_kept_are_refused_in_words(client: Caller, event_id: str) -> None:
    async with reading(client, event_id) as response:
        assert response.status == 400
        assert "not kept any more" in await response.text()


# What is kept


async def follow(stream: Stream, after: int | None = None) -> list[bytes]:
    async with aclosing(stream.follow(after)) as events:
        return [event async for event in events]


async def test_of_many_events_the_newest_are_kept() -> None:
    streams = Streams(kept_events=3, kept_bytes=10_000)
    stream = streams.open()
    for number in range(10):
        stream.add(b"data: %d\n\n" % number)
    stream.end()
    assert [event[-3:-2] for event in await follow(stream, 0)] == [b"7", b"8", b"9"]


async def test_of_large_events_as_many_are_kept_as_fit_and_the_last_one_always() -> None:
    streams = Streams(kept_events=100, kept_bytes=1_000)
    first, second = streams.open(), streams.open()
    first.add(b"a" * 400)
    second.add(b"b" * 400)
    second.add(b"c" * 5_000)
    first.end()
    second.end()
    assert len((await follow(second, 0))[0]) > 5_000
    assert streams.find("1-0") is None


async def test_a_stream_that_ended_is_forgotten_with_its_last_event() -> None:
    streams = Streams(kept_events=2, kept_bytes=10_000)
    for _ in range(100):
        stream = streams.open()
        stream.add(b"data: 1\n\n")
        stream.end()
    silent = streams.open()
    silent.end()
    assert len(streams) == 3  # the standing one, and two with an event each


async def test_the_standing_stream_keeps_what_was_said_before_it_is_opened() -> None:
    streams = Streams()
    streams.standing.add(b"data: early\n\n")
    streams.standing.end()
    assert await follow(streams.standing) == [b"id: 0-1\ndata: early\n\n"]
    assert await follow(streams.standing) == []


async def test_the_version_of_the_session_decides(client: Caller, server: HTTPMCPServer) -> None:
    assert only_session(server).connection.protocol_version == HANDSHAKE
