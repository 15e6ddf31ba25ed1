"""The MCP endpoint answers in both eras of the protocol, and to plain curl."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.mcp_workshop import (
    META,
    MODERN,
    Caller,
    Workshop,
    call,
    calling,
    modern_request,
    request,
)

from tale.mcp.http_server import Limits
from tale.records import McpCall

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
async def client(workshop: Workshop) -> AsyncIterator[Caller]:
    async with calling(workshop.server(limits=Limits(body_bytes=10_000))) as caller:
        yield caller


# Plain requests


async def test_a_request_without_a_handshake_is_answered_in_json(client: Caller) -> None:
    answer = await client.plain("tools/call", call("echo", {"text": "hi"}))
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert "Mcp-Session-Id" not in answer.headers
    assert answer.messages == [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "result": {
                "content": [{"type": "text", "text": json.dumps({"text": "hi"}, indent=2)}],
                "structuredContent": {"text": "hi"},
                "isError": False,
            },
        }
    ]


@pytest.mark.parametrize("body", [b'{"method":"tools/list"}', b'{"jsonrpc":"2.0","method":"tools/list","params":{}}'])
async def test_the_shortest_line_of_curl_lists_the_tools(client: Caller, body: bytes) -> None:
    answer = await client.post(body, {"Content-Type": "application/x-www-form-urlencoded", "Accept": "*/*"})
    assert answer.status == 200
    assert {tool["name"] for tool in answer.result["tools"]} >= {"echo", "wait"}


async def test_what_is_forgiven_for_listing_is_not_for_web_pages_and_other_methods(client: Caller) -> None:
    typed = {"Content-Type": "text/plain"}
    page = await client.post(b'{"method":"tools/list"}', {**typed, "Origin": "http://localhost"})
    assert (page.status, page.error["code"]) == (415, -32600)
    other = await client.post(b'{"method":"tools/call","params":{"name":"echo"}}', typed)
    assert (other.status, other.error["code"]) == (415, -32600)


async def test_all_ways_to_list_tools_tell_the_same(client: Caller) -> None:
    plain, modern = await client.plain("tools/list"), await client.modern("tools/list")
    await client.open_session()
    session = await client.in_session(request("tools/list"))
    assert plain.result["tools"] == modern.result["tools"] == session.result["tools"]
    assert modern.result["resultType"] == "complete"


async def test_each_tool_is_described_with_its_parameters_and_its_answer(client: Caller) -> None:
    tools = {tool["name"]: tool for tool in (await client.plain("tools/list")).result["tools"]}
    repeat = tools["repeat"]
    assert repeat["description"] == "Say it several times.\n\nIt is said in full."
    properties = repeat["inputSchema"]["properties"]
    assert properties["text"] == {"title": "Text", "type": "string", "description": "What to say."}
    assert properties["times"]["default"] == 2
    assert repeat["inputSchema"]["required"] == ["text"]
    assert repeat["inputSchema"]["additionalProperties"] is False
    assert repeat["outputSchema"]["properties"]["result"]["type"] == "array"
    assert "context" not in tools["count"]["inputSchema"]["properties"]
    assert tools["who"]["annotations"]["readOnlyHint"] is True
    assert tools["echo"]["annotations"]["readOnlyHint"] is False


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, -32700),
        (b"", {}, 400, -32700),
        (b'"\xff"', {}, 400, -32700),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "x": NaN}', {}, 400, -32700),
        (b"[" * 100_000, {}, 413, -32600),
        (b"[" * 9_000, {}, 400, -32700),
        (b"[]", {}, 400, -32600),
        (b"7", {}, 400, -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', {}, 400, -32600),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', {}, 400, -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', {}, 400, -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}', {}, 400, -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}', {"Content-Type": "text/plain"}, 415, -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}', {"Accept": "text/html"}, 406, -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "no/such"}', {}, 404, -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}', {}, 400, -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "nope"}}', {}, 400, -32602),
    ],
)
async def test_what_is_no_good_request_is_told_so_in_json_rpc(
    client: Caller, body: bytes, headers: dict[str, str], status: int, code: int
) -> None:
    answer = await client.post(body, headers)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.error["message"]


async def test_a_notification_is_accepted_in_silence(client: Caller) -> None:
    plain = await client.post({"jsonrpc": "2.0", "method": "notifications/whatever"})
    headers = {"Mcp-Protocol-Version": MODERN}
    modern = await client.post({"jsonrpc": "2.0", "method": "notifications/whatever"}, headers)
    assert (plain.status, plain.text, modern.status, modern.text) == (202, "", 202, "")


# The modern era


async def test_the_server_tells_what_it_is_on_discovery(client: Caller) -> None:
    result = (await client.modern("server/discover")).result
    assert result["_meta"][f"{META}/serverInfo"] == {"name": "workshop", "version": "1.2.3"}
    assert MODERN in result["supportedVersions"]
    assert "tools" in result["capabilities"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Mcp-Method": "ping"}, -32020),
        ({"Mcp-Name": "count"}, -32020),
        ({"Mcp-Protocol-Version": "2030-01-01"}, -32020),
    ],
)
async def test_headers_must_say_what_the_body_says(client: Caller, change: dict[str, str], code: int) -> None:
    body, headers = modern_request("tools/call", call("echo", {"text": "x"}))
    answer = await client.post(body, {**headers, **change})
    assert (answer.status, answer.error["code"]) == (400, code)


async def test_a_version_that_is_not_served_is_answered_with_those_that_are(client: Caller) -> None:
    body, headers = modern_request("tools/list")
    body["params"]["_meta"][f"{META}/protocolVersion"] = "2030-01-01"
    answer = await client.post(body, {**headers, "Mcp-Protocol-Version": "2030-01-01"})
    assert (answer.status, answer.error["code"]) == (400, -32022)
    assert answer.error["data"] == {"supported": [MODERN], "requested": "2030-01-01"}
    note = await client.post({"jsonrpc": "2.0", "method": "x"}, {"Mcp-Protocol-Version": "2030-01-01"})
    assert note.error["code"] == -32022


async def test_a_routing_header_that_comes_twice_is_refused(client: Caller) -> None:
    body, headers = modern_request("tools/list")
    lines = [*headers.items(), ("Mcp-Method", "tools/list"), ("Accept", "application/json")]
    async with client.http.post(f"{client.url}/mcp", json=body, headers=lines) as response:
        told = await response.json()
    assert (response.status, told["error"]["code"]) == (400, -32020)
    assert "more than once" in told["error"]["message"]


async def test_an_envelope_must_be_whole(client: Caller) -> None:
    body, headers = modern_request("tools/list")
    del body["params"]["_meta"][f"{META}/clientCapabilities"]
    answer = await client.post(body, headers)
    assert (answer.status, answer.error["code"]) == (400, -32602)


async def test_an_envelope_is_known_without_its_header(client: Caller) -> None:
    body, _ = modern_request("tools/list")
    assert (await client.post(body)).error["code"] == -32020


async def test_a_modern_client_has_nothing_to_answer(client: Caller) -> None:
    answer = await client.post({"jsonrpc": "2.0", "id": 1, "result": {}}, {"Mcp-Protocol-Version": MODERN})
    assert (answer.status, answer.error["code"]) == (400, -32600)


# Tools that fail


@pytest.mark.parametrize("era", ["plain", "modern"])
async def test_a_tool_that_refuses_tells_why_to_people_and_programs(client: Caller, era: str) -> None:
    answer = await getattr(client, era)("tools/call", call("refuse", {"task_id": "t-1"}))
    assert answer.status == 200
    result = answer.result
    assert result["isError"] is True
    assert result["content"] == [{"type": "text", "text": "No such task; look at the list."}]
    told = result["_meta"]["tale/error"]
    assert told["type"] == "TaskException"
    assert told["context"]["task_id"] == "t-1"
    assert isinstance(told["context"]["path"], str)  # what JSON cannot hold is told as text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "repeat: text: Field required."),
        ({"text": "x", "times": "often"}, "repeat: times: Input should be a valid integer"),
        ({"text": ["x"]}, "repeat: text: Input should be a valid string"),
        ({"text": "x", "colour": 1}, "repeat has no parameter 'colour'; it takes text, times, loud."),
    ],
)
async def test_wrong_arguments_come_back_as_what_to_do(client: Caller, arguments: dict[str, Any], text: str) -> None:
    result = (await client.plain("tools/call", call("repeat", arguments))).result
    assert result["isError"] is True
    assert result["content"][0]["text"].startswith(text)
    assert result["_meta"]["tale/error"]["type"] == "ValidationException"


async def test_a_tool_without_parameters_says_that_it_takes_none(client: Caller) -> None:
    result = (await client.plain("tools/call", call("crash", {"x": 1}))).result
    assert result["content"][0]["text"] == "crash has no parameter 'x'; it takes none."


async def test_a_tool_that_crashes_gives_nothing_away(client: Caller, caplog: pytest.LogCaptureFixture) -> None:
    answer = await client.plain("tools/call", call("crash"))
    assert answer.result["content"][0]["text"].startswith("Internal error")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert "secret detail" in caplog.text


async def test_a_number_that_json_cannot_hold_becomes_null(client: Caller) -> None:
    answer = await client.plain("tools/call", call("infinite"))
    assert answer.status == 200
    assert answer.result["structuredContent"] == {"value": None}


async def test_half_a_character_is_replaced(client: Caller) -> None:
    assert (await client.plain("tools/call", call("surrogate"))).result["content"][0]["text"] == "half ?"


# What is kept of each call


async def test_each_call_is_noted_before_its_answer_goes_out(client: Caller, workshop: Workshop) -> None:
    await client.plain("tools/call", call("refuse", {"task_id": "t-1"}))
    refused = workshop.calls[-1]
    assert (refused.server, refused.method, refused.tool) == ("workshop", "tools/call", "refuse")
    assert (refused.outcome, refused.error_class) == ("tool_error", "TaskException")
    assert refused.error == "No such task; look at the list."
    assert refused.task_id == "t-1"
    assert refused.latency_s >= 0
    await client.plain("no/such")
    assert (workshop.calls[-1].outcome, workshop.calls[-1].error_class) == ("error", "JSONRPCError-32601")


async def test_a_call_belongs_to_the_trace_it_came_with_and_to_its_task(client: Caller, workshop: Workshop) -> None:
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Test": "yes"}
    answer = await client.post(request("tools/call", call("who")), headers)
    assert answer.result["structuredContent"] == {"trace_id": TRACE, "header": "yes"}
    assert (workshop.calls[-1].trace_id, workshop.calls[-1].task_id) == (TRACE, "task-of-the-call")
    for bad in ("nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01"):
        made = await client.post(request("tools/call", call("who")), {"traceparent": bad})
        trace = made.result["structuredContent"]["trace_id"]
        assert len(trace) == 32
        assert int(trace, 16) > 0


async def test_an_answer_is_given_although_it_cannot_be_noted(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: McpCall) -> None:
        raise OSError("disk full")

    async with calling(Workshop().server(observer=fail)) as client:
        assert (await client.plain("ping")).result == {}
    assert "could not be recorded" in caplog.text


async def test_a_server_needs_no_observer() -> None:
    async with calling(Workshop().server(observer=None)) as client:
        assert (await client.plain("ping")).result == {}


async def test_other_methods_and_paths_are_not_there(client: Caller) -> None:
    for method, path, status in (("PUT", "/mcp", 405), ("HEAD", "/mcp", 405), ("GET", "/", 404)):
        async with client.http.request(method, client.url + path) as response:
            assert response.status == status


async def test_a_name_can_be_taken_once() -> None:
    server = Workshop().server()
    with pytest.raises(ValueError, match="a tool echo already"):
        server.add_tool(Workshop().echo)
