"""Resources, prompts, suggestions, log messages and changes, over HTTP in both eras."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from conformance import server as fixtures
from fakes.mcp_workshop import BOTH, META, Caller, call, calling, events_of, initialize, modern_request, request
from mcp.types import TextContent

from tale.exceptions import ServerException, TaskException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer
from tale.mcp.sessions import MOST_SUBSCRIPTIONS, Session

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


def only_session(server: HTTPMCPServer) -> Session:
    (session,) = server.endpoint.sessions
    return session


# Log messages


@pytest.mark.parametrize(("level", "heard"), [("debug", 3), ("info", 3), ("error", 0)])
async def test_a_session_gets_the_log_messages_of_the_level_it_wants(caller: Caller, level: str, heard: int) -> None:
    await caller.open_session()
    assert (await caller.in_session(request("logging/setLevel", {"level": level}))).result == {}
    answer = await caller.in_session(request("tools/call", call("test_tool_with_logging")))
    logged = [each["params"]["data"] for each in answer.messages if each.get("method") == "notifications/message"]
    assert len(logged) == heard


@pytest.mark.parametrize(("level", "heard"), [(None, 0), ("debug", 1), ("error", 0)])
async def test_a_request_of_the_modern_era_says_itself_what_it_wants_logged(
    caller: Caller, level: str | None, heard: int
) -> None:
    meta = {} if level is None else {f"{META}/logLevel": level}
    answer = await caller.modern("tools/call", {**call("test_logging_tool"), "_meta": meta})
    assert sum(each.get("method") == "notifications/message" for each in answer.messages) == heard


# What changes


async def test_sessions_are_told_when_tools_and_prompts_change(server: HTTPMCPServer, caller: Caller) -> None:
    opened = await caller.open_session()
    assert opened.result["capabilities"]["tools"] == {"listChanged": True}
    headers = {"Accept": "text/event-stream", **caller.session_headers()}
    for tool in ("test_trigger_tool_change", "test_trigger_prompt_change"):
        await caller.in_session(request("tools/call", call(tool)))
    server.remove_resource("test://static-text")
    async with caller.http.get(f"{caller.url}/mcp", headers=headers) as stream:
        told: list[str] = []
        while len(told) < 5:
            text = (await stream.content.readuntil(b"\n\n")).decode()
            told += [message["method"].split("/")[1] for message in events_of(text)]
    assert told == ["tools", "tools", "prompts", "prompts", "resources"]


async def test_a_session_subscribes_to_resources_that_there_are_and_to_so_many(
    server: HTTPMCPServer, caller: Caller
) -> None:
    await caller.open_session()
    session = only_session(server)

    async def subscribe(uri: str, method: str = "resources/subscribe") -> Any:
        return (await caller.in_session(request(method, {"uri": uri}))).messages[-1]

    assert (await subscribe("test://watched-resource"))["result"] == {}
    assert (await subscribe("test://nothing"))["error"]["code"] == INVALID
    assert (await subscribe("test://watched-resource", "resources/unsubscribe"))["result"] == {}
    assert session.subscriptions == set()
    for number in range(MOST_SUBSCRIPTIONS):
        session.subscribe(f"test://template/{number}/data")
    assert "the most" in (await subscribe("test://watched-resource"))["error"]["message"]
    assert (await subscribe("test://template/1/data"))["result"] == {}
    assert (await caller.plain("resources/subscribe", {"uri": "test://watched-resource"})).error["code"] == -32600


async def test_a_session_hears_of_the_resources_it_subscribed_to_alone(server: HTTPMCPServer, caller: Caller) -> None:
    await caller.open_session()
    session = only_session(server)
    session.subscribe("test://watched-resource")
    server.resource_updated("test://static-text")
    server.resource_updated("test://watched-resource")
    session.hang_up()
    async with caller.http.get(
        f"{caller.url}/mcp", headers={"Accept": "text/event-stream", **caller.session_headers()}
    ) as stream:
        (told,) = events_of(await stream.text())
    assert told["params"] == {"uri": "test://watched-resource"}


async def test_listening_needs_a_client_that_takes_streams_and_ends_with_the_server(
    server: HTTPMCPServer, caller: Caller
) -> None:
    body, headers = modern_request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    refused = await caller.post(body, {**headers, "Accept": "application/json"})
    assert "text/event-stream" in refused.error["message"]
    async with caller.http.post(f"{caller.url}/mcp", json=body, headers={**headers, "Accept": BOTH}) as stream:
        assert b"acknowledged" in await stream.content.readuntil(b"\n\n")
        stopping = asyncio.create_task(server.stop(60.0))
        (result,) = events_of((await stream.content.read()).decode())
        assert result["id"] == body["id"]
    await stopping


# Resources, prompts, suggestions


@ERAS
async def test_resources_are_text_bytes_or_json(server: HTTPMCPServer, modern: bool) -> None:
    async with HTTPMCPClient(f"http://127.0.0.1:{server.port}", modern=modern) as client:

        async def read(uri: str) -> dict[str, Any]:
            (content,) = (await client.request("resources/read", {"uri": uri}))["contents"]
            return content

        assert (await read("test://static-text"))["text"].startswith("This is the content")
        assert (await read("test://static-binary"))["blob"].startswith("iVBOR")
        data = await read("test://template/a%20b/data")
        assert json.loads(data["text"])["id"] == "a b"
        assert data["mimeType"] == "application/json"


@pytest.mark.parametrize("uri", ["test://template/1/2/data", "test://template//data/", "nothing", "", "x" * 5_000])
async def test_a_resource_that_is_not_there_is_refused_by_its_uri(caller: Caller, uri: str) -> None:
    answer = await caller.plain("resources/read", {"uri": uri})
    assert (answer.status, answer.error["code"]) == (400, INVALID)
    assert answer.error["data"] == {"uri": uri}


async def test_what_goes_wrong_in_a_resource_or_prompt_is_told_where_it_is_meant_to_be(server: HTTPMCPServer) -> None:
    async def refusing() -> str:
        """Refuse."""
        raise TaskException("Not today.", {"day": "Sunday"})

    async def broken() -> str:
        """Break."""
        raise RuntimeError("secret detail")

    for function in (refusing, broken):
        server.add_resource(f"test://{function.__name__}", function)
        server.add_prompt(function)
    async with HTTPMCPClient(f"http://127.0.0.1:{server.port}") as client:
        for method, given in (("resources/read", {"uri": "test://%s"}), ("prompts/get", {"name": "%s"})):
            key, pattern = next(iter(given.items()))
            with pytest.raises(ValidationException, match="Not today"):
                await client.request(method, {key: pattern % "refusing"})
            with pytest.raises(ServerException) as caught:
                await client.request(method, {key: pattern % "broken"})
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({}, "needs the argument 'arg1'"), ({"arg1": "a", "arg2": "b", "arg3": "c"}, "has no argument 'arg3'")],
)
async def test_a_prompt_wants_its_arguments_and_no_others(caller: Caller, arguments: dict[str, str], told: str) -> None:
    answer = await caller.plain("prompts/get", {"name": "test_prompt_with_arguments", "arguments": arguments})
    assert told in answer.error["message"]


async def test_an_unknown_prompt_is_refused_by_name(caller: Caller) -> None:
    assert "Unknown prompt: none" in (await caller.plain("prompts/get", {"name": "none"})).error["message"]


@pytest.mark.parametrize(
    ("reference", "argument", "values"),
    [
        ({"type": "ref/prompt", "name": "test_prompt_with_arguments"}, "arg1", ["paris", "park", "party"]),
        ({"type": "ref/prompt", "name": "test_prompt_with_arguments"}, "arg2", []),
        ({"type": "ref/resource", "uri": "test://template/{id}/data"}, "id", ["paris", "park", "party"]),
    ],
)
async def test_suggestions_are_those_of_the_argument(
    caller: Caller, reference: dict[str, str], argument: str, values: list[str]
) -> None:
    params = {"ref": reference, "argument": {"name": argument, "value": "pa"}}
    completion = (await caller.plain("completion/complete", params)).result["completion"]
    assert completion == {"values": values, "total": len(values), "hasMore": False}


async def test_of_many_suggestions_a_hundred_are_sent(server: HTTPMCPServer, caller: Caller) -> None:
    async def many(typed: str) -> list[str]:
        return [f"{typed}{number}" for number in range(150)]

    server.add_completion("test_prompt_with_arguments", "arg2", many)
    reference = {"type": "ref/prompt", "name": "test_prompt_with_arguments"}
    params = {"ref": reference, "argument": {"name": "arg2", "value": "x"}}
    completion = (await caller.plain("completion/complete", params)).result["completion"]
    assert (len(completion["values"]), completion["total"], completion["hasMore"]) == (100, 150, True)


# Registering


async def test_names_are_taken_once_and_can_be_given_back(server: HTTPMCPServer) -> None:
    for add in (
        lambda: server.add_tool(fixtures.static_text, title="x"),
        lambda: server.add_prompt(fixtures.static_text),
        lambda: server.add_resource("test://new", fixtures.static_text),
        lambda: server.add_resource("test://new/{id}", fixtures.template_data),
    ):
        add()
        with pytest.raises(ValueError, match="already"):
            add()
    server.remove_tool("static_text")
    server.remove_prompt("static_text")
    server.remove_resource("test://new")
    server.remove_resource("test://new/{id}")
    for remove in (server.remove_tool, server.remove_prompt, server.remove_resource):
        with pytest.raises(KeyError):
            remove("static_text")


async def test_what_is_registered_is_an_async_function_with_fitting_parameters(server: HTTPMCPServer) -> None:
    def plain() -> str:
        return ""

    async def counting(number: int) -> str:
        return str(number)

    with pytest.raises(TypeError, match="must be an async function"):
        server.add_resource("test://plain", plain)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="argument number of the prompt counting must be a string"):
        server.add_prompt(counting)


async def test_a_server_declares_what_it_offers_and_nothing_else() -> None:
    async def health() -> dict[str, Any]:
        return {"status": "ok"}

    async def look() -> TextContent:
        """Look."""
        return TextContent(text="seen")

    bare = HTTPMCPServer("bare", version="1", health=health)
    bare.add_tool(look)
    async with calling(bare) as caller:
        handshake = (await caller.post(initialize())).result["capabilities"]
        modern = (await caller.modern("server/discover")).result["capabilities"]
        assert (await caller.plain("prompts/list")).error["code"] == -32601
    assert handshake == {"tools": {"listChanged": True}}
    assert modern == {"tools": {"listChanged": True}}
