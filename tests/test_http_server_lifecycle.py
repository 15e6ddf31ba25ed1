"""A server starts, stops and starts again on real sockets, and leaves nothing behind."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import psutil
import pytest
from aiohttp import web
from fakes.mcp_workshop import BOTH, Answer, Caller, Workshop, call, calling, initialize, modern_request, request

from tale.exceptions import ServerException
from tale.mcp import listener
from tale.mcp.http_server import HTTPMCPServer

GRACE_S = 30.0  # long enough that a test which needs it fails by what it looks at


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def caller(http: aiohttp.ClientSession, server: HTTPMCPServer) -> Caller:
    return Caller(http, f"http://127.0.0.1:{server.port}")


def sockets() -> int:
    return len(psutil.Process().net_connections(kind="inet"))


async def test_a_server_that_stopped_starts_again_on_its_port(workshop: Workshop, http: aiohttp.ClientSession) -> None:
    server = workshop.server()
    await server.start()
    port = server.port
    assert port > 0
    for _ in range(3):
        answer = await caller(http, server).plain("tools/call", call("echo", {"text": "hi"}))
        assert answer.result["structuredContent"] == {"text": "hi"}
        await server.stop()
        assert _refuses(port)
        await server.start()
        assert server.port == port
    await server.stop()


async def test_a_stopped_server_leaves_neither_sockets_nor_tasks(workshop: Workshop) -> None:
    tasks, open_sockets, descriptors = asyncio.all_tasks(), sockets(), psutil.Process().num_fds()
    server = workshop.server()
    for _ in range(3):
        async with calling(server) as client:
            await client.open_session()
            await client.in_session(request("tools/call", call("count", {"to": 3}, token=1)))
            await client.modern("tools/call", call("count", {"to": 3}, token=1))
            await client.post(b"{")
    await asyncio.sleep(0)  # transports that were closed let go of their sockets in the loop's next round
    assert asyncio.all_tasks() == tasks
    assert sockets() == open_sockets
    assert psutil.Process().num_fds() == descriptors


async def test_a_port_in_use_is_named_and_its_holder_left_alone(
    workshop: Workshop, http: aiohttp.ClientSession
) -> None:
    holder = workshop.server()
    await holder.start()
    late = Workshop().server(port=holder.port)
    with pytest.raises(ServerException, match=f"Port {holder.port} is in use; stop the program") as caught:
        await late.start()
    assert caught.value.context == {"host": "127.0.0.1", "port": holder.port}
    assert (await caller(http, holder).plain("ping")).result == {}
    await holder.stop()
    await late.start()
    assert (await caller(http, late).plain("ping")).result == {}
    await late.stop()


async def test_a_server_that_runs_cannot_be_started_twice(workshop: Workshop, http: aiohttp.ClientSession) -> None:
    server = workshop.server()
    await server.start()
    with pytest.raises(ServerException, match="in use"):
        await server.start()
    answer = await caller(http, server).plain("tools/call", call("echo", {"text": "still here"}))
    assert answer.result["structuredContent"] == {"text": "still here"}
    await server.stop()


async def test_an_address_of_another_machine_cannot_be_listened_on(workshop: Workshop) -> None:
    with pytest.raises(
        ServerException, match=r"workshop cannot listen on 192\.0\.2\.1:8080: this machine has no such address"
    ):
        await workshop.server(host="192.0.2.1", port=8080, api_key="k").start()


async def test_what_others_can_reach_is_not_served_without_a_key(workshop: Workshop) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", ""):
        with pytest.raises(ServerException, match=r"is reachable by others: set api_key \(TALE_API_KEY\)"):
            await workshop.server(host=host).start()


async def test_a_server_that_does_not_run_may_be_stopped(workshop: Workshop) -> None:
    server = workshop.server()
    await server.stop()
    await server.start()
    await server.stop()
    await server.stop()


@pytest.mark.parametrize("tool", ["wait", "stall"])  # one has begun a stream, the other not
async def test_a_request_in_flight_gets_its_answer_within_the_grace(
    workshop: Workshop, http: aiohttp.ClientSession, tool: str
) -> None:
    server = workshop.server()
    await server.start()
    asked = asyncio.create_task(caller(http, server).modern("tools/call", call(tool, token=1)))
    await workshop.started.wait()
    stopped = asyncio.create_task(server.stop(GRACE_S))
    while not _refuses(server.port):
        await asyncio.sleep(0)
    assert not stopped.done()
    workshop.release.set()
    answer = await asked
    assert answer.result["content"][0]["text"] in ("waited", "stalled")
    await stopped
    assert workshop.calls[-1].outcome == "ok"


@pytest.mark.parametrize("era", ["modern", "plain", "session"])
async def test_a_request_beyond_the_grace_is_cancelled_and_noted(
    workshop: Workshop, http: aiohttp.ClientSession, era: str
) -> None:
    server = workshop.server()
    await server.start()
    client = caller(http, server)
    if era == "session":
        await client.open_session()
    ways = {"modern": client.modern, "plain": client.plain, "session": _in_session(client)}
    asked = asyncio.create_task(ways[era]("tools/call", call("wait", token=1)))
    await workshop.started.wait()
    await server.stop()
    assert workshop.cancelled.is_set()
    assert workshop.calls[-1].outcome == "cancelled"
    (told,) = await asyncio.gather(asked, return_exceptions=True)
    assert isinstance(told, aiohttp.ClientError) or all("result" not in message for message in told.messages)


async def test_a_tool_that_ignores_its_cancellation_does_not_hold_up_a_stop(
    workshop: Workshop, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    bound = listener.Listener("deaf", workshop.server().application(), host="127.0.0.1", port=0, cancel_limit_s=0.05)
    await bound.start()
    client = Caller(http, f"http://127.0.0.1:{bound.port}")
    asked = asyncio.create_task(client.modern("tools/call", call("ignore")))
    await workshop.started.wait()
    with caplog.at_level(logging.WARNING):
        await bound.stop()
    assert "deaf: 1 requests did not end when they were cancelled" in caplog.text
    assert workshop.cancelled.is_set()
    workshop.release.set()
    await asyncio.gather(asked, return_exceptions=True)


async def test_a_standing_stream_ends_in_good_order(workshop: Workshop, http: aiohttp.ClientSession) -> None:
    server = workshop.server()
    await server.start()
    client = caller(http, server)
    await client.open_session()
    headers = {"Accept": "text/event-stream", **client.session_headers()}
    async with http.get(f"{client.url}/mcp", headers=headers) as stream:
        assert stream.status == 200
        await server.stop(GRACE_S)
        assert (await stream.read()).endswith(b"data: \n\n")  # the event that says where to come back to
    assert len(server.endpoint.sessions) == 0


async def test_connections_that_lie_idle_do_not_hold_up_a_stop(workshop: Workshop) -> None:
    server = workshop.server()
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200 OK" in await reader.readline()
    half_reader, half_writer = await asyncio.open_connection("127.0.0.1", server.port)
    half_writer.write(b"POST /mcp HTTP/1.1\r\nHost: loc")
    await half_writer.drain()
    await server.stop(GRACE_S)
    assert (await reader.read()).endswith(b'{"status": "alive"}')
    assert await half_reader.read() == b""
    for each in (writer, half_writer):
        each.close()


async def test_a_body_that_never_ends_does_not_hold_up_a_stop(workshop: Workshop) -> None:
    server = workshop.server()
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = f"POST /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: {BOTH}\r\nContent-Type: application/json\r\n"
    writer.write(f'{head}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n{{"jsonrpc"'.encode())
    assert b"100 Continue" in await reader.readline()
    await server.stop()
    await reader.read()
    writer.close()


async def test_sessions_of_an_earlier_life_are_unknown(workshop: Workshop, http: aiohttp.ClientSession) -> None:
    server = workshop.server()
    await server.start()
    client = caller(http, server)
    await client.open_session()
    await server.stop()
    await server.start()
    answer = await client.in_session(request("tools/list"))
    assert answer.status == 404
    assert "initialize again" in answer.error["message"]
    assert (await client.post(initialize())).headers["Mcp-Session-Id"] != client.session_id
    await server.stop()


async def test_its_application_can_be_served_by_other_means(workshop: Workshop, http: aiohttp.ClientSession) -> None:
    runner = web.AppRunner(workshop.server().application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = Caller(http, f"http://127.0.0.1:{runner.addresses[0][1]}")
    body, headers = modern_request("tools/call", call("echo", {"text": "mounted"}))
    assert (await client.post(body, headers)).result["structuredContent"] == {"text": "mounted"}
    await runner.cleanup()


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _in_session(client: Caller) -> Callable[[str, dict[str, object]], Awaitable[Answer]]:
    async def ask(method: str, params: dict[str, object]) -> Answer:
        return await client.in_session(request(method, params))

    return ask
