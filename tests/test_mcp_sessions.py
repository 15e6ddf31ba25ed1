"""Sessions are capped, expire when nobody uses them, and carry what the server has to say by itself."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from fakes.mcp_workshop import Caller, Workshop, call, calling, events_of, initialize, request
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import NoBackChannelError

from tale.mcp.http_server import HTTPMCPServer, Limits
from tale.mcp.sessions import Session, Sessions
from tale.mcp.wire import Message


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sessions() -> AsyncIterator[Sessions]:
    sessions = Sessions(limit=2, idle_s=60.0)
    yield sessions
    await sessions.close()


def new_session(clock: Clock) -> Session:
    return Session(Server("bare"), None, clock=clock)


def opened(sessions: Sessions, clock: Clock) -> Session:
    session = new_session(clock)
    sessions.add(session)
    return session


# How many, and for how long


async def test_a_session_is_forgotten_when_nobody_uses_it(sessions: Sessions, clock: Clock) -> None:
    used, unused = opened(sessions, clock), opened(sessions, clock)
    clock.now = 59.0
    used.touch()
    await sessions.expire()
    assert len(sessions) == 2
    clock.now = 61.0
    await sessions.expire()
    assert sessions.get(unused.id) is None
    assert sessions.get(used.id) is used


async def test_a_session_with_a_request_in_flight_is_not_idle(sessions: Sessions, clock: Clock) -> None:
    session = opened(sessions, clock)
    blocked = asyncio.create_task(asyncio.Event().wait())
    session.in_flight[1] = blocked
    clock.now = 1_000.0
    await sessions.expire()
    assert len(sessions) == 1
    await sessions.close()
    assert blocked.cancelled()


async def test_idleness_counts_from_the_end_of_the_standing_stream(sessions: Sessions, clock: Clock) -> None:
    session = opened(sessions, clock)
    with session.reading():
        clock.now = 1_000.0
        await sessions.expire()
        assert len(sessions) == 1
    await sessions.expire()
    assert len(sessions) == 1
    clock.now = 1_061.0
    await sessions.expire()
    assert len(sessions) == 0


async def test_the_session_idle_for_longest_makes_room(sessions: Sessions, clock: Clock) -> None:
    first = opened(sessions, clock)
    clock.now = 1.0
    second = opened(sessions, clock)
    clock.now = 2.0
    assert await sessions.make_room()
    assert sessions.get(first.id) is None
    assert sessions.get(second.id) is second


async def test_busy_sessions_make_no_room(sessions: Sessions, clock: Clock) -> None:
    with opened(sessions, clock).reading(), opened(sessions, clock).reading():
        assert not await sessions.make_room()
        assert len(sessions) == 2


async def test_one_client_more_than_there_may_be_is_refused_while_all_are_busy() -> None:
    workshop = Workshop()
    async with calling(workshop.server(limits=Limits(sessions=1))) as client:
        await client.open_session()
        busy = asyncio.create_task(client.in_session(request("tools/call", call("wait"))))
        await workshop.started.wait()
        refused = await client.post(initialize())
        assert refused.status == 503
        assert "too many sessions" in refused.error["message"]
        workshop.release.set()
        await busy
        assert (await client.post(initialize())).status == 200
        assert (await client.in_session(request("ping"))).status == 404


async def test_sessions_that_expired_are_closed_without_anybody_asking() -> None:
    server = Workshop().server(limits=Limits(session_idle_s=0.01))
    async with calling(server) as client:
        await client.open_session()
        async with asyncio.timeout(10):
            while len(server.endpoint.sessions):
                await asyncio.sleep(0.005)
        assert (await client.in_session(request("ping"))).status == 404


# What the server says by itself


@pytest.fixture
async def held() -> AsyncIterator[tuple[HTTPMCPServer, Caller, Session]]:
    """A server, a caller, and the session it has open."""
    server = Workshop().server()
    async with calling(server) as client:
        await client.open_session()
        session = server.endpoint.sessions.get(client.session_id or "")
        assert session is not None
        yield server, client, session


def stream_of(client: Caller) -> Any:
    headers = {"Accept": "text/event-stream", **client.session_headers()}
    return client.http.get(f"{client.url}/mcp", headers=headers)


async def next_message(stream: aiohttp.ClientResponse) -> Message:
    """The next message; comments, and events without data, are passed over."""
    while True:
        found = events_of((await stream.content.readuntil(b"\n\n")).decode())
        if found:
            return found[0]


async def test_a_notification_waits_for_the_stream_to_open(held: tuple[HTTPMCPServer, Caller, Session]) -> None:
    _, client, session = held
    await session.notify("notifications/tools/list_changed", None)
    async with stream_of(client) as stream:
        assert stream.headers["Mcp-Session-Id"] == session.id
        changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
        assert await next_message(stream) == changed
        await session.notify("notifications/message", {"level": "info", "data": "x"})
        assert (await next_message(stream))["params"] == {"level": "info", "data": "x"}


async def test_a_session_has_one_standing_stream_at_a_time(held: tuple[HTTPMCPServer, Caller, Session]) -> None:
    _, client, session = held
    async with stream_of(client), stream_of(client) as second:
        assert second.status == 409
    async with asyncio.timeout(10):
        while session.streams.standing.is_carried:
            await asyncio.sleep(0)
    async with stream_of(client) as again:
        assert again.status == 200


async def test_a_question_needs_a_stream(clock: Clock) -> None:
    with pytest.raises(NoBackChannelError):
        await new_session(clock).send_raw_request("roots/list", None)


async def test_a_question_is_asked_on_the_stream_and_answered_by_a_post(
    held: tuple[HTTPMCPServer, Caller, Session],
) -> None:
    _, client, session = held
    async with stream_of(client) as stream:
        asked = asyncio.create_task(session.send_raw_request("roots/list", {"x": 1}))
        question = await next_message(stream)
        assert (question["method"], question["params"]) == ("roots/list", {"x": 1})
        assert (await client.in_session({"jsonrpc": "2.0", "id": "other", "result": {}})).status == 202
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}}
        assert (await client.in_session(answer)).status == 202
        assert await asked == {"roots": []}
        assert (await client.in_session(answer)).status == 202  # nobody waits for it any more


async def asking(session: Session) -> tuple[asyncio.Task[Message], str]:
    """A question that is under way, and its id."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    task = asyncio.create_task(session.ask(send, "roots/list", None, None))
    while not sent:
        await asyncio.sleep(0)
    return task, sent[0]["id"]


