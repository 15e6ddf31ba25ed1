"""Deadlines end tasks, a pause outlasts a restart, tasks wait for others, several go in together, files go along."""

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_pool import ScriptedPool
from fakes.servers import PATIENCE_S, Process, running, settings_for, until

from tale.cli.plans import Step, requests_of
from tale.exceptions import ModelException, ServerException, TaskException, ValidationException
from tale.mcp.http_client import HTTPMCPClient


async def submitted(client: HTTPMCPClient, text: str, **given: Any) -> str:
    return (await client.call_tool("submit_task", {"text": text, **given}))["id"]


async def ended(client: HTTPMCPClient, task_id: str) -> dict[str, Any]:
    return await client.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": PATIENCE_S})


async def status(client: HTTPMCPClient, task_id: str) -> dict[str, Any]:
    return await client.call_tool("get_task_status", {"task_id": task_id})


async def held(process: Process, pool: ScriptedPool) -> tuple[HTTPMCPClient, str]:
    """A client, and a task that holds the only slot until the gate of its script is opened."""
    client = await process.client()
    first = await submitted(client, "first")
    await pool.started.wait()
    return client, first


async def test_a_task_that_is_not_begun_before_its_deadline_fails_with_that_reason(tmp_path: Path) -> None:
    gate = asyncio.Event()
    pool = ScriptedPool(["a", gate])
    async with running(settings_for(tmp_path), pool=pool) as process:
        client, first = await held(process, pool)
        late = await submitted(client, "late", deadline_s=1)
        done = await ended(client, late)
        assert (done["status"], done["error_class"], done["attempt"]) == ("failed", "DeadlinePassed", 0)
        assert done["error"].startswith("The deadline passed while the task waited in the queue")
        gate.set()
        assert (await ended(client, first))["status"] == "completed"
        assert len(pool.calls) == 1


async def test_a_running_task_is_stopped_at_its_deadline_and_not_tried_again(tmp_path: Path) -> None:
    pool = ScriptedPool(["half", asyncio.Event()])
    async with running(settings_for(tmp_path), pool=pool) as process:
        client = await process.client()
        done = await ended(client, await submitted(client, "slow", deadline_s=3))
    assert (done["status"], done["error_class"], done["result"]) == ("failed", "DeadlinePassed", "half")
    assert (done["attempt"], pool.stopped) == (1, 1)
    assert "while the task ran" in done["error"]


async def test_a_deadline_that_passed_while_no_server_ran_ends_the_task_at_the_next_start(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with running(settings, pool=ScriptedPool()) as process:
        client = await process.client()
        await client.call_tool("pause_queue")
        late = await submitted(client, "late", deadline_s=1)
    async with running(settings, pool=ScriptedPool()) as process:
        done = await ended(await process.client(), late)
    assert (done["status"], done["error_class"]) == ("failed", "DeadlinePassed")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"deadline_s": 0}, "deadline must be from 1"),
        ({"after": ["nonsense"]}, "not a task id"),
        ({"after": [str(uuid.uuid4())]}, "no task .* to wait for"),
        ({"with_results": True}, "no results"),
    ],
)
async def test_what_cannot_be_waited_for_is_refused(tmp_path: Path, given: dict[str, Any], complaint: str) -> None:
    async with running(settings_for(tmp_path), pool=ScriptedPool()) as process:
        client = await process.client()
        with pytest.raises(ValidationException, match=complaint):
            await submitted(client, "Work", **given)
        assert (await client.call_tool("list_tasks"))["tasks"] == []


