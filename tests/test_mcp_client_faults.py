"""The client tries again where that does no harm, and says clearly when a server is busy, gone, or none."""

import json
from collections.abc import AsyncIterator

import pytest
from fakes.faulty_server import http, raw_server, result
from fakes.mcp_workshop import Workshop

from tale.circuit_breaker import CircuitBreaker
from tale.exceptions import NetworkException, ServerException, TaskException
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer

ECHOED = result({"content": [], "structuredContent": {"text": "hi"}})


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
async def server(workshop: Workshop) -> AsyncIterator[HTTPMCPServer]:
    server = workshop.server()
    await server.start()
    yield server
    await server.stop()


def url_of(server: HTTPMCPServer) -> str:
    return f"http://127.0.0.1:{server.port}"


async def test_where_nobody_listens_the_address_and_the_cause_are_named(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with HTTPMCPClient(url) as client:
        with pytest.raises(NetworkException, match=f"{url} does not answer") as caught:
            await client.call_tool("echo", {"text": "hi"})
    assert caught.value.context["url"] == url
    assert "Connect call failed" in str(caught.value.context["cause"])


CUT_STREAM = "event: message\ndata: " + json.dumps({"jsonrpc": "2.0", "method": "notifications/progress"}) + "\n\n"


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        http(ECHOED, length=1000),
        http(CUT_STREAM, content_type="text/event-stream"),
        http("data: {", content_type="text/event-stream"),
    ],
    ids=["nothing", "half a body", "a stream without an end", "half an event"],
)
async def test_a_broken_answer_is_asked_for_again_only_where_that_does_no_harm(broken: bytes) -> None:
    async with raw_server(broken, http(result({"content": [], "structuredContent": {}}, 2))) as server:
        async with HTTPMCPClient(server.url) as client:
            assert await client.call_tool("any", idempotent=True) == {}
        assert len(server.requests) == 2
    async with raw_server(broken, http(ECHOED)) as server:
        async with HTTPMCPClient(server.url) as client:
            with pytest.raises(NetworkException, match="does not answer"):
                await client.call_tool("any")
        assert len(server.requests) == 1


async def test_attempts_are_few() -> None:
    async with raw_server(b"") as server:
        async with HTTPMCPClient(server.url, backoff_s=0) as client:
            with pytest.raises(NetworkException, match="does not answer"):
                await client.call_tool("any", idempotent=True)
        assert len(server.requests) == 3


async def test_the_pause_before_each_further_attempt_grows_and_is_drawn_at_random() -> None:
    draws: list[float] = []

    def draw() -> float:
        draws.append(0.5)
        return 0.5

    async with raw_server(b"") as server, HTTPMCPClient(server.url, backoff_s=0.001, draw=draw) as client:
        with pytest.raises(NetworkException):
            await client.call_tool("any", idempotent=True)
    assert len(draws) == 3


# A server that is busy


async def test_a_call_that_the_server_would_not_take_is_made_again_when_it_said() -> None:
    busy = http("busy", status="429 Too Many Requests", headers="Retry-After: 0\r\n")
    async with raw_server(busy, http(result({"structuredContent": {}}, 2))) as server:
        async with HTTPMCPClient(server.url, backoff_s=0) as client:
            assert await client.call_tool("any") == {}
        assert len(server.requests) == 2


@pytest.mark.parametrize(("retry_after", "attempts"), [("0", 3), ("60", 1)])
async def test_a_server_that_stays_busy_is_said_to_be(retry_after: str, attempts: int) -> None:
    busy = http("busy", status="503 Service Unavailable", headers=f"Retry-After: {retry_after}\r\n")
    async with raw_server(busy) as server:
        async with HTTPMCPClient(server.url, backoff_s=0) as client:
            with pytest.raises(ServerException, match=f"try again in {retry_after} s") as caught:
                await client.call_tool("any")
        assert caught.value.context["retry_after_s"] == float(retry_after)
        assert len(server.requests) == attempts


# A server that is gone


