"""The client speaks to servers of both eras, takes up streams that ended early, and answers questions."""

import asyncio
import gc
import json
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.faulty_server import error, handshake_only, http, raw_server, result
from fakes.mcp_workshop import Workshop

from tale.exceptions import NetworkException, ServerException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer

UNSUPPORTED = -32022
HANDSHAKE = "2025-11-25"
ACCEPTED = http("", status="202 Accepted")
Step = tuple[float, float | None, str | None]


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
async def server(workshop: Workshop) -> AsyncIterator[HTTPMCPServer]:
    server = workshop.server()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: HTTPMCPServer) -> AsyncIterator[HTTPMCPClient]:
    async with HTTPMCPClient(url_of(server)) as client:
        yield client


def url_of(server: HTTPMCPServer) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (UNSUPPORTED, "Unsupported protocol version"),
        (-32600, "Bad Request: Unsupported protocol version: 2026-07-28. Supported versions: 2025-11-25"),
        (-32600, "Bad Request: Missing session ID"),
    ],
)
async def test_a_server_of_the_handshake_era_is_shaken_hands_with(workshop: Workshop, code: int, text: str) -> None:
    server = workshop.server()
    steps: list[Step] = []
    async with handshake_only(server, code=code, text=text) as url, HTTPMCPClient(url) as client:
        assert (await client.call_tool("echo", {"text": "hi"}))["text"] == "hi"
        assert await client.call_tool("count", {"to": 1}, on_progress=lambda *step: steps.append(step)) == {"result": 1}
        assert len(server.endpoint.sessions) == 1
        await client.close()
        assert len(server.endpoint.sessions) == 0
    assert steps == [(1, 1, "now 1")]


async def test_a_forgotten_session_is_opened_anew(workshop: Workshop) -> None:
    server = workshop.server()
    async with (
        handshake_only(server, code=UNSUPPORTED, text="Unsupported protocol version") as url,
        HTTPMCPClient(url) as client,
    ):
        await client.call_tool("echo", {"text": "before"})
        await server.endpoint.sessions.close()
        assert (await client.call_tool("echo", {"text": "after"}))["text"] == "after"
        assert len(server.endpoint.sessions) == 1


async def test_a_handshake_that_is_refused_is_told() -> None:
    refusals = [error(UNSUPPORTED, "Unsupported protocol version"), error(-32600, "No more clients")]
    async with raw_server(*(http(each) for each in refusals)) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(ServerException, match="No more clients"):
            await client.call_tool("any")


async def test_a_version_that_was_refused_by_mistake_is_offered_once_more() -> None:
    data = {"supported": ["2026-07-28"], "requested": "x"}
    refusal = json.dumps({"id": 1, "error": {"code": UNSUPPORTED, "message": "Unsupported", "data": data}})
    good = http(result({"structuredContent": {}}, 2))
    async with raw_server(http(refusal, status="400 Bad Request"), good) as server:
        async with HTTPMCPClient(server.url) as client:
            assert await client.call_tool("any") == {}
        assert b"Mcp-Protocol-Version: 2026-07-28" in server.requests[1]
    async with raw_server(http(refusal)) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(ServerException, match="Unsupported"):
            await client.call_tool("any")
        assert len(server.requests) == 2


async def test_a_server_that_refuses_in_plain_words_is_understood() -> None:
    async with raw_server(
        http("Bad Request: Mcp-Session-Id header is required\n", status="400 Bad Request", content_type="text/plain"),
        http(result({"protocolVersion": HANDSHAKE}, 2)),
        ACCEPTED,
        http(result({"structuredContent": {"a": 1}}, 3)),
    ) as server:
        async with HTTPMCPClient(server.url) as client:
            assert await client.call_tool("any") == {"a": 1}
        assert b"Mcp-Session-Id" not in server.requests[3]  # the server gave no id
        assert b"Mcp-Protocol-Version: 2025-11-25" in server.requests[3]


@pytest.mark.parametrize("version", ["1999-01-01", "\x1f", None, {}])
async def test_a_version_that_is_not_known_here_is_told(version: object) -> None:
    answer = http(result({"protocolVersion": version}))
    async with raw_server(answer) as server, HTTPMCPClient(server.url, modern=False) as client:
        with pytest.raises(ServerException, match="of the protocol, which is not known here"):
            await client.call_tool("any")


async def test_an_event_id_that_no_header_can_hold_is_passed_over() -> None:
    first = "id: 7\nretry: 0\ndata:\n\nid: 8\x1f\ndata:\n\n"
    async with raw_server(*opened(stream(first), stream(SECOND_HALF))) as server:
        async with HTTPMCPClient(server.url, modern=False) as client:
            assert await client.call_tool("any") == {"text": "late"}
        assert b"Last-Event-ID: 7\r\n" in server.requests[3]