async def test_a_pause_lets_running_tasks_end_begins_none_and_outlasts_a_restart(tmp_path: Path) -> None:
    gate, settings = asyncio.Event(), settings_for(tmp_path)
    pool = ScriptedPool(["a", gate])
    async with running(settings, pool=pool) as process:
        client, first = await held(process, pool)
        paused = await client.call_tool("pause_queue")
        assert (paused["running"], paused["queued"]) == (1, 0)
        assert (await client.call_tool("pause_queue"))["paused_at"] == paused["paused_at"]
        second = await submitted(client, "second")
        gate.set()
        assert (await ended(client, first))["status"] == "completed"
        assert (await status(client, second))["status"] == "queued"
    pool = ScriptedPool(["b"])
    async with running(settings, pool=pool) as process:
        client = await process.client()
        assert (await client.call_tool("get_server_info"))["queue_paused_at"] == paused["paused_at"]
        assert (await status(client, second))["status"] == "queued"
        assert pool.calls == []
        resumed = await client.call_tool("resume_queue")
        assert resumed["paused_at"] is None
        assert (await ended(client, second))["result"] == "b"


async def test_a_plan_is_paused_between_two_steps_and_goes_on_with_the_next_one(tmp_path: Path) -> None:
    gate, settings = asyncio.Event(), settings_for(tmp_path)
    requests = requests_of("Compare the results", [Step("Gather"), Step("Compare", (1,))], {}, key="a-plan")
    pool = ScriptedPool(["gathered", gate])
    async with running(settings, pool=pool) as process:
        client = await process.client()
        stored = await client.call_tool("submit_tasks", {"tasks": requests})
        gather, compare, answer = (task["id"] for task in stored["tasks"])
        await pool.started.wait()
        await client.call_tool("pause_queue")
        gate.set()
        assert (await ended(client, gather))["status"] == "completed"
        assert [(await status(client, each))["status"] for each in (compare, answer)] == ["queued"] * 2
    assert len(pool.calls) == 1
    pool = ScriptedPool(["compared"], ["together"])
    async with running(settings, pool=pool) as process:
        client = await process.client()
        await client.call_tool("resume_queue")
        assert (await ended(client, answer))["result"] == "together"
        assert (await status(client, gather))["attempt"] == 1
    assert len(pool.calls) == 2


async def test_whoever_waits_is_told_of_a_pause_and_of_its_end(tmp_path: Path) -> None:
    settings, heard = settings_for(tmp_path), list[str]()

    def listen(_: float, __: float | None, message: str | None) -> None:
        heard.append(message or "")

    def last(message: str) -> Callable[[], bool]:
        return lambda: heard[-1:] == [message]

    paused = "The queue is paused; `tale queue resume` lets it begin"
    async with running(settings, pool=ScriptedPool()) as process:
        client = await process.client()
        await client.call_tool("pause_queue")
        task = await submitted(client, "waits")
    gate = asyncio.Event()
    pool = ScriptedPool([gate, "first"], ["second"])
    async with running(settings, pool=pool) as process:
        client = await process.client()
        wait = {"task_id": task, "timeout_s": PATIENCE_S}
        waiting = asyncio.create_task(client.call_tool("wait_for_task", wait, on_progress=listen))
        await until(last(paused))
        await submitted(client, "first", priority=1)
        await client.call_tool("resume_queue")
        await pool.started.wait()
        await until(last("Queued"))
        await client.call_tool("pause_queue")
        await until(last(paused))
        await client.call_tool("resume_queue")
        gate.set()
        assert (await waiting)["status"] == "completed"


async def test_a_task_begins_when_those_it_waits_for_have_completed_and_may_read_their_results(tmp_path: Path) -> None:
    gate = asyncio.Event()
    pool = ScriptedPool(["Paris", gate], ["Rome"], ["both"], ["alone"])
    async with running(settings_for(tmp_path), pool=pool) as process:
        client, first = await held(process, pool)
        both = await submitted(client, "Compare", after=[first], with_results=True, priority=9)
        view = await status(client, both)
        assert (view["status"], view["waits_for"]) == ("queued", 1)
        second = await submitted(client, "second", after=[first, first])
        gate.set()
        assert (await ended(client, both))["status"] == "completed"
        assert (await ended(client, second))["status"] == "completed"
        assert (await ended(client, await submitted(client, "after", after=[first, second])))["waits_for"] == 0
    prompts = {request.messages[-1].content for request, _ in pool.calls}
    assert "<result>\n<task>first</task>\nParis\n</result>\n\nCompare" in prompts
    assert "second" in prompts


