"""The gateway's tasks and figures as resources, its prompts, and waits that are tasks of the protocol."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.mcp_workshop import META, Caller, call, modern_request
from fakes.servers import Process, running, settings_for, until

from tale.exceptions import ServerException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.records import ModelCall

UNKNOWN = "6f9a1c1e-6c1b-4f0e-9d0a-3f2b8a1c0d11"
TASKS_EXTENSION = {"extensions": {"io.modelcontextprotocol/tasks": {}}}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path)) as process:
        yield process


@pytest.fixture
async def client(service: Process) -> HTTPMCPClient:
    return await service.client()


@pytest.fixture
def held(service: Process) -> asyncio.Event:
    """Models stop after their first word until this is set."""
    gate = service.backend.word_gate = asyncio.Event()
    return gate


async def read(client: HTTPMCPClient, uri: str) -> Any:
    (content,) = (await client.request("resources/read", {"uri": uri}))["contents"]
    assert content["uri"] == uri
    assert content["mimeType"] == "application/json"
    return json.loads(content["text"])


async def prompt(client: HTTPMCPClient, name: str, **arguments: str) -> str:
    filled = await client.request("prompts/get", {"name": name, "arguments": arguments})
    (message,) = filled["messages"]
    assert message["role"] == "user"
    return message["content"]["text"]


async def complete(client: HTTPMCPClient, reference: dict[str, str], typed: str) -> list[str]:
    params = {"ref": reference, "argument": {"name": "task_id", "value": typed}}
    return (await client.request("completion/complete", params))["completion"]["values"]


# Resources


async def test_a_task_is_a_resource_with_its_result(service: Process, client: HTTPMCPClient) -> None:
    task = await service.done("greet")
    found = await read(client, f"tale://tasks/{task['id']}")
    assert found["status"] == "completed"
    assert found["result"] == task["result"]
    assert found["usage"]["output_tokens"] == 2


@pytest.mark.parametrize("uri", [f"tale://tasks/{UNKNOWN}", "tale://tasks/none", "tale://tasks/", "tale://nothing"])
async def test_a_task_that_is_not_there_is_refused_by_its_uri(client: HTTPMCPClient, uri: str) -> None:
    with pytest.raises(ValidationException):
        await client.request("resources/read", {"uri": uri})


async def test_the_figures_of_today_count_tasks_and_tokens(service: Process, client: HTTPMCPClient) -> None:
    empty = await read(client, "tale://stats/today")
    assert sum(empty["tasks"].values()) == 0
    assert empty["usage"] == {"calls": 0, "input_tokens": None, "output_tokens": None, "cached_tokens": None}
    await service.done("greet")
    today = await read(client, "tale://stats/today")
    assert today["tasks"]["completed"] == 1
    assert today["usage"] == {"calls": 1, "input_tokens": 10, "output_tokens": 2, "cached_tokens": 4}
    assert today["since"] <= service.shared.clock()


async def test_a_target_is_met_or_missed_once_there_are_values_enough(service: Process, client: HTTPMCPClient) -> None:
    def standing(found: Any, name: str) -> tuple[int, float | None, str]:
        (one,) = [each for each in found["targets"] if each["target"]["name"] == name]
        return one["values"], one["measured"], one["status"]

    empty = await read(client, "tale://targets")
    assert {each["status"] for each in empty["targets"]} == {"unknown"}
    now = service.shared.clock()
    for number in range(20):
        call = ModelCall(f"call-{number}", now - number, "ux", "chat", "m", "p", time_to_first_token_s=0.1 * number)
        await service.shared.calls.close_call(replace(call, ended_at=now))
        await service.shared.calls.close_call(replace(call, id=f"task-{number}", operation="execute", ended_at=now))
    old = ModelCall("old", now - 2 * 86_400, "ux", "chat", "m", "p", time_to_first_token_s=50.0, load_s=2.0)
    await service.shared.calls.close_call(replace(old, ended_at=now - 86_500))
    found = await read(client, "tale://targets")
    assert standing(found, "ux_first_token") == (20, pytest.approx(1.8, rel=0.021), "missed")
    assert standing(found, "model_load") == (0, None, "unknown")


async def test_targets_are_told_with_ones_own_limits(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, target_limits={"model_load": 30.0})) as process:
        found = await read(await process.client(), "tale://targets")
    limits = {each["target"]["name"]: each["target"]["limit"] for each in found["targets"]}
    assert (limits["model_load"], limits["ux_first_token"]) == (30.0, 1.0)


async def test_what_there_is_is_listed_with_titles_and_texts(client: HTTPMCPClient) -> None:
    today, targets = (await client.request("resources/list"))["resources"]
    (template,) = (await client.request("resources/templates/list"))["resourceTemplates"]
    prompts = (await client.request("prompts/list"))["prompts"]
    assert (today["uri"], template["uriTemplate"]) == ("tale://stats/today", "tale://tasks/{task_id}")
    assert targets["uri"] == "tale://targets"
    assert [each["name"] for each in prompts] == ["delegate_work", "review_result"]
    assert all(each["title"] and each["description"] for each in (today, targets, template, *prompts))
    assert all(argument["description"] for each in prompts for argument in each["arguments"])


async def test_subscribers_in_a_session_are_told_of_each_status_of_their_task(
    service: Process, client: HTTPMCPClient, held: asyncio.Event
) -> None:
    task = await client.call_tool("submit_task", {"text": "greet"})
    await service.backend.started.wait()
    session = Caller(await _http(service), service.settings.url_of("gateway"))
    await session.open_session()
    subscribed = await session.in_session(
        {"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": f"tale://tasks/{task['id']}"}}
    )
    assert subscribed.result == {}
    headers = {"Accept": "text/event-stream", **session.session_headers()}
    async with session.http.get(f"{session.url}/mcp", headers=headers) as stream:
        held.set()
        async for line in stream.content:
            if line.startswith(b"data: {"):
                told = json.loads(line[6:])
                break
    assert told["method"] == "notifications/resources/updated"
    assert told["params"] == {"uri": f"tale://tasks/{task['id']}"}
    assert (await read(client, told["params"]["uri"]))["status"] == "completed"


async def test_subscribers_of_the_modern_era_are_told_on_the_stream_of_their_request(
    service: Process, client: HTTPMCPClient, held: asyncio.Event
) -> None:
    task = await client.call_tool("submit_task", {"text": "greet"})
    await service.backend.started.wait()
    uri, http = f"tale://tasks/{task['id']}", await _http(service)
    body, headers = modern_request("subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}})
    headers |= {"Accept": "application/json, text/event-stream"}
    told: list[dict[str, Any]] = []
    async with http.post(f"{service.settings.url_of('gateway')}/mcp", json=body, headers=headers) as stream:
        async for line in stream.content:
            if line.startswith(b"data: {"):
                told.append(json.loads(line[6:]))
                held.set()
            if len(told) == 2:
                break
    assert [message["method"] for message in told] == [
        "notifications/subscriptions/acknowledged",
        "notifications/resources/updated",
    ]
    assert told[1]["params"]["uri"] == uri


async def _http(service: Process) -> Any:
    import aiohttp

    return await service.stack.enter_async_context(aiohttp.ClientSession())


# Prompts


async def test_prompts_carry_the_goal_and_the_result_they_are_about(service: Process, client: HTTPMCPClient) -> None:
    assert (await prompt(client, "delegate_work", goal="Sort {this} out.")).startswith("Sort {this} out.")
    task = await service.done("greet {me}")
    text = await prompt(client, "review_result", task_id=task["id"])
    assert "greet {me}" in text
    assert "Hello world" in text
    assert f"for the task {task['id']} with" in text


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("delegate_work", {}), ("delegate_work", {"goal": "x", "more": "y"}), ("review_result", {"task_id": UNKNOWN})],
)
async def test_a_prompt_refuses_wrong_arguments(client: HTTPMCPClient, name: str, arguments: dict[str, str]) -> None:
    with pytest.raises(ValidationException):
        await prompt(client, name, **arguments)


async def test_ids_of_tasks_are_suggested_for_what_was_typed(service: Process, client: HTTPMCPClient) -> None:
    task = await service.done("greet")
    for reference in (
        {"type": "ref/resource", "uri": "tale://tasks/{task_id}"},
        {"type": "ref/prompt", "name": "review_result"},
    ):
        assert await complete(client, reference, task["id"][:4]) == [task["id"]]
        assert await complete(client, reference, "no such id") == []


# Tasks of the protocol


@pytest.fixture
async def poller(service: Process) -> AsyncIterator[HTTPMCPClient]:
    """A client that takes tasks in place of long calls."""
    async with HTTPMCPClient(service.settings.url_of("gateway"), capabilities=TASKS_EXTENSION) as client:
        yield client


async def wait(client: HTTPMCPClient, task_id: str) -> dict[str, Any]:
    return await client.request("tools/call", {"name": "wait_for_task", "arguments": {"task_id": task_id}})


async def test_a_wait_becomes_a_task_of_the_protocol_whose_end_holds_the_result(
    service: Process, poller: HTTPMCPClient, held: asyncio.Event
) -> None:
    task = await poller.call_tool("submit_task", {"text": "greet"})
    waited = await wait(poller, task["id"])
    assert (waited["resultType"], waited["taskId"], waited["status"]) == ("task", task["id"], "working")
    assert "content" not in waited
    held.set()

    async def ended() -> bool:
        return (await tasks(service, "tasks/get", task["id"]))["result"]["status"] == "completed"

    await until(ended)
    detailed = (await tasks(service, "tasks/get", task["id"]))["result"]
    assert detailed["result"]["structuredContent"]["result"] == "Hello world"
    assert (await wait(poller, task["id"]))["structuredContent"]["status"] == "completed"


async def tasks(service: Process, method: str, task_id: str, **params: Any) -> dict[str, Any]:
    """A request of the extension as it goes over the wire."""
    caller = Caller(await _http(service), service.settings.url_of("gateway"))
    meta = {f"{META}/clientCapabilities": TASKS_EXTENSION}
    headers = {"Mcp-Name": task_id}
    answer = await caller.modern(method, {"taskId": task_id, **params, "_meta": meta}, **headers)
    return answer.messages[-1]


async def test_cancelling_a_task_of_the_protocol_cancels_the_task(
    service: Process, poller: HTTPMCPClient, held: asyncio.Event
) -> None:
    task = await poller.call_tool("submit_task", {"text": "greet"})
    await service.backend.started.wait()
    assert (await wait(poller, task["id"]))["status"] == "working"
    assert (await tasks(service, "tasks/cancel", task["id"]))["result"]["resultType"] == "complete"
    assert (await tasks(service, "tasks/get", task["id"]))["result"]["status"] == "cancelled"
    assert (await tasks(service, "tasks/cancel", task["id"]))["result"]["resultType"] == "complete"
    assert not held.is_set()


async def test_a_task_that_failed_has_ended_with_an_answer_that_says_so(service: Process) -> None:
    service.backend.chat_failures = [ServerException("The engine refuses.")] * 10
    task = await service.done("greet")
    assert task["status"] == "failed"
    detailed = (await tasks(service, "tasks/get", task["id"]))["result"]
    assert detailed["status"] == "completed"
    assert detailed["result"]["structuredContent"]["status"] == "failed"


@pytest.mark.parametrize("method", ["tasks/get", "tasks/cancel", "tasks/update"])
async def test_tasks_that_are_not_there_are_refused(service: Process, method: str) -> None:
    answers = {"inputResponses": {}} if method == "tasks/update" else {}
    assert (await tasks(service, method, UNKNOWN, **answers))["error"]["code"] == -32602
    assert (await tasks(service, method, "none", **answers))["error"]["code"] == -32602


async def test_the_extension_is_for_clients_that_declare_it(service: Process, client: HTTPMCPClient) -> None:
    task = await service.done("greet")
    caller = Caller(await _http(service), service.settings.url_of("gateway"))
    undeclared = await caller.modern("tasks/get", {"taskId": task["id"]}, **{"Mcp-Name": task["id"]})
    assert (undeclared.status, undeclared.error["code"]) == (400, -32021)
    assert (await caller.plain("tasks/get", {"taskId": task["id"]})).error["code"] == -32601
    mistaken = await caller.modern("tasks/get", {"taskId": task["id"]}, **{"Mcp-Name": UNKNOWN})
    assert (mistaken.status, mistaken.error["code"]) == (400, -32020)
    assert (await caller.plain("tools/call", call("wait_for_task", {"task_id": task["id"]}))).result["content"]


async def test_a_task_of_the_protocol_outlives_the_servers(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with running(settings) as first:
        task = await first.done("greet")
    async with running(settings) as second:
        detailed = (await tasks(second, "tasks/get", task["id"]))["result"]
    assert detailed["status"] == "completed"
    assert detailed["result"]["structuredContent"]["result"] == task["result"]
