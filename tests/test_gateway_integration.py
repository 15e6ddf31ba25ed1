"""The gateway over HTTP, with all that lies behind it: database, coordinator, engine, execution server and pool."""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import PATIENCE_S, Process, rows, running, settings_for, soon, until

from tale import __version__
from tale.exceptions import NetworkException, TaskException, ValidationException
from tale.mcp.http_client import HTTPMCPClient

TOOLS = {
    "get_budgets",
    "set_budget",
    "remove_budget",
    "acknowledge_alerts",
    "submit_task",
    "submit_tasks",
    "pause_queue",
    "resume_queue",
    "get_task_status",
    "get_task_result",
    "wait_for_task",
    "list_tasks",
    "cancel_task",
    "set_priority",
    "predict_task",
    "explain_task",
    "get_learning_report",
    "learn_from_tasks",
    "record_feedback",
    "get_server_info",
    "get_usage",
}


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path)) as process:
        yield process


@pytest.fixture
async def client(process: Process) -> HTTPMCPClient:
    return await process.client()


async def post(process: Process, body: dict[str, Any]) -> dict[str, Any]:
    """What `curl localhost:8080/mcp -d BODY` does."""
    url = f"{process.settings.url_of('gateway')}/mcp"
    headers = {"Content-Type": "application/json", "Accept": "*/*"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=json.dumps(body), headers=headers) as response,
    ):
        return await response.json()


async def health(process: Process, path: str = "/health") -> tuple[int, dict[str, Any]]:
    url = f"{process.settings.url_of('gateway')}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


async def is_ok(process: Process) -> bool:
    return (await health(process))[1]["status"] == "ok"


async def running_task(process: Process, client: HTTPMCPClient) -> dict[str, Any]:
    """A task whose first word is written and whose second does not come."""
    process.backend.word_gate = asyncio.Event()
    task = await client.call_tool("submit_task", {"text": "Write a haiku"})
    await soon(process.backend.started)
    return task


async def test_every_tool_is_listed_with_what_it_takes(process: Process, client: HTTPMCPClient) -> None:
    tools = {tool["name"]: tool for tool in await client.list_tools()}
    assert set(tools) == TOOLS
    text = tools["submit_task"]["inputSchema"]["properties"]["text"]
    assert text["description"] == "What is to be done, in plain words; 1 to 10,000 characters."
    assert all(tool["description"] and tool["outputSchema"] for tool in tools.values())
    listed = await post(process, {"method": "tools/list"})
    assert {tool["name"] for tool in listed["result"]["tools"]} == TOOLS


