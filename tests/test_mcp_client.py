"""The client calls tools, waits while they work, and tells what they refuse."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.faulty_server import error, handshake_only, http, raw_server, result
from fakes.mcp_workshop import Workshop

from tale.exceptions import NetworkException, ServerException, TaskException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer, Limits

UNSUPPORTED = -32022
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


# Calls


async def test_a_call_gives_the_tools_structured_answer(client: HTTPMCPClient) -> None:
    assert await client.call_tool("echo", {"text": "hi"}) == {"text": "hi"}


async def test_arguments_that_are_none_are_left_out(client: HTTPMCPClient) -> None:
    assert await client.call_tool("repeat", {"text": "hi", "loud": None, "times": 1}) == {"result": ["hi"]}


@pytest.mark.parametrize("path", ["", "/", "/mcp", "/mcp/"])
async def test_the_address_may_name_the_endpoint_or_the_server(server: HTTPMCPServer, path: str) -> None:
    async with HTTPMCPClient(url_of(server) + path) as client:
        assert (await client.call_tool("echo", {"text": "hi"}))["text"] == "hi"


async def test_the_tools_are_listed_over_all_pages() -> None:
    pages = [
        result({"tools": [{"name": "one"}], "nextCursor": "more"}),
        result({"tools": [{"name": "two"}]}, 2),
    ]
    async with raw_server(*(http(page) for page in pages)) as server, HTTPMCPClient(server.url) as client:
        assert [tool["name"] for tool in await client.list_tools()] == ["one", "two"]
        assert b'"cursor": "more"' in server.requests[1] or b'"cursor":"more"' in server.requests[1]


async def test_progress_is_told_as_it_comes(client: HTTPMCPClient) -> None:
    steps: list[Step] = []
    answer = await client.call_tool("count", {"to": 2}, on_progress=lambda *step: steps.append(step))
    assert answer == {"result": 2}
    assert steps == [(1, 2, "now 1"), (2, 2, "now 2")]


async def test_an_answer_without_structure_is_given_as_text() -> None:
    content = [{"type": "text", "text": "one"}, {"type": "image", "data": ""}, {"type": "text", "text": "two"}]
    async with raw_server(http(result({"content": content}))) as server, HTTPMCPClient(server.url) as client:
        assert await client.call_tool("any") == {"result": "one\ntwo"}


async def test_calls_may_be_made_side_by_side(client: HTTPMCPClient) -> None:
    answers = await asyncio.gather(*(client.call_tool("echo", {"text": str(number)}) for number in range(20)))
    assert [answer["text"] for answer in answers] == [str(number) for number in range(20)]


# Failures of tools and of the protocol


async def test_a_tools_refusal_arrives_as_the_exception_it_was(client: HTTPMCPClient) -> None:
    with pytest.raises(TaskException, match="No such task; look at the list") as caught:
        await client.call_tool("refuse", {"task_id": "t-1"})
    assert caught.value.context["task_id"] == "t-1"


async def test_wrong_arguments_are_invalid_input(client: HTTPMCPClient) -> None:
    with pytest.raises(ValidationException, match="repeat: text: Field required"):
        await client.call_tool("repeat")


async def test_an_unknown_tool_is_invalid_input(client: HTTPMCPClient) -> None:
    with pytest.raises(ValidationException, match="Unknown tool: nope"):
        await client.call_tool("nope")


async def test_a_crash_of_the_server_is_told_without_details(client: HTTPMCPClient) -> None:
    with pytest.raises(ServerException, match="Internal error"):
        await client.call_tool("crash")


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ({"content": [{"type": "text", "text": "It failed."}]}, "It failed."),
        ({"content": []}, "did not say why"),
        ({"content": [], "_meta": {"tale/error": {"type": "SystemExit", "message": "x"}}}, "did not say why"),
        ({"content": [], "_meta": {"tale/error": {"type": "Mapping", "message": "x"}}}, "did not say why"),
        ({"content": [], "_meta": {"tale/error": "x"}}, "did not say why"),
    ],
)
async def test_a_strangers_tool_error_is_a_server_error(failure: dict[str, Any], text: str) -> None:
    body = result({**failure, "isError": True})
    async with raw_server(http(body)) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(ServerException, match=text):
            await client.call_tool("any")


async def test_a_protocol_error_names_the_server() -> None:
    async with raw_server(http(error(-32603, "Broken"))) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(ServerException, match="Broken") as caught:
            await client.call_tool("any")
        assert caught.value.context == {"url": server.url, "code": -32603}


# Keys


async def test_a_key_is_sent_and_its_lack_is_named(workshop: Workshop) -> None:
    server = workshop.server(api_key="open sesame")
    await server.start()
    async with HTTPMCPClient(url_of(server), api_key="open sesame") as client:
        assert (await client.call_tool("echo", {"text": "hi"}))["text"] == "hi"
    async with HTTPMCPClient(url_of(server)) as stranger:
        assert (await stranger.health())["name"] == "workshop"
        with pytest.raises(ServerException, match="asks for a key; give it in TALE_API_KEY"):
            await stranger.call_tool("echo", {"text": "hi"})
    await server.stop()


# Time and cancellation


async def test_giving_up_a_call_cancels_it_on_the_server(client: HTTPMCPClient, workshop: Workshop) -> None:
    asked = asyncio.create_task(client.call_tool("wait", on_progress=lambda *_: None))
    await workshop.started.wait()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await workshop.cancelled.wait()


async def test_a_call_may_be_given_a_limit(client: HTTPMCPClient, workshop: Workshop) -> None:
    with pytest.raises(NetworkException, match=r"wait took longer than 0\.05 s") as caught:
        await client.call_tool("wait", timeout_s=0.05)
    assert caught.value.context["cause"] == "timeout"
    await workshop.cancelled.wait()


async def test_a_server_that_shows_life_is_waited_for(workshop: Workshop) -> None:
    server = workshop.server(limits=Limits(ping_interval_s=0.02))
    await server.start()
    async with HTTPMCPClient(url_of(server), timeout_s=0.5) as client:
        asked = asyncio.create_task(client.call_tool("stall"))
        await workshop.started.wait()
        await asyncio.sleep(0.7)  # longer than the silence that the client bears: only the pings keep it
        workshop.release.set()
        assert await asked == {"result": "stalled"}
    await server.stop()


async def test_a_server_that_falls_silent_is_given_up(workshop: Workshop) -> None:
    server = workshop.server()
    await server.start()
    async with HTTPMCPClient(url_of(server), timeout_s=0.05) as client:
        with pytest.raises(NetworkException, match="does not answer"):
            await client.call_tool("stall")
    await server.stop()


# Health


async def test_a_client_connects_to_a_server_that_is_well(client: HTTPMCPClient, workshop: Workshop) -> None:
    for status in ("ok", "degraded", "starting"):
        workshop.status = status
        assert (await client.connect())["status"] == status
    workshop.status = "broken"
    with pytest.raises(ServerException, match="is not well"):
        await client.connect()


@pytest.mark.parametrize("answer", [http("[]"), http("{}", status="404 Not Found"), http("<html>")])
async def test_the_health_of_a_stranger_is_not_tales(answer: bytes) -> None:
    async with raw_server(answer) as server, HTTPMCPClient(server.url) as client:
        with pytest.raises(NetworkException):
            await client.health()


async def test_the_health_of_what_is_not_there_is_a_network_error(unused_tcp_port: int) -> None:
    async with HTTPMCPClient(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(NetworkException, match="does not answer"):
            await client.health()
        await client.close()
        await client.close()


async def test_a_session_that_cannot_be_ended_does_not_hold_up_the_client(workshop: Workshop) -> None:
    async with handshake_only(workshop.server(), code=UNSUPPORTED, text="Unsupported protocol version") as url:
        client = HTTPMCPClient(url)
        await client.call_tool("echo", {"text": "hi"})
    await client.close()