async def test_a_server_that_forgets_each_session_is_given_up() -> None:
    gone = http(error(-32600, "Session not found"), status="404 Not Found")
    hand = [http(result({"protocolVersion": HANDSHAKE}, 1), headers="Mcp-Session-Id: s\r\n"), ACCEPTED, gone]
    hand_again = [http(result({"protocolVersion": HANDSHAKE}, 3), headers="Mcp-Session-Id: t\r\n"), ACCEPTED, gone]
    async with raw_server(*hand, *hand_again) as server, HTTPMCPClient(server.url, modern=False) as client:
        with pytest.raises(ServerException, match="forgets each session"):
            await client.call_tool("any")


async def test_calls_side_by_side_open_one_session(workshop: Workshop) -> None:
    server = workshop.server()
    await server.start()
    async with HTTPMCPClient(url_of(server), modern=False) as client:
        for _ in range(2):
            await asyncio.gather(*(client.call_tool("echo", {"text": "x"}) for _ in range(5)))
            assert len(server.endpoint.sessions) == 1
            await server.endpoint.sessions.close()
    await server.stop()


async def test_giving_up_a_call_of_a_session_is_told_to_the_server(workshop: Workshop) -> None:
    server = workshop.server()
    await server.start()
    async with HTTPMCPClient(url_of(server), modern=False) as client:
        asked = asyncio.create_task(client.call_tool("wait", on_progress=lambda *_: None))
        await workshop.started.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await workshop.cancelled.wait()
    await server.stop()


async def test_a_client_that_is_closed_right_after_says_so_first_and_leaves_nothing_open(workshop: Workshop) -> None:
    server = workshop.server()
    await server.start()
    tasks = asyncio.all_tasks()

    async def visit() -> None:
        async with HTTPMCPClient(url_of(server), modern=False) as client:
            await client.call_tool("wait", on_progress=lambda *_: None)

    visiting = asyncio.create_task(visit())
    await workshop.started.wait()
    visiting.cancel()
    await asyncio.gather(visiting, return_exceptions=True)
    del visiting
    with warnings.catch_warnings(record=True) as unclosed:
        warnings.simplefilter("always")
        gc.collect()
    assert unclosed == []
    assert workshop.cancelled.is_set()
    assert len(server.endpoint.sessions) == 0
    await server.stop()
    assert asyncio.all_tasks() <= tasks


async def test_giving_up_a_call_of_a_server_that_is_gone_is_no_error(workshop: Workshop) -> None:
    server = workshop.server()
    await server.start()
    async with HTTPMCPClient(url_of(server), modern=False) as client:
        asked = asyncio.create_task(client.call_tool("ignore"))
        await workshop.started.wait()
        stopping = asyncio.create_task(server.stop())
        await workshop.cancelled.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
    workshop.release.set()
    await stopping


# Streams that end early


def opened(*answers: bytes) -> list[bytes]:
    """What a server of the handshake era says, from its beginning."""
    return [http(result({"protocolVersion": HANDSHAKE}, 1), headers="Mcp-Session-Id: s\r\n"), ACCEPTED, *answers]


def stream(text: str, **options: Any) -> bytes:
    return http(text, content_type="text/event-stream", **options)


FIRST_HALF = "id: 7\nretry: 0\ndata:\n\n"
SECOND_HALF = f"id: 8\ndata: {result({'structuredContent': {'text': 'late'}}, 2)}\n\n"


@pytest.mark.parametrize(
    "halves",
    [
        [stream(FIRST_HALF), stream(SECOND_HALF)],
        [stream(FIRST_HALF), stream("id: 9\nretry: 0\ndata:\n\n"), stream(SECOND_HALF)],
        [stream(FIRST_HALF, length=1_000), stream(SECOND_HALF)],
        [stream(FIRST_HALF), stream("", length=10), stream(SECOND_HALF)],
    ],
    ids=["sent away", "sent away twice", "broken", "broken again"],
)
async def test_a_stream_that_ends_before_the_answer_is_taken_up_where_it_ended(halves: list[bytes]) -> None:
    async with raw_server(*opened(*halves)) as server:
        async with HTTPMCPClient(server.url, modern=False) as client:
            assert await client.call_tool("any") == {"text": "late"}
        taken_up = server.requests[3]
        assert taken_up.startswith(b"GET /mcp ")
        assert b"Last-Event-ID: 7\r\n" in taken_up
        assert b"Mcp-Session-Id: s\r\n" in taken_up


@pytest.mark.parametrize(
    ("rest", "cause"),
    [
        ([http("no", status="405 Method Not Allowed", content_type="text/plain")], "cannot be taken up again"),
        ([stream("", length=10)], "payload is not completed"),
    ],
)
async def test_a_stream_that_cannot_be_taken_up_is_a_network_error(rest: list[bytes], cause: str) -> None:
    async with (
        raw_server(*opened(stream(FIRST_HALF), *rest)) as server,
        HTTPMCPClient(server.url, modern=False) as client,
    ):
        with pytest.raises(NetworkException, match="does not answer") as caught:
            await client.call_tool("any")
        assert cause in str(caught.value.context["cause"])


