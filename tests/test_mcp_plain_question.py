"""Short questions without aiohttp say what the whole client says, or leave it to that one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.faulty_server import error, http, raw_server, result
from fakes.mcp_workshop import Workshop

from tale.exceptions import NetworkException
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.plain_question import health_at, tool_result

ANSWER = result({"structuredContent": {"text": "hi"}})


@pytest.fixture
async def url() -> AsyncIterator[str]:
    server = Workshop().server()
    await server.start()
    yield f"http://127.0.0.1:{server.port}"
    await server.stop()


async def ask(url: str, name: str = "echo", *, key: str | None = None, **arguments: Any) -> dict[str, Any] | None:
    return await asyncio.to_thread(tool_result, url, name, arguments, api_key=key, timeout_s=5)


async def test_they_say_what_the_whole_client_says(url: str) -> None:
    async with HTTPMCPClient(url) as client:
        assert await ask(url, text="Grüße") == await client.call_tool("echo", {"text": "Grüße"})
        assert await asyncio.to_thread(health_at, url, timeout_s=5) == await client.health()


async def test_the_key_goes_with_the_question() -> None:
    async with raw_server(http(ANSWER)) as server:
        assert await ask(server.url, key="tale_secret") == {"text": "hi"}
        assert b"Authorization: Bearer tale_secret" in server.requests[0]


async def test_an_address_may_have_a_path() -> None:
    async with raw_server(http(ANSWER)) as server:
        assert await ask(f"{server.url}/behind") == {"text": "hi"}
        assert server.requests[0].startswith(b"POST /behind/mcp ")


@pytest.mark.parametrize("tool", ["refuse", "crash", "unknown"])
async def test_what_a_tool_refuses_is_left_to_the_whole_client(url: str, tool: str) -> None:
    assert await ask(url, tool, task_id="1") is None


@pytest.mark.parametrize(
    "answer",
    [
        http(ANSWER, status="401 Unauthorized"),
        http(ANSWER, content_type="text/event-stream"),
        http(error(-32602, "no")),
        http("[]"),
        http("no JSON"),
        http('{"result": {"content": []}}'),
        http(ANSWER[:-1], length=len(ANSWER)),
    ],
    ids=["refused", "a stream", "an error", "a list", "no JSON", "no structure", "half"],
)
async def test_any_other_answer_is_left_to_the_whole_client(answer: bytes) -> None:
    async with raw_server(answer) as server:
        assert await ask(server.url) is None


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "http://tale.example:1", "ftp://localhost"])
async def test_other_machines_and_tls_are_left_to_the_whole_client(url: str) -> None:
    assert await ask(url) is None


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-Server\r\n"], ids=["nothing", "no HTTP"])
async def test_a_server_that_breaks_off_is_named(answer: bytes) -> None:
    async with raw_server(answer) as server:
        with pytest.raises(NetworkException, match="does not answer") as caught:
            await ask(server.url)
        assert caught.value.context["url"] == server.url
        assert caught.value.context["cause"]


async def test_a_closed_port_is_named() -> None:
    async with raw_server() as server:
        url = server.url
    with pytest.raises(NetworkException, match="does not answer"):
        await asyncio.to_thread(health_at, url, timeout_s=5)