async def test_a_task_is_answered_at_once_then_waited_for_with_progress(
    process: Process, client: HTTPMCPClient
) -> None:
    gate = process.backend.word_gate = asyncio.Event()
    task = await client.call_tool("submit_task", {"text": " Write a haiku ", "priority": 3})
    assert (task["text"], task["status"], task["priority"]) == ("Write a haiku", "queued", 3)
    assert (task["result"], task["model"], task["duration_s"], task["usage"]["calls"]) == (None, None, None, 0)
    heard: list[tuple[float, str | None]] = []

    def on_progress(figure: float, total: float | None, message: str | None) -> None:
        heard.append((figure, message))
        if message == "large is writing":
            gate.set()

    done = await client.call_tool("wait_for_task", {"task_id": task["id"]}, on_progress=on_progress)
    assert (done["status"], done["result"], done["model"], done["role"]) == (
        "completed",
        "Hello world",
        "large",
        "task",
    )
    assert (done["usage"]["input_tokens"], done["usage"]["output_tokens"], done["usage"]["cached_tokens"]) == (10, 2, 4)
    assert done["timings"]["time_to_first_token_s"] > 0
    assert [figure for figure, _ in heard] == sorted({figure for figure, _ in heard})  # each larger than the last
    assert (1, "large is writing") in heard
    again = await client.call_tool("get_task_result", {"task_id": task["id"]})
    assert (again["result"], again["status"]) == ("Hello world", "completed")
    status = await client.call_tool("get_task_status", {"task_id": task["id"]})
    assert (status["result"], status["status"]) == (None, "completed")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"text": ""}, "empty"),
        ({"text": " \n"}, "empty"),
        ({"text": "x" * 20_000}, "20,000 characters"),
        ({"text": "x\x00y"}, "UTF-8"),
        ({"text": "x", "priority": 101}, "priority 101 is out of range"),
        ({"text": "x", "timeout_s": 0}, "1 to 3600"),
        ({"text": "x", "timeout_s": 3_601}, "1 to 3600"),
        ({"text": "x", "max_output_tokens": 0}, "limit of output tokens"),
        ({"text": "x", "idempotency_key": ""}, "idempotency key"),
        ({"text": "x", "idempotency_key": "k" * 201}, "idempotency key"),
        ({"text": 5}, "text"),
        ({}, "text"),
        ({"text": "x", "urgent": True}, "has no parameter 'urgent'"),
    ],
)
async def test_what_is_not_acceptable_is_refused_with_its_reason_and_not_stored(
    process: Process, client: HTTPMCPClient, given: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationException) as caught:
        await client.call_tool("submit_task", given)
    assert complaint in caught.value.message.replace("3,600", "3600")
    assert rows(process.settings, "SELECT id FROM tasks") == []
    (call,) = rows(process.settings, "SELECT tool, outcome, error_class, error FROM mcp_calls")
    assert (call["tool"], call["outcome"], call["error_class"]) == ("submit_task", "tool_error", "ValidationException")
    assert call["error"] == caught.value.message


async def test_a_refused_task_is_logged_with_its_reason(
    process: Process, client: HTTPMCPClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ValidationException):
        await client.call_tool("submit_task", {"text": ""})
    assert "A task was refused: The task text is empty" in caplog.text


async def test_a_prompt_larger_than_the_context_is_refused_with_both_numbers(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, task_context_tokens=1_024)) as process:
        process.backend.tokens = 5_000
        client = await process.client()
        await process.done("load the model")
        with pytest.raises(ValidationException, match="5,000 tokens") as caught:
            await client.call_tool("submit_task", {"text": "word " * 1_000})
        assert caught.value.context == {"input_tokens": 5_000, "context_tokens": 1_024}
        assert len(rows(process.settings, "SELECT id FROM tasks")) == 1


async def test_the_same_key_gives_the_same_task(process: Process, client: HTTPMCPClient) -> None:
    first = await process.done("Write a haiku", idempotency_key="k")
    again = await client.call_tool("submit_task", {"text": "Something else", "idempotency_key": "k"})
    assert (again["id"], again["status"], again["usage"]["calls"]) == (first["id"], "completed", 1)
    assert len(rows(process.settings, "SELECT id FROM tasks")) == 1


async def test_twenty_clients_with_one_key_hand_in_one_task(process: Process, client: HTTPMCPClient) -> None:
    given = {"text": "Write a haiku", "idempotency_key": "k"}
    tasks = await asyncio.gather(*(client.call_tool("submit_task", given) for _ in range(20)))
    assert len({task["id"] for task in tasks}) == 1
    done = await client.call_tool("wait_for_task", {"task_id": tasks[0]["id"], "timeout_s": PATIENCE_S})
    assert (done["status"], done["attempt"]) == ("completed", 1)


async def test_a_wait_whose_time_is_up_returns_the_task_as_it_stands(process: Process, client: HTTPMCPClient) -> None:
    task = await running_task(process, client)
    standing = await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 1})
    assert (standing["status"], standing["ended_at"]) == ("running", None)
    with pytest.raises(ValidationException, match="timeout"):
        await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 0})


async def test_a_result_is_not_given_before_the_end(process: Process, client: HTTPMCPClient) -> None:
    task = await running_task(process, client)
    with pytest.raises(TaskException, match=r"still running; wait for it") as caught:
        await client.call_tool("get_task_result", {"task_id": task["id"]})
    assert caught.value.context == {"task_id": task["id"], "status": "running"}


