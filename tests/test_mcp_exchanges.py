"""Progress, cancellation and sessions: what an exchange is beyond a question and its answer."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.mcp_workshop import (
    HANDSHAKE,
    MODERN,
    Caller,
    Workshop,
    call,
    calling,
    events_of,
    initialize,
    modern_request,
    request,
)

from tale.mcp.http_server import Limits


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
async def client(workshop: Workshop) -> AsyncIterator[Caller]:
    async with calling(workshop.server(limits=Limits(body_bytes=10_000))) as caller:
        yield caller


@pytest.fixture
async def impatient(workshop: Workshop) -> AsyncIterator[Caller]:
    """A caller of a server that lets a stream be silent for no more than a moment."""
    async with calling(workshop.server(limits=Limits(ping_interval_s=0.01))) as caller:
        yield caller


# Progress


async def test_progress_comes_before_the_result_in_both_eras(client: Caller) -> None:
    modern = await client.modern("tools/call", call("count", {"to": 2}, token=7))
    await client.open_session()
    session = await client.in_session(request("tools/call", call("count", {"to": 2}, token=7)))
    for answer in (modern, session):
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["X-Accel-Buffering"] == "no"
        *steps, result = answer.messages
        assert [step["params"] for step in steps] == [
            {"progressToken": 7, "progress": number, "total": 2, "message": f"now {number}"} for number in (1, 2)
        ]
        assert result["result"]["structuredContent"] == {"result": 2}


async def test_progress_is_sent_only_to_those_who_ask_and_can_read_it(client: Caller) -> None:
    unasked = await client.modern("tools/call", call("count", {"to": 2}))
    deaf = await client.modern("tools/call", call("count", {"to": 2}, token=7), Accept="application/json")
    for answer in (unasked, deaf):
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.result["structuredContent"] == {"result": 2}


@pytest.mark.parametrize("tool", ["wait", "stall"])
async def test_a_silent_request_is_kept_alive_by_comments(impatient: Caller, workshop: Workshop, tool: str) -> None:
    body, headers = modern_request("tools/call", call(tool))
    sent = {**headers, "Accept": "application/json, text/event-stream"}
    async with impatient.http.post(f"{impatient.url}/mcp", json=body, headers=sent) as response:
        for _ in range(3):
            assert await response.content.readuntil(b"\n\n") == b": ping\n\n"
        workshop.release.set()
        rest = await response.text()
    assert "result" in events_of(rest)[-1]


async def test_a_client_that_reads_no_streams_gets_no_comments(impatient: Caller, workshop: Workshop) -> None:
    asked = asyncio.create_task(impatient.modern("tools/call", call("stall"), Accept="application/json"))
    await workshop.started.wait()
    body, headers = modern_request("tools/call", call("stall"))
    async with impatient.http.post(f"{impatient.url}/mcp", json=body, headers=headers) as later:
        await later.content.readuntil(b"\n\n")  # a request that came after it is pinged already
        workshop.release.set()
    assert (await asked).headers["Content-Type"].startswith("application/json")


# Cancellation


async def test_the_loss_of_its_client_cancels_a_modern_request(client: Caller, workshop: Workshop) -> None:
    asked = asyncio.create_task(client.modern("tools/call", call("wait", token=1)))
    await workshop.started.wait()
    asked.cancel()
    await workshop.cancelled.wait()
    await _until_noted(workshop)
    (noted,) = workshop.calls
    assert (noted.method, noted.tool, noted.outcome) == ("tools/call", "wait", "cancelled")


async def test_a_session_cancels_by_its_word_alone(client: Caller, workshop: Workshop) -> None:
    await client.open_session()
    lost = asyncio.create_task(client.in_session(request("tools/call", call("wait", token=1), 5)))
    await workshop.started.wait()
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    again = await client.in_session(request("tools/call", call("echo", {"text": "x"}), 5))
    assert (again.status, again.error["message"]) == (400, "A request with this id is in flight already")
    assert not workshop.cancelled.is_set()
    word = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
    assert (await client.in_session(word)).status == 202
    await workshop.cancelled.wait()


@pytest.mark.parametrize(("tool", "status"), [("stall", 202), ("wait", 200)])
async def test_a_request_that_was_cancelled_ends_without_an_answer(
    client: Caller, workshop: Workshop, tool: str, status: int
) -> None:
    await client.open_session()
    asked = asyncio.create_task(client.in_session(request("tools/call", call(tool, token=1), "five")))
    await workshop.started.wait()
    await client.in_session({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "five"}})
    answer = await asked
    assert answer.status == status
    assert all("result" not in message and "error" not in message for message in answer.messages)
    assert workshop.calls[-1].outcome == "cancelled"


@pytest.mark.parametrize("params", [None, {}, {"requestId": 99}, {"requestId": None}, {"requestId": [5]}])
async def test_a_cancellation_of_nothing_does_nothing(client: Caller, params: dict[str, Any] | None) -> None:
    await client.open_session()
    word = {"jsonrpc": "2.0", "method": "notifications/cancelled", **({} if params is None else {"params": params})}
    assert (await client.in_session(word)).status == 202
    assert (await client.in_session(request("ping"))).result == {}


# Sessions


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", HANDSHAKE])
async def test_a_handshake_agrees_on_the_version_that_was_asked_for(client: Caller, version: str) -> None:
    answer = await client.post(initialize(version))
    assert answer.status == 200
    assert answer.result["protocolVersion"] == version
    assert answer.result["serverInfo"]["name"] == "workshop"
    assert answer.result["serverInfo"]["version"] == "1.2.3"
    assert answer.result["instructions"] == "Try the tools."
    assert len(answer.headers["Mcp-Session-Id"]) == 32


async def test_an_unknown_version_is_answered_with_the_latest(client: Caller) -> None:
    assert (await client.post(initialize("1999-01-01"))).result["protocolVersion"] == HANDSHAKE


async def test_a_handshake_that_fails_makes_no_session(workshop: Workshop) -> None:
    server = workshop.server()
    async with calling(server) as client:
        answer = await client.post(request("initialize", {"protocolVersion": 5}))
        assert answer.error["code"] == -32602
        assert "Mcp-Session-Id" not in answer.headers
        assert len(server.endpoint.sessions) == 0


async def test_a_session_ends_by_delete(client: Caller) -> None:
    await client.open_session()
    url, headers = f"{client.url}/mcp", client.session_headers()
    async with client.http.delete(url, headers=headers) as first, client.http.delete(url, headers=headers) as second:
        assert (first.status, second.status) == (200, 404)
    answer = await client.in_session(request("ping"))
    assert (answer.status, answer.error["message"]) == (404, "Session not found; initialize again")


async def test_a_session_that_is_deleted_cancels_what_it_has_in_flight(client: Caller, workshop: Workshop) -> None:
    await client.open_session()
    asked = asyncio.create_task(client.in_session(request("tools/call", call("wait"))))
    await workshop.started.wait()
    async with client.http.delete(f"{client.url}/mcp", headers=client.session_headers()) as response:
        assert response.status == 200
    assert workshop.cancelled.is_set()
    assert all("result" not in message for message in (await asked).messages)


async def test_errors_of_a_session_are_answers_like_others(client: Caller) -> None:
    await client.open_session()
    answer = await client.in_session(request("no/such"))
    assert (answer.status, answer.error["code"]) == (200, -32601)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 405),
        ({"Mcp-Protocol-Version": MODERN, "Mcp-Session-Id": "x"}, 405),
        ({"Mcp-Session-Id": "x", "Accept": "application/json"}, 406),
        ({"Mcp-Session-Id": "x"}, 404),
    ],
)
async def test_only_a_session_has_a_standing_stream(client: Caller, headers: dict[str, str], status: int) -> None:
    async with client.http.get(f"{client.url}/mcp", headers={"Accept": "text/event-stream", **headers}) as response:
        assert response.status == status


async def test_a_standing_stream_is_kept_alive(impatient: Caller) -> None:
    await impatient.open_session()
    headers = {"Accept": "text/event-stream", **impatient.session_headers()}
    async with impatient.http.get(f"{impatient.url}/mcp", headers=headers) as stream:
        assert b"retry:" in await stream.content.readuntil(b"\n\n")
        assert await stream.content.readuntil(b"\n\n") == b": ping\n\n"


async def test_a_tool_of_a_session_still_answers_after_its_client_came_back(
    client: Caller, workshop: Workshop, caplog: pytest.LogCaptureFixture
) -> None:
    await client.open_session()
    with caplog.at_level(logging.DEBUG, logger="tale"):
        lost = asyncio.create_task(client.in_session(request("tools/call", call("wait", token=1), 5)))
        await workshop.started.wait()
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        workshop.release.set()
        await _until_noted(workshop, 2)
    assert workshop.calls[-1].outcome == "ok"
    assert (await client.in_session(request("ping", request_id=5))).result == {}


async def _until_noted(workshop: Workshop, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while len(workshop.calls) < count:
            await asyncio.sleep(0)