async def test_waiting_tasks_go_on_after_a_restart(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    pool = ScriptedPool(["never", asyncio.Event()])
    async with running(settings, pool=pool) as process:
        client, first = await held(process, pool)
        second = await submitted(client, "second", after=[first])
    async with running(settings, pool=ScriptedPool(["done"])) as process:
        client = await process.client()
        assert (await ended(client, second))["result"] == "done"
        assert (await ended(client, first))["status"] == "completed"


async def test_what_waits_for_a_task_that_fails_or_is_cancelled_fails_too_all_the_way_down(tmp_path: Path) -> None:
    pool = ScriptedPool([ModelException("It broke.")])
    async with running(settings_for(tmp_path, max_task_retries=1), pool=pool) as process:
        client = await process.client()
        await client.call_tool("pause_queue")
        first = await submitted(client, "first")
        second = await submitted(client, "second", after=[first])
        third = await submitted(client, "third", after=[second])
        await client.call_tool("resume_queue")
        done = await ended(client, third)
        assert (done["status"], done["error_class"]) == ("failed", "DependencyFailed")
        assert done["error"] == f"Task {second}, for which this one waited, failed."
        assert (await status(client, second))["error"] == f"Task {first}, for which this one waited, failed."
        too_late = await submitted(client, "too late", after=[first])
        assert (await status(client, too_late))["status"] == "failed"
        assert len(pool.calls) == 1

        await client.call_tool("pause_queue")
        fourth = await submitted(client, "fourth")
        fifth = await submitted(client, "fifth", after=[fourth])
        await client.call_tool("cancel_task", {"task_id": fourth})
        done = await ended(client, fifth)
        assert (done["status"], "was cancelled" in done["error"]) == ("failed", True)
        assert process.busy[-1]() is False


async def test_several_tasks_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, queue_limit=4), pool=ScriptedPool()) as process:
        client = await process.client()
        await client.call_tool("pause_queue")
        first = await submitted(client, "first", idempotency_key="a")
        tasks = [{"text": "first", "idempotency_key": "a"}, {"text": "second", "priority": 4, "after": [first]}]
        got = (await client.call_tool("submit_tasks", {"tasks": tasks}))["tasks"]
        assert got[0] == {"id": first, "status": "queued"}
        assert (await status(client, got[1]["id"]))["priority"] == 4
        for bad, error in (
            ([{"text": "x"}, {"text": " "}], ValidationException),
            ([{"text": "x"}, {"text": "y", "after": [str(uuid.uuid4())]}], ValidationException),
            ([{"text": "x"}, {"text": "y", "expect": {"regex": "("}}], ValidationException),
            ([{"text": "x"}, {"txt": "y"}], ValidationException),
            ([], ValidationException),
            ([{"text": "x"}] * 501, ValidationException),
            ([{"text": "x"}] * 3, TaskException),
        ):
            with pytest.raises(error):
                await client.call_tool("submit_tasks", {"tasks": bad})
        assert len((await client.call_tool("list_tasks"))["tasks"]) == 2


async def test_a_full_queue_says_when_to_try_again(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, queue_limit=1, retry_delay_s=7.0), pool=ScriptedPool()) as process:
        client = await process.client()
        await client.call_tool("pause_queue")
        await submitted(client, "fits")
        with pytest.raises(TaskException, match=r"The queue is full \(1 tasks wait\); try again in 7 s") as caught:
            await submitted(client, "one too many")
        assert caught.value.context["retry_after_s"] == 7.0