@pytest.mark.parametrize("tool", ["get_task_status", "get_task_result", "wait_for_task", "cancel_task"])
async def test_a_task_that_is_not_there_is_told_by_every_tool(client: HTTPMCPClient, tool: str) -> None:
    with pytest.raises(TaskException, match="No such task"):
        await client.call_tool(tool, {"task_id": str(uuid.uuid4())})
    with pytest.raises(ValidationException, match="not a task id"):
        await client.call_tool(tool, {"task_id": "nonsense"})


async def test_a_waiting_task_goes_before_others_on_demand(process: Process, client: HTTPMCPClient) -> None:
    running = await running_task(process, client)
    queued = [(await client.call_tool("submit_task", {"text": text}))["id"] for text in ("first", "second")]
    moved = await client.call_tool("set_priority", {"task_id": queued[1], "priority": 5})
    assert (moved["id"], moved["status"], moved["priority"]) == (queued[1], "queued", 5)
    assert process.backend.word_gate is not None
    process.backend.word_gate.set()
    for task_id in queued:
        await client.call_tool("wait_for_task", {"task_id": task_id})
    begun = rows(process.settings, "SELECT text FROM tasks ORDER BY started_at")
    assert [row["text"] for row in begun] == ["Write a haiku", "second", "first"]
    for task_id, error in (
        (running["id"], "The task is completed; only one that waits"),
        (str(uuid.uuid4()), "No such"),
    ):
        with pytest.raises(TaskException, match=error):
            await client.call_tool("set_priority", {"task_id": task_id, "priority": 5})
    with pytest.raises(ValidationException, match="out of range; use -100 to 100"):
        await client.call_tool("set_priority", {"task_id": queued[0], "priority": 101})


async def test_tasks_are_listed_page_by_page_and_by_status(process: Process, client: HTTPMCPClient) -> None:
    done = await process.done("0")
    await running_task(process, client)
    queued = [await client.call_tool("submit_task", {"text": str(number)}) for number in range(1, 5)]
    seen: list[str] = []
    before: str | None = None
    pages = 0
    while True:
        page = await client.call_tool("list_tasks", {"limit": 3, "before": before})
        seen += [task["id"] for task in page["tasks"]]
        pages, before = pages + 1, page["next"]
        if before is None:
            break
    assert (pages, len(seen), len(set(seen))) == (2, 6, 6)
    assert (seen[0], seen[-1]) == (queued[-1]["id"], done["id"])
    page = await client.call_tool("list_tasks", {"status": "completed"})
    assert [(task["id"], task["result"]) for task in page["tasks"]] == [(done["id"], None)]
    assert len((await client.call_tool("list_tasks", {"status": "queued"}))["tasks"]) == 4
    assert (await client.call_tool("list_tasks", {"status": "failed"})) == {"tasks": [], "next": None}
    for given, complaint in [({"limit": 0}, "1 to 200"), ({"limit": 201}, "1 to 200"), ({"status": "lost"}, "status")]:
        with pytest.raises(ValidationException, match=complaint):
            await client.call_tool("list_tasks", given)
    for cursor in ("nonsense", f"x:{done['id']}", "1.0:nonsense"):
        with pytest.raises(ValidationException):
            await client.call_tool("list_tasks", {"before": cursor})


async def test_a_prediction_tells_what_is_known(process: Process, client: HTTPMCPClient) -> None:
    before = await client.call_tool("predict_task", {"text": "Write a haiku"})
    assert (before["input_tokens"], before["model"], before["role"]) == (None, "large", "task")
    await process.done("load the model")
    process.backend.tokens = 12
    after = await client.call_tool("predict_task", {"text": "Write a haiku"})
    assert (after["input_tokens"], after["max_output_tokens"], after["complexity"]) == (12, 2_048, None)
    with pytest.raises(ValidationException, match="empty"):
        await client.call_tool("predict_task", {"text": ""})


