"""Through the gateway: cancelling at every moment, a full queue, hanging up, and the rows that are left."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.servers import PATIENCE_S, Process, rows, running, settings_for, soon, until

from tale.cli.plans import Step, requests_of
from tale.exceptions import ServerException, TaskException
from tale.mcp.http_client import HTTPMCPClient
from tale.records import NewTask, Task, TaskStatus


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    """Servers whose model writes one word and then waits for `word_gate`."""
    async with running(settings_for(tmp_path)) as process:
        process.backend.word_gate = asyncio.Event()
        yield process


@pytest.fixture
async def client(process: Process) -> HTTPMCPClient:
    return await process.client()


async def writing(process: Process, client: HTTPMCPClient) -> dict[str, Any]:
    """A task that has written its first word."""
    task = await client.call_tool("submit_task", {"text": "Write a haiku"})
    first_word = asyncio.Event()

    def on_progress(figure: float, total: float | None, message: str | None) -> None:
        if figure >= 1:
            first_word.set()

    waiting = asyncio.create_task(
        client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": PATIENCE_S}, on_progress=on_progress)
    )
    await soon(first_word)
    waiting.cancel()
    await asyncio.wait([waiting])
    return task


def calls(process: Process, task_id: str) -> list[dict[str, Any]]:
    return rows(process.settings, "SELECT * FROM model_calls WHERE task_id = ? ORDER BY started_at", task_id)


async def test_a_running_task_is_cancelled_and_what_it_wrote_is_kept(process: Process, client: HTTPMCPClient) -> None:
    task = await writing(process, client)
    waiting = asyncio.create_task(client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": PATIENCE_S}))
    cancelled = await client.call_tool("cancel_task", {"task_id": task["id"]})
    assert (cancelled["status"], cancelled["result"], process.backend.stopped) == ("cancelled", "Hello", 1)
    assert (await waiting)["status"] == "cancelled"
    (call,) = calls(process, task["id"])
    assert (call["finish_reason"], call["error_class"], call["output_tokens"]) == ("cancelled", "Cancelled", None)
    assert call["ended_at"] is not None
    (attempt,) = rows(process.settings, "SELECT outcome FROM attempts WHERE task_id = ?", task["id"])
    assert attempt["outcome"] == "cancelled"


async def test_a_queued_task_is_cancelled_and_never_runs(process: Process, client: HTTPMCPClient) -> None:
    running_task = await writing(process, client)
    queued = await client.call_tool("submit_task", {"text": "Never run"})
    waiting = asyncio.create_task(client.call_tool("wait_for_task", {"task_id": queued["id"], "timeout_s": PATIENCE_S}))
    cancelled = await client.call_tool("cancel_task", {"task_id": queued["id"]})
    assert (cancelled["status"], cancelled["attempt"], cancelled["started_at"]) == ("cancelled", 0, None)
    assert (await waiting)["status"] == "cancelled"
    assert process.backend.word_gate is not None
    process.backend.word_gate.set()
    await client.call_tool("wait_for_task", {"task_id": running_task["id"], "timeout_s": PATIENCE_S})
    await process.done("One more")
    assert [request.messages[-1].content for request in process.backend.requests] == ["Write a haiku", "One more"]


async def test_a_plan_is_cancelled_with_all_its_open_steps_and_nothing_else(
    process: Process, client: HTTPMCPClient
) -> None:
    other = await writing(process, client)
    steps = [Step("Gather"), Step("Sort"), Step("Compare", (1, 2))]
    requests = requests_of("Compare the results", steps, {}, key="a-plan")
    ids = [task["id"] for task in (await client.call_tool("submit_tasks", {"tasks": requests}))["tasks"]]
    bystander = await client.call_tool("submit_task", {"text": "Wait", "after": [other["id"]]})
    assert (await client.call_tool("cancel_task", {"task_id": ids[-1]}))["status"] == "cancelled"
    for task_id in ids:
        task = await client.call_tool("get_task_status", {"task_id": task_id})
        assert (task["status"], task["error_class"]) == ("cancelled", None)
    assert process.backend.word_gate is not None
    process.backend.word_gate.set()
    done = await client.call_tool("wait_for_task", {"task_id": bystander["id"], "timeout_s": PATIENCE_S})
    assert done["status"] == "completed"
    assert len(process.backend.requests) == 2


async def test_a_plan_that_has_ended_can_still_be_cancelled_for_the_sake_of_its_running_step(
    process: Process, client: HTTPMCPClient
) -> None:
    requests = requests_of("Compare", [Step("Gather"), Step("Sort")], {}, key="a-plan")
    ids = [task["id"] for task in (await client.call_tool("submit_tasks", {"tasks": requests}))["tasks"]]
    await until(lambda: len(process.backend.requests) == 1)
    await client.call_tool("cancel_task", {"task_id": ids[1]})  # with which the plan has failed
    assert (await client.call_tool("cancel_task", {"task_id": ids[2]}))["error_class"] == "DependencyFailed"
    assert (await client.call_tool("get_task_status", {"task_id": ids[0]}))["status"] == "cancelled"


async def test_a_task_that_waited_for_others_is_cancelled_alone(process: Process, client: HTTPMCPClient) -> None:
    first = await writing(process, client)
    second = await client.call_tool(
        "submit_task", {"text": "Then", "after": [first["id"]], "idempotency_key": "answer"}
    )
    assert (await client.call_tool("cancel_task", {"task_id": second["id"]}))["status"] == "cancelled"
    assert (await client.call_tool("get_task_status", {"task_id": first["id"]}))["status"] == "running"


async def test_a_finished_task_stays_as_it_is(process: Process, client: HTTPMCPClient) -> None:
    process.backend.word_gate = None
    done = await process.done("Write a haiku")
    again = await client.call_tool("cancel_task", {"task_id": done["id"]})
    assert (again["status"], again["result"]) == ("completed", "Hello world")


async def test_a_cancel_while_the_model_is_being_loaded_is_heard(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, routing="off")) as process:
        gate = process.backend.load_gates["large"] = asyncio.Event()
        client = await process.client()
        task = await client.call_tool("submit_task", {"text": "Write a haiku"})
        await until(lambda: "large" in process.backend.loads)
        cancelled = await client.call_tool("cancel_task", {"task_id": task["id"]})
        assert (cancelled["status"], cancelled["result"]) == ("cancelled", None)
        gate.set()
        assert (await process.done("Write another"))["status"] == "completed"


async def test_cancels_at_every_moment_leave_no_task_unfinished(process: Process, client: HTTPMCPClient) -> None:
    """A cancel that races with the dispatch of its task, twenty times, each a little later."""
    process.backend.word_gate = None

    async def submit_and_cancel(steps: int) -> str:
        task = await client.call_tool("submit_task", {"text": str(steps)})
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled = await client.call_tool("cancel_task", {"task_id": task["id"]})
        return cancelled["status"]

    ends = [await submit_and_cancel(steps) for steps in range(0, 40, 2)]
    assert set(ends) <= {"cancelled", "completed"}
    assert rows(process.settings, "SELECT id FROM tasks WHERE status IN ('queued', 'running')") == []
    assert rows(process.settings, "SELECT id FROM model_calls WHERE ended_at IS NULL") == []
    assert rows(process.settings, "SELECT task_id FROM attempts WHERE ended_at IS NULL") == []
    assert (await process.done("afterwards"))["status"] == "completed"


async def test_a_full_queue_says_so_drops_nothing_and_takes_more_when_there_is_room(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, queue_limit=2, retry_delay_s=5.0)) as process:
        gate = process.backend.word_gate = asyncio.Event()
        client = await process.client()
        tasks = [await writing(process, client)]
        tasks += [await client.call_tool("submit_task", {"text": str(number)}) for number in range(2)]
        with pytest.raises(TaskException, match=r"The queue is full \(2 tasks wait\); try again in 5 s") as caught:
            await client.call_tool("submit_task", {"text": "one too many"})
        assert caught.value.context == {"waiting": 2, "retry_after_s": 5.0}
        gate.set()
        for task in tasks:
            done = await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": PATIENCE_S})
            assert done["status"] == "completed"
        assert (await process.done("fits now"))["status"] == "completed"


async def test_more_urgent_tasks_go_first(process: Process, client: HTTPMCPClient) -> None:
    await writing(process, client)
    ids = []
    for text, priority in [("idle", -5), ("first", 0), ("second", 0), ("urgent", 9)]:
        ids.append((await client.call_tool("submit_task", {"text": text, "priority": priority}))["id"])
    assert process.backend.word_gate is not None
    process.backend.word_gate.set()
    for task_id in ids:
        await client.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": PATIENCE_S})
    order = [request.messages[-1].content for request in process.backend.requests]
    assert order == ["Write a haiku", "urgent", "first", "second", "idle"]


async def test_those_who_wait_may_leave_without_harm_to_the_task(process: Process, client: HTTPMCPClient) -> None:
    task = await writing(process, client)  # which has waited, and left
    assert process.backend.stopped == 0
    assert process.backend.word_gate is not None
    process.backend.word_gate.set()
    done = await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": PATIENCE_S})
    assert (done["status"], done["attempt"]) == ("completed", 1)


async def test_fifty_who_wait_for_one_task_all_hear_of_its_end(process: Process, client: HTTPMCPClient) -> None:
    task = await writing(process, client)
    wait = {"task_id": task["id"], "timeout_s": PATIENCE_S}
    waiting = [asyncio.create_task(client.call_tool("wait_for_task", wait)) for _ in range(50)]
    assert process.backend.word_gate is not None
    process.backend.word_gate.set()
    assert {done["status"] for done in await asyncio.gather(*waiting)} == {"completed"}


async def test_a_task_leaves_rows_for_itself_its_attempt_its_model_call_and_its_mcp_calls(
    process: Process, client: HTTPMCPClient
) -> None:
    process.backend.word_gate = None
    done = await process.done("Write a haiku", priority=2, timeout_s=60, max_output_tokens=99)
    (task,) = rows(process.settings, "SELECT * FROM tasks")
    assert (task["id"], task["status"], task["result"], task["model"]) == (
        done["id"],
        "completed",
        "Hello world",
        "large",
    )
    assert (task["priority"], task["timeout_s"], task["max_output_tokens"], task["failures"]) == (2, 60, 99, 0)
    assert task["created_at"] <= task["started_at"] <= task["ended_at"]
    (attempt,) = rows(process.settings, "SELECT * FROM attempts")
    assert (attempt["number"], attempt["outcome"], attempt["model"]) == (1, "completed", "large")
    (call,) = calls(process, done["id"])
    assert (call["role"], call["operation"], call["attempt"], call["budget_tokens"]) == ("task", "execute", 1, 99)
    assert (call["input_tokens"], call["output_tokens"], call["cached_tokens"]) == (10, 2, 4)
    assert (call["finish_reason"], call["trace_id"]) == ("stop", task["trace_id"])
    parts = [call[name] for name in ("queue_s", "load_s", "prefill_s", "decode_s", "other_s")]
    assert sum(parts) == pytest.approx(call["total_s"], abs=1e-3)
    query = "SELECT server, tool, outcome FROM mcp_calls WHERE task_id = ?"
    expected = {
        ("tale-gateway", "submit_task", "ok"),
        ("tale-gateway", "wait_for_task", "ok"),
        ("tale-execution", "execute_task", "ok"),  # may come after its task's end is told
    }
    await until(lambda: {tuple(row.values()) for row in rows(process.settings, query, done["id"])} == expected)


async def test_with_a_key_set_strangers_are_refused_and_the_roles_still_reach_each_other(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, api_key="secret")) as process:
        assert (await process.done("Write a haiku"))["status"] == "completed"
        stranger = await process.stack.enter_async_context(HTTPMCPClient(process.settings.url_of("gateway")))
        with pytest.raises(ServerException, match="asks for a key"):
            await stranger.call_tool("list_tasks")
        assert (await stranger.health())["status"] == "ok"


async def test_a_stop_hands_the_task_back_and_the_next_start_takes_it_up(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with running(settings) as process:
        process.backend.word_gate = asyncio.Event()
        client = await process.client()
        task = await writing(process, client)
        waiting = await client.call_tool("submit_task", {"text": "Waits in the queue"})
    stopped = rows(settings, "SELECT status, failures FROM tasks")
    assert stopped == [{"status": "queued", "failures": 0}] * 2
    async with running(settings) as process:
        client = await process.client()
        for known in (task, waiting):
            done = await client.call_tool("wait_for_task", {"task_id": known["id"], "timeout_s": PATIENCE_S})
            assert (done["status"], done["failures"]) == ("completed", 0)
    outcomes = [row["outcome"] for row in rows(settings, "SELECT outcome FROM attempts WHERE task_id = ?", task["id"])]
    assert outcomes == ["handed_back", "completed"]


async def test_a_stop_lets_a_task_finish_that_is_nearly_done(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, stop_grace_s=60.0)
    async with running(settings) as process:
        gate = process.backend.word_gate = asyncio.Event()
        task = await writing(process, await process.client())
        asyncio.get_running_loop().call_later(0.05, gate.set)  # while the stop waits for it
    (row,) = rows(settings, "SELECT status, result FROM tasks WHERE id = ?", task["id"])
    assert row == {"status": "completed", "result": "Hello world"}


async def test_the_gateway_is_busy_as_long_as_a_task_waits_or_runs(process: Process, client: HTTPMCPClient) -> None:
    busy = process.busy[-1]
    assert not busy()
    task = await writing(process, client)
    assert busy()
    assert process.backend.word_gate is not None
    process.backend.word_gate.set()
    await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": PATIENCE_S})
    await until(lambda: not busy())


async def test_a_task_whose_runner_died_is_cancelled_at_once_though_the_queue_is_paused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with running(settings, ("execution",)) as process:
        store = process.shared.tasks
        first, second = (
            Task(str(uuid.uuid4()), text, TaskStatus.QUEUED, 1.0, timeout_s=300) for text in ("first", "second")
        )
        await store.insert_all([NewTask(first), NewTask(second, after=(first.id,))])
        assert await store.claim(first.id, expected_attempt=None, now=2.0, max_failures=3)  # by one that dies
        await store.pause(3.0)
    async with running(settings) as process:
        client = await process.client()
        wait = {"task_id": second.id, "timeout_s": PATIENCE_S}
        waiting = asyncio.create_task(client.call_tool("wait_for_task", wait))
        cancelled = await client.call_tool("cancel_task", {"task_id": first.id})
        assert (cancelled["status"], cancelled["attempt"]) == ("cancelled", 1)
        assert (await waiting)["error_class"] == "DependencyFailed"
        (attempt,) = rows(settings, "SELECT outcome FROM attempts WHERE task_id = ?", first.id)
        assert attempt["outcome"] == "lost"
        assert process.busy[-1]() is False
        assert calls(process, first.id) == []