async def test_files_are_kept_with_the_task_and_read_by_the_model(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with running(settings_for(tmp_path), pool=pool) as process:
        client = await process.client()
        files = [{"name": "a.txt", "text": "alpha"}, {"name": "b/b.py", "text": "beta"}]
        task = await submitted(client, "Compare them", attachments=files)
        assert (await ended(client, task))["attached_files"] == 2
    expected = '<file name="a.txt">\nalpha\n</file>\n\n<file name="b/b.py">\nbeta\n</file>\n\nCompare them'
    assert pool.calls[0][0].messages[-1].content == expected


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ([{"name": "a.bin", "text": "\x00"}], "a.bin is no text"),
        ([{"name": "big", "text": "x" * 1_000_001}], "big has 1,000,001 bytes"),
        ([{"name": "", "text": "x"}], "name of an attached file"),
        ([{"name": 'a\n"', "text": "x"}], "name of an attached file"),
        ([{"name": "a", "text": "x"}] * 51, "50 files at most"),
        (
            [{"name": "long", "text": "word " * 20_000}],
            "30,000 tokens with its files; the model's context holds 16,320",
        ),
    ],
)
async def test_files_that_cannot_go_with_a_task_are_refused(
    tmp_path: Path, files: list[dict[str, str]], complaint: str
) -> None:
    async with running(settings_for(tmp_path), pool=ScriptedPool(tokens=30_000)) as process:
        client = await process.client()
        with pytest.raises(ValidationException, match=complaint):
            await submitted(client, "Read", attachments=files)
        assert (await client.call_tool("list_tasks"))["tasks"] == []


async def test_the_pause_needs_a_key_for_everything(tmp_path: Path) -> None:
    from tale.credentials import Scope
    from tale.storage.key_store import KeyStore

    async with running(settings_for(tmp_path), pool=ScriptedPool()) as process:
        _, key = await KeyStore(process.shared.database).create("app", Scope.SUBMIT, now=1.0)
        async with HTTPMCPClient(process.settings.url_of("gateway"), api_key=key) as client:
            await submitted(client, "Work")
            for tool in ("pause_queue", "resume_queue"):
                with pytest.raises(ServerException, match="admin"):
                    await client.call_tool(tool)


async def test_a_task_freed_while_its_server_was_killed_is_begun_at_the_next_start(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with running(settings, ("execution",), pool=ScriptedPool(["x"])) as process:
        store = process.shared.tasks
        from tale.records import NewTask, Task, TaskStatus

        first = Task(str(uuid.uuid4()), "first", TaskStatus.QUEUED, 1.0, timeout_s=300)
        second = Task(str(uuid.uuid4()), "second", TaskStatus.QUEUED, 2.0, timeout_s=300)
        await store.insert_all([NewTask(first), NewTask(second, after=(first.id,))])
        assert await store.claim(second.id, expected_attempt=None, now=3.0, max_failures=3) is None
        assert await store.claim(first.id, expected_attempt=None, now=3.0, max_failures=3) is not None
        assert await store.finish(first.id, 1, status=TaskStatus.COMPLETED, now=4.0, result="x")
    async with running(settings, pool=ScriptedPool(["y"])) as process:
        await until(lambda: not process.busy[-1]())
        task = await process.shared.tasks.get(second.id)
    assert task is not None
    assert (task.status, task.result) == (TaskStatus.COMPLETED, "y")


async def test_tasks_of_one_call_may_wait_for_each_other_by_number_and_the_call_may_be_repeated(tmp_path: Path) -> None:
    pool = ScriptedPool(["a"], ["b"], ["c"])
    async with running(settings_for(tmp_path), pool=pool) as process:
        client = await process.client()
        tasks = [{"text": "first", "idempotency_key": "1"}, {"text": "second", "after": ["#1"], "idempotency_key": "2"}]
        ids = [task["id"] for task in (await client.call_tool("submit_tasks", {"tasks": tasks}))["tasks"]]
        assert (await ended(client, ids[1]))["result"] == "b"
        third = {"text": "third", "after": ["#1", "#2"], "with_results": True}
        again = (await client.call_tool("submit_tasks", {"tasks": [*tasks, third]}))["tasks"]
        assert [task["id"] for task in again[:2]] == ids
        assert (await ended(client, again[2]["id"]))["result"] == "c"
        for wrong in ("#2", "#0", "#x", "#"):
            with pytest.raises(ValidationException, match="names no task that comes earlier"):
                await client.call_tool("submit_tasks", {"tasks": [{"text": "x"}, {"text": "y", "after": [wrong]}]})