async def test_a_prediction_does_not_need_an_engine_that_counts(tmp_path: Path) -> None:
    class Uncounted(ScriptedBackend):
        async def count_tokens(self, request: Any) -> int | None:
            raise NetworkException("The engine is dead.")

    async with running(settings_for(tmp_path), backend=Uncounted()) as process:
        await process.done("load the model")
        client = await process.client()
        assert (await client.call_tool("predict_task", {"text": "Write a haiku"}))["input_tokens"] is None


async def test_feedback_is_kept_and_may_change(process: Process, client: HTTPMCPClient) -> None:
    task = await process.done("Write a haiku")
    given = {"task_id": task["id"], "rating": "bad", "comment": "Six syllables."}
    assert (await client.call_tool("record_feedback", given))["id"] == task["id"]
    await client.call_tool("record_feedback", {"task_id": task["id"], "rating": "good"})
    kept = rows(process.settings, "SELECT task_id, rating, comment FROM feedback")
    assert kept == [{"task_id": task["id"], "rating": "good", "comment": None}]
    with pytest.raises(ValidationException, match="rating"):
        await client.call_tool("record_feedback", {"task_id": task["id"], "rating": "so-so"})
    with pytest.raises(TaskException, match="No such task"):
        await client.call_tool("record_feedback", {"task_id": str(uuid.uuid4()), "rating": "good"})


async def test_the_server_tells_about_itself(process: Process, client: HTTPMCPClient) -> None:
    await process.done("Write a haiku")
    info = await client.call_tool("get_server_info")
    assert (info["version"], info["home"], info["status"]) == (__version__, str(process.settings.home), "ok")
    assert info["database"] == {
        "id": process.shared.database.id,
        "state": "ok",
        "url": process.shared.database.url,
    }
    assert info["queue"] == {"queued": 0, "running": 0, "completed": 1, "failed": 0, "cancelled": 0}
    assert [(model["name"], model["state"]) for model in info["models"]] == [("small", "ready"), ("large", "ready")]


async def test_health_goes_from_starting_to_ok_and_degraded(tmp_path: Path) -> None:
    backend = ScriptedBackend()
    gate = backend.load_gates["small"] = asyncio.Event()
    async with running(settings_for(tmp_path), backend=backend) as process:
        assert (await health(process))[1]["status"] == "starting"
        assert (await health(process, "/health/ready"))[0] == 503
        assert (await health(process, "/health/live"))[0] == 200
        gate.set()
        await until(lambda: is_ok(process))
        _, status = await health(process)
        assert (status["role"], status["name"], status["version"]) == ("gateway", "tale-gateway", __version__)
        assert status["backend"] == {"provider": "scripted", "reason": "It is a test.", "url": None}
        assert (await health(process, "/health/ready"))[0] == 200
        await process.shared.database.close()
        _, broken = await health(process)
        assert (broken["status"], broken["database"]["state"]) == ("degraded", "failed")


async def test_health_is_degraded_while_a_model_cannot_be_used(tmp_path: Path) -> None:
    backend = ScriptedBackend(present=["small"])
    backend.load_failures["large"] = [ValidationException("Too large for this machine.")] * 1_000
    async with running(settings_for(tmp_path, routing="off"), backend=backend) as process:
        done = await process.done("Write a haiku")
        assert (done["status"], done["model"], done["role"]) == ("completed", "small", "ux")
        assert "Too large for this machine" in done["route_reason"]
        assert (await health(process))[1]["status"] == "degraded"


async def test_plain_curl_submits_waits_and_reads(process: Process) -> None:
    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        params = {"name": tool, "arguments": arguments}
        return (await post(process, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))["result"]

    task = (await call("submit_task", text="Write a haiku"))["structuredContent"]
    done = await call("wait_for_task", task_id=task["id"], timeout_s=PATIENCE_S)
    assert done["structuredContent"]["result"] == "Hello world"
    assert json.loads(done["content"][0]["text"])["result"] == "Hello world"
    refused = await call("submit_task", text="")
    assert refused["isError"]
    assert "The task text is empty" in refused["content"][0]["text"]