async def test_a_stream_of_the_modern_era_is_not_taken_up() -> None:
    async with raw_server(stream(FIRST_HALF)) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(NetworkException, match="does not answer"):
            await client.call_tool("any")
        assert len(server.requests) == 1


async def test_a_stream_of_nonsense_is_told() -> None:
    async with raw_server(stream("data: {nonsense\n\n")) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(NetworkException, match=r"answered 200 .\{nonsense., which is no MCP message"):
            await client.call_tool("any")


# Questions of the server


def question(method: str, request_id: int = 90) -> str:
    return "data: " + json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": {"n": 1}}) + "\n\n"


async def test_questions_on_a_stream_are_answered_by_post() -> None:
    async def on_question(method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "roots/list":
            raise ServerException("There are none.")
        return {"method": method, **params}

    asked = question("elicitation/create", 91) + question("roots/list", 92) + question("ping", 93)
    no_stream = http("", status="405 Method Not Allowed")  # of its own, beside those of its answers
    answers = opened(no_stream, stream(asked + SECOND_HALF), ACCEPTED)
    async with raw_server(*answers) as server:
        client = HTTPMCPClient(server.url, modern=False, on_question=on_question, capabilities={"elicitation": {}})
        async with client:
            assert await client.call_tool("any") == {"text": "late"}
    bodies = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in server.requests if each.startswith(b"POST")]
    assert bodies[0]["params"]["capabilities"] == {"elicitation": {}}
    told = {body["id"]: body for body in bodies if body.get("id", 0) > 90}
    assert told[91]["result"] == {"method": "elicitation/create", "n": 1}
    assert told[92]["error"] == {"code": -32603, "message": "There are none."}
    assert told[93]["result"] == {}


async def test_a_client_that_answers_nothing_says_so() -> None:
    async with raw_server(*opened(stream(question("sampling/createMessage") + SECOND_HALF), ACCEPTED)) as server:
        async with HTTPMCPClient(server.url, modern=False) as client:
            assert await client.call_tool("any") == {"text": "late"}
        assert b"This client does not answer sampling/createMessage" in server.requests[3]


ASKS = {"resultType": "input_required", "inputRequests": {"who": {"method": "elicitation/create", "params": {"n": 2}}}}


async def test_questions_of_the_modern_era_are_answered_by_asking_again() -> None:
    async def on_question(method: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"action": "accept", "content": params}

    rounds = [{**ASKS, "requestState": "opaque"}, ASKS, {"structuredContent": {"done": True}}]
    answers = [http(result(each, number)) for number, each in enumerate(rounds, 1)]
    async with raw_server(*answers) as server, HTTPMCPClient(server.url, on_question=on_question) as client:
        assert await client.call_tool("any") == {"done": True}
    sent = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in server.requests]
    assert [each["id"] for each in sent] == [1, 2, 3]
    assert sent[1]["params"]["requestState"] == "opaque"
    assert sent[1]["params"]["inputResponses"] == {"who": {"action": "accept", "content": {"n": 2}}}
    assert "requestState" not in sent[2]["params"]


async def test_a_question_that_nobody_answers_ends_the_call() -> None:
    async with raw_server(http(result(ASKS))) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(ServerException, match=r"asks its caller something \(elicitation/create\)"):
            await client.call_tool("any")


async def test_a_server_that_asks_without_end_is_given_up() -> None:
    rounds = [http(result({"resultType": "input_required", "requestState": "x"}, number)) for number in range(1, 20)]
    async with raw_server(*rounds) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(ServerException, match="still asks after 10 rounds"):
            await client.call_tool("any")


# Parameters in headers


async def test_parameters_are_repeated_in_headers_where_the_tool_wants_it() -> None:
    good = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    bad = {"type": "object", "properties": {"region": {"type": "number", "x-mcp-header": "Region"}}}
    plain = {"type": "object", "properties": {}}
    tools = [{"name": name, "inputSchema": schema} for name, schema in (("a", good), ("b", bad), ("c", plain))]
    answers = [http(result({"tools": [*tools, "no tool"]})), http(result({}, 2)), http(result({}, 3))]
    async with raw_server(*answers) as server:
        async with HTTPMCPClient(server.url) as client:
            assert [tool["name"] for tool in await client.list_tools()] == ["a", "c"]
            await client.call_tool("a", {"region": "n\u00f6rdlich"})
            await client.call_tool("c")
        assert b"Mcp-Param-Region: =?base64?bsO2cmRsaWNo?=" in server.requests[1]
        assert b"Mcp-Param" not in server.requests[2]


async def test_names_that_no_header_can_hold_are_encoded(client: HTTPMCPClient) -> None:
    with pytest.raises(ValidationException, match="Unknown tool: \u00fcber"):
        await client.call_tool("\u00fcber")
    with pytest.raises(ValidationException, match="Unknown tool: =\\?base64\\?eA==\\?="):
        await client.call_tool("=?base64?eA==?=")
