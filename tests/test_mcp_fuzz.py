"""No body, header or connection makes the server fail, hang or remember: not those written down, nor random ones."""

import asyncio
import gc
import json
import logging
import random
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from fakes.hostile import WRONG, connections, corpus, cut_short, encoded, mutated
from fakes.mcp_workshop import Answer, Caller, Workshop, call, calling, initialize, modern_request, request
from hypothesis import given
from hypothesis import strategies as st

from tale.mcp.connection import ConnectionLimits
from tale.mcp.http_server import HTTPMCPServer, Limits

T = TypeVar("T")
LIMIT_S = 10.0
TOKEN = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
HEADERS = ("Accept", "Content-Type", "Mcp-Session-Id", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name",
           "Last-Event-ID", "traceparent", "Authorization", "Origin")  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WRONG),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


class Bench:
    """A server and a caller in a loop of their own, which runs while something is asked."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.workshop = Workshop()
        self.workshop.release.set()  # nothing waits
        limits = Limits(
            body_bytes=1_000_000, connection=ConnectionLimits(headers_s=0.2, body_s=0.2, linger_s=0.05), sessions=20
        )
        self.server: HTTPMCPServer = self.workshop.server(limits=limits)
        self._serving = calling(self.server)
        self.client: Caller = self.run(self._serving.__aenter__())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(LIMIT_S):
                return await work

        return self.runner.run(limited())

    def post(self, body: bytes, headers: dict[str, str] | None = None) -> Answer:
        return self.run(self.client.post(body, headers))

    def close(self) -> None:
        self.run(self._serving.__aexit__(None, None, None))
        self.runner.close()

    def is_well(self) -> bool:
        """Whether the server still works, in every era."""
        text = {"text": "still here"}
        answers = [
            self.run(self.client.plain("tools/call", call("echo", text))),
            self.run(self.client.modern("tools/call", call("echo", text))),
        ]
        return all(answer.result["structuredContent"] == text for answer in answers)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    assert bench.is_well()
    assert len(bench.server.endpoint.sessions) <= 20
    bench.close()


def is_clear(answer: Answer) -> bool:
    """Whether an answer is one of MCP: no failure of the server, and a reason where it refuses."""
    assert answer.status < 500, answer
    assert "Traceback" not in answer.text
    assert "secret" not in answer.text
    if answer.text and answer.headers["Content-Type"].startswith(("application/json", "text/event-stream")):
        for message in answer.messages:
            json.dumps(message, allow_nan=False).encode()
            assert message["jsonrpc"] == "2.0"
            if "error" in message:
                assert isinstance(message["error"]["code"], int)
                assert message["error"]["message"]
    return True


def test_every_hostile_body_gets_a_clear_answer(bench: Bench) -> None:
    for hostile in corpus():
        assert is_clear(bench.post(hostile.body, hostile.headers)), hostile.name


@pytest.mark.parametrize(("name", "data"), connections(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_hostile_connection_ends_soon(bench: Bench, name: str, data: bytes) -> None:
    told = bench.run(_said(bench, data))
    statuses = [int(line.split()[1]) for line in told.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert all(status < 500 for status in statuses), told
    assert b"Traceback" not in told


@pytest.mark.parametrize(("name", "data"), cut_short(), ids=lambda value: value if isinstance(value, str) else "")
def test_whoever_hangs_up_is_forgotten(bench: Bench, name: str, data: bytes) -> None:
    before = set(asyncio.all_tasks(bench.runner.get_loop()))
    for abrupt in (True, False):
        bench.run(_hung_up(bench, data, abrupt=abrupt))

    async def until_quiet() -> None:
        while {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} - before:
            await asyncio.sleep(0.01)

    bench.run(until_quiet())


def test_hundreds_of_hostile_requests_leave_nothing_behind(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The long form of this, with figures of memory, is benchmarks/mcp_soak.py."""
    caplog.set_level(logging.CRITICAL)  # records of errors would hold what they tell of

    def held() -> Counter[str]:
        bench.run(bench.server.endpoint.sessions.close())
        gc.collect()
        kinds = (type(thing) for thing in gc.get_objects())
        return Counter(
            kind.__name__ for kind in kinds if str(kind.__module__).startswith(("tale.mcp", "mcp.", "aiohttp.web"))
        )

    def attack() -> None:
        for hostile in corpus()[::3]:
            bench.post(hostile.body, hostile.headers)
        for _, data in connections():
            bench.run(_said(bench, data))

    attack()
    before = held()
    attack()
    assert held() - before == Counter()