async def test_a_client_may_answer_with_an_error(clock: Clock) -> None:
    session = new_session(clock)
    task, request_id = await asking(session)
    session.receive_answer({"id": request_id, "error": {"code": -1, "message": "User said no"}})
    session.receive_answer({"id": request_id, "result": {}})  # too late
    with pytest.raises(MCPError, match="User said no"):
        await task


@pytest.mark.parametrize("nonsense", [{}, {"result": 5}, {"error": "no"}])
async def test_an_answer_that_is_none_is_an_error(clock: Clock, nonsense: Message) -> None:
    session = new_session(clock)
    task, request_id = await asking(session)
    session.receive_answer({"id": request_id, **nonsense})
    with pytest.raises(MCPError, match="neither result nor error"):
        await task


async def test_a_question_may_have_a_time_limit(clock: Clock) -> None:
    async def send(_: Message) -> None:
        pass

    with pytest.raises(TimeoutError):
        await new_session(clock).ask(send, "roots/list", None, {"timeout": 0.01})


async def test_the_stream_ends_with_its_session(
    held: tuple[HTTPMCPServer, Caller, Session], caplog: pytest.LogCaptureFixture
) -> None:
    server, client, session = held
    async with stream_of(client) as stream:
        with caplog.at_level(logging.DEBUG):
            assert await server.endpoint.sessions.remove(session.id)
        assert events_of(await stream.text()) == []
    assert not await server.endpoint.sessions.remove(session.id)


async def test_a_stopping_server_opens_no_more_streams(held: tuple[HTTPMCPServer, Caller, Session]) -> None:
    server, client, _ = held
    server.endpoint.hang_up()
    async with stream_of(client) as stream:
        assert stream.status == 503
        assert (await stream.json())["error"]["message"] == "The server is stopping"


@pytest.mark.parametrize(
    ("method", "headers", "status", "said"),
    [
        ("GET", {"Mcp-Session-Id": "unknown"}, 404, "Session not found; initialize again"),
        ("DELETE", {"Mcp-Session-Id": "unknown"}, 404, "Session not found; initialize again"),
        ("GET", {"Mcp-Session-Id": "unknown", "Accept": "text/html"}, 406, "text/event-stream; accept it"),
        ("GET", {}, 405, "POST initialize first"),
    ],
)
async def test_a_stream_that_cannot_be_is_refused_in_the_form_of_every_refusal(
    method: str, headers: dict[str, str], status: int, said: str
) -> None:
    sent = {"Accept": "text/event-stream", **headers}
    async with (
        calling(Workshop().server()) as client,
        client.http.request(method, f"{client.url}/mcp", headers=sent) as answer,
    ):
        assert answer.status == status
        assert said in (await answer.json())["error"]["message"]
