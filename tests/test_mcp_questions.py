"""A tool, prompt or resource asks its client in the midst of a call: one way to write it, two to put it on the wire."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from conformance import server as fixtures
from fakes.mcp_workshop import META, Caller, call, modern_request
from fakes.person import CAPABILITIES, Person, asking

from tale.exceptions import ServerException, TaleBaseException, TaskException
from tale.mcp.base_server import ToolContext
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer
from tale.mcp.tool_context import client_roots, form

ERAS = pytest.mark.parametrize("modern", [False, True], ids=["handshake", "modern"])
INVALID = -32602


@pytest.fixture
async def server() -> AsyncIterator[HTTPMCPServer]:
    server = fixtures.build()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def caller(server: HTTPMCPServer) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as http:
        yield Caller(http, f"http://127.0.0.1:{server.port}")


@ERAS
async def test_a_tool_asks_its_client_and_goes_on_with_the_answers(server: HTTPMCPServer, modern: bool) -> None:
    person = Person()
    async with asking(server, person, modern) as client:
        told = (await client.call_tool("test_input_required_result_multi_round"))["result"]
        assert told == "my name likes my color."
        several = (await client.call_tool("test_input_required_result_multiple_inputs"))["result"]
        assert several == "Paris, my name, at file:///home"
    assert [params.get("message") for _, params in person.asked[:2]] == [
        "Step 1: What is your name?",
        "Step 2: What is your favorite color?",
    ]


@ERAS
async def test_a_prompt_asks_as_a_tool_does(server: HTTPMCPServer, modern: bool) -> None:
    async with asking(server, Person(), modern) as client:
        filled = await client.request("prompts/get", {"name": "test_input_required_result_prompt"})
    assert filled["messages"][0]["content"]["text"] == "Use this context: my context"


@ERAS
async def test_a_client_that_cannot_be_asked_is_told_what_it_lacks(server: HTTPMCPServer, modern: bool) -> None:
    async with asking(server, Person(), modern, capabilities={"roots": {}}) as client:
        with pytest.raises(ServerException, match=r"a client that can be asked \(sampling\)"):
            await client.call_tool("test_missing_capability")


@ERAS
async def test_a_client_that_does_not_answer_ends_the_call_with_an_error(server: HTTPMCPServer, modern: bool) -> None:
    async def refuse(method: str, params: dict[str, Any]) -> dict[str, Any]:
        raise TaskException("Not now.")

    url = f"http://127.0.0.1:{server.port}"
    async with HTTPMCPClient(url, on_question=refuse, capabilities=CAPABILITIES, modern=modern) as client:
        with pytest.raises(TaleBaseException, match="Not now"):
            await client.call_tool("test_input_required_result_elicitation")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state + "x",
        lambda state: "v1." + state[4:],
        lambda state: "",
        lambda state: 7,
        lambda state: json.dumps({"step1": {"action": "accept", "content": {"name": "Eve"}}}),
    ],
)
async def test_a_state_that_was_tampered_with_is_refused(caller: Caller, spoil: Any) -> None:
    first = await ask_first(caller, "test_input_required_result_multi_round")
    answers = {"step2": {"action": "accept", "content": {"color": "red"}}}
    again = {"requestState": spoil(first["requestState"]), "inputResponses": answers}
    refused = await ask(caller, "test_input_required_result_multi_round", **again)
    assert (refused.status, refused.error["code"]) == (400, INVALID)


async def test_a_state_belongs_to_its_tool_its_arguments_and_its_credential(caller: Caller) -> None:
    first = await ask_first(caller, "test_input_required_result_multi_round")
    state = {"requestState": first["requestState"], "inputResponses": {}}
    assert (await ask(caller, "test_input_required_result_elicitation", **state)).error["code"] == INVALID
    other = await ask(caller, "test_input_required_result_multi_round", {"x": 1}, **state)
    assert other.error["code"] == INVALID
    body, headers = modern_request("tools/call", asked_params("test_input_required_result_multi_round", **state))
    assert (await caller.post(body, {**headers, "Authorization": "Bearer other"})).error["code"] == INVALID
    assert (await ask(caller, "test_input_required_result_multi_round", **state)).result["inputRequests"]


async def test_an_answer_to_another_question_is_refused_or_asked_for_again(caller: Caller) -> None:
    tool = "test_input_required_result_elicitation"
    other_kind = {"user_name": {"roots": []}}
    assert (await ask(caller, tool, inputResponses=other_kind)).error["code"] == INVALID
    other_key = {"somebody": {"action": "accept", "content": {"name": "Ann"}}}
    assert list((await ask(caller, tool, inputResponses=other_key)).result["inputRequests"]) == ["user_name"]


def asked_params(tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {**call(tool, arguments), **more, "_meta": {f"{META}/clientCapabilities": CAPABILITIES}}


async def ask(caller: Caller, tool: str, arguments: dict[str, Any] | None = None, **more: Any) -> Any:
    return await caller.modern("tools/call", asked_params(tool, arguments, **more))


async def ask_first(caller: Caller, tool: str) -> dict[str, Any]:
    first = (await ask(caller, tool)).result
    assert first["resultType"] == "input_required"
    return first


async def test_a_server_asks_on_the_standing_stream_outside_of_any_call(server: HTTPMCPServer) -> None:
    person = Person()
    async with asking(server, person, modern=False) as client:
        await client.list_tools()
        (session,) = server.endpoint.sessions
        asked = await session.send_raw_request("roots/list", None)
        assert asked == {"roots": [{"uri": "file:///home"}]}
    assert person.asked == [("roots/list", {})]


@ERAS
async def test_a_function_gets_the_context_wherever_it_asks_for_it(server: HTTPMCPServer, modern: bool) -> None:
    async def where(context: ToolContext) -> str:
        """Say where the client works."""
        answer = await context.ask(client_roots())
        return f"{context.headers['User-Agent'][:6]} {answer.roots[0].uri}"  # type: ignore[union-attr]  # they are roots

    server.add_resource("test://where", where, mime_type="text/plain")
    async with asking(server, Person(), modern) as client:
        (content,) = (await client.request("resources/read", {"uri": "test://where"}))["contents"]
    assert content["text"] == "Python file:///home"


def test_a_form_keeps_its_schema() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string", "default": "Ann"}}}
    assert form("Who?", schema).params.requested_schema == schema  # type: ignore[union-attr]  # it is a form