def test_one_request_in_another_is_not_served(bench: Bench) -> None:
    """What a proxy takes for a body must not be a request here."""
    echoed = bench.workshop.echoed
    inner = encoded(request("tools/call", call("echo", {"text": "smuggled"})))
    hidden = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    hidden += b"Content-Length: %d\r\n\r\n" % len(inner) + inner
    for head in (
        b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(hidden),
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % len(hidden),
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: \x0bchunked\r\nContent-Length: %d\r\n\r\n" % len(hidden),
    ):
        bench.run(_said(bench, b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n" + head + hidden))
    assert bench.workshop.echoed == echoed


@given(body=st.binary(max_size=300))
def test_any_bytes_get_a_clear_answer(bench: Bench, body: bytes) -> None:
    assert is_clear(bench.post(body))


@given(value=JSON)
def test_any_json_gets_a_clear_answer(bench: Bench, value: Any) -> None:
    for body in (encoded(value), encoded(request("tools/call", {"name": "echo", "arguments": {"text": value}}))):
        assert is_clear(bench.post(body))


@given(seed=st.integers(min_value=0))
def test_a_good_request_with_something_wrong_gets_a_clear_answer(bench: Bench, seed: int) -> None:
    drawn = random.Random(seed)
    text = {"name": "count", "arguments": {"to": 2}, "_meta": {"progressToken": 1}}
    modern, headers = modern_request("tools/call", text)
    assert is_clear(bench.post(encoded(mutated(drawn, modern)), headers))
    assert is_clear(bench.post(encoded(mutated(drawn, request("tools/call", text)))))
    assert is_clear(bench.post(encoded(mutated(drawn, initialize()))))


@given(seed=st.integers(min_value=0), length=st.integers(min_value=1, max_value=6))
def test_a_session_bears_what_comes_in_any_order(bench: Bench, seed: int, length: int) -> None:
    drawn = random.Random(seed)
    bench.run(bench.client.open_session())
    messages = [
        request("tools/call", call("count", {"to": 1}, token=1), 1),
        request("tools/list", {}, 2),
        initialize(),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
        {"jsonrpc": "2.0", "id": "s-1", "result": {}},
    ]
    for _ in range(length):
        message = drawn.choice(messages)
        body = encoded(mutated(drawn, message) if drawn.random() < 0.5 else message)
        assert is_clear(bench.post(body, bench.client.session_headers()))
    assert bench.post(encoded(request("ping")), bench.client.session_headers()).result == {}


@given(headers=st.dictionaries(st.sampled_from(HEADERS), TOKEN, max_size=5))
def test_any_headers_get_a_clear_answer(bench: Bench, headers: dict[str, str]) -> None:
    assert is_clear(bench.post(encoded(request("tools/call", call("echo", {"text": "x"}))), headers))


@given(data=st.binary(max_size=200))
def test_any_bytes_on_a_connection_end_it_soon(bench: Bench, data: bytes) -> None:
    told = bench.run(_said(bench, data + b"\r\n\r\n"))
    assert not told.startswith(b"HTTP/1.1 5")


async def _said(bench: Bench, data: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    try:
        writer.write(data)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def _hung_up(bench: Bench, data: bytes, *, abrupt: bool) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    writer.write(data)
    await writer.drain()
    if abrupt:
        writer.transport.abort()
    else:
        writer.close()