async def test_a_server_that_does_not_answer_is_left_alone_for_a_while(workshop: Workshop) -> None:
    now = [0.0]
    breaker = CircuitBreaker(failure_limit=2, rest_s=10.0, clock=lambda: now[0])
    async with raw_server(b"", b"", b"", http(result({"structuredContent": {}}, 4))) as server:
        async with HTTPMCPClient(server.url, breaker=breaker) as client:
            for _ in range(2):
                with pytest.raises(NetworkException, match="does not answer"):
                    await client.call_tool("any")
            with pytest.raises(NetworkException, match=r"2 times in a row; it is left alone for 10\.0 s") as caught:
                await client.call_tool("any")
            assert caught.value.context["url"] == server.url
            now[0] = 10.0
            with pytest.raises(NetworkException, match="does not answer"):
                await client.call_tool("any")
            with pytest.raises(NetworkException, match="left alone"):
                await client.call_tool("any")
            now[0] = 20.0
            assert await client.call_tool("any") == {}
            assert breaker.failures == 0
        assert len(server.requests) == 4


async def test_a_look_at_its_health_ends_the_rest_of_a_server_that_is_back(
    server: HTTPMCPServer, unused_tcp_port: int
) -> None:
    breaker = CircuitBreaker(failure_limit=1, rest_s=1_000.0)
    breaker.failed()
    async with HTTPMCPClient(url_of(server), breaker=breaker) as client:
        with pytest.raises(NetworkException, match="left alone"):
            await client.call_tool("echo", {"text": "hi"})
        await client.connect()
        assert (await client.call_tool("echo", {"text": "hi"}))["text"] == "hi"


async def test_refusals_and_cancelled_calls_do_not_speak_against_a_server(
    server: HTTPMCPServer, workshop: Workshop
) -> None:
    breaker = CircuitBreaker(failure_limit=1)
    async with HTTPMCPClient(url_of(server), breaker=breaker) as client:
        with pytest.raises(TaskException):
            await client.call_tool("refuse", {"task_id": "t"})
        with pytest.raises(ServerException):
            await client.request("no/such")
        with pytest.raises(NetworkException, match="took longer"):
            await client.call_tool("wait", timeout_s=0.05)
        assert breaker.failures == 0


def test_one_probe_at_a_time_finds_out_whether_a_server_is_back() -> None:
    now = [0.0]
    breaker = CircuitBreaker(failure_limit=1, rest_s=5.0, clock=lambda: now[0])
    assert breaker.wait_s() == 0
    breaker.failed()
    assert breaker.wait_s() == 5.0
    now[0] = 5.0
    assert breaker.wait_s() == 0
    assert breaker.wait_s() == 5.0
    breaker.withdrawn()
    assert breaker.wait_s() == 0
    breaker.succeeded()
    assert breaker.wait_s() == 0
    assert breaker.wait_s() == 0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (http("<html>Hello</html>", content_type="text/html"), "answered 200 '<html>Hello</html>'"),
        (http("[1, 2]"), r"answered 200 '\[1, 2\]'"),
        (http("oops", status="502 Bad Gateway", content_type="text/plain"), "answered 502 'oops'"),
    ],
)
async def test_what_is_no_mcp_server_is_told_by_what_it_said(answer: bytes, text: str) -> None:
    async with raw_server(answer) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(NetworkException, match=text) as caught:
            await client.call_tool("any")
        assert caught.value.context["url"] == server.url


async def test_messages_of_others_on_a_stream_are_passed_over() -> None:
    foreign = [
        ": ping",
        "data: [1]",
        "data: " + json.dumps({"jsonrpc": "2.0", "id": 99, "result": {}}),
        "data: " + json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}),
        "event: message\nid: 7\ndata:{\ndata: " + ECHOED[1:],
    ]
    stream = http("\r\n\r\n".join(foreign) + "\r\n\r\n", content_type="text/event-stream")
    async with raw_server(stream) as server, HTTPMCPClient(server.url) as client:
        assert await client.call_tool("any", on_progress=lambda *_: None) == {"text": "hi"}
