"""Whatever a server answers, the client returns a dictionary or raises an exception of tale's."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fakes.faulty_server import RawServer, http, raw_server
from fakes.hostile import WRONG
from hypothesis import given
from hypothesis import strategies as st

from tale.exceptions import TaleBaseException
from tale.mcp.http_client import HTTPMCPClient

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WRONG),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
PARTS = ("content", "structuredContent", "isError", "_meta", "tools", "nextCursor", "resultType", "inputRequests",
         "requestState", "protocolVersion")  # fmt: skip
STATUSES = st.sampled_from(["200 OK", "400 Bad Request", "404 Not Found", "429 Too Many Requests", "500 Oh no"])
KINDS = st.sampled_from(["application/json", "text/event-stream", "text/html", ""])


class Bench:
    """A server that answers as it is told, in a loop that runs while it is asked."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._serving = raw_server(b"")
        self.server: RawServer = self.runner.run(self._serving.__aenter__())

    def close(self) -> None:
        self.runner.run(self._serving.__aexit__(None, None, None))
        self.runner.close()

    def asked(self, answer: bytes, *, modern: bool = True) -> None:
        """Call a tool and list the tools of a server that always answers so."""
        self.server.answers = [answer]

        async def ask() -> None:
            async with HTTPMCPClient(self.server.url, modern=modern, backoff_s=0, timeout_s=5) as client:
                for asking in (client.call_tool("any", on_progress=lambda *_: None), client.list_tools()):
                    try:
                        assert isinstance(await asking, dict | list)
                    except TaleBaseException as error:
                        assert error.message

        self.runner.run(ask())


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@given(value=JSON, part=st.sampled_from(PARTS), modern=st.booleans(), streamed=st.booleans())
def test_any_result_is_taken_or_refused(bench: Bench, value: Any, part: str, modern: bool, streamed: bool) -> None:
    for result in (value, {part: value}, {"resultType": "input_required", part: value}, {"isError": True, part: value}):
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result})
        stream = http(f"data: {body}\n\n", content_type="text/event-stream")
        bench.asked(stream if streamed else http(body), modern=modern)


@given(value=JSON, name=st.sampled_from(["error", "code", "message", "data"]))
def test_any_error_is_refused(bench: Bench, value: Any, name: str) -> None:
    error = value if name == "error" else {"code": -1, "message": "x", name: value}
    bench.asked(http(json.dumps({"jsonrpc": "2.0", "id": 1, "error": error})))


@given(value=JSON, name=st.sampled_from(["params", "method", "id", "progress"]))
def test_anything_may_come_before_the_answer(bench: Bench, value: Any, name: str) -> None:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": value}}
    if name != "progress":
        message[name] = value
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"structuredContent": {}}})
    stream = f"data: {json.dumps(message)}\n\ndata: {json.dumps(value)}\n\ndata: {answer}\n\n"
    bench.asked(http(stream, content_type="text/event-stream"))


@given(body=st.binary(max_size=200), status=STATUSES, kind=KINDS, headers=st.sampled_from(["", "Retry-After: x\r\n"]))
def test_any_bytes_are_refused(bench: Bench, body: bytes, status: str, kind: str, headers: str) -> None:
    bench.asked(http("", status=status, content_type=kind, length=len(body), headers=headers) + body)


@given(answer=st.binary(max_size=200))
def test_what_is_no_http_is_refused(bench: Bench, answer: bytes) -> None:
    bench.asked(answer)
