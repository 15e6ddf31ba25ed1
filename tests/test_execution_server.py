"""The execution server over HTTP: one attempt a call, claimed and settled in the task's row."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import PATIENCE_S, Process, rows, running, settings_for, soon, until

from tale.exceptions import ModelException, NetworkException, TaskException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.records import Task, TaskStatus

EXECUTION = ("execution",)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    """The execution role alone."""
    async with running(settings_for(tmp_path), EXECUTION) as process:
        yield process


@pytest.fixture
async def client(process: Process) -> HTTPMCPClient:
    return await process.client("execution")


async def queued(process: Process, **given: Any) -> str:
    """A task that no gateway hands out."""
    task = Task(str(uuid.uuid4()), "Write a haiku", TaskStatus.QUEUED, 1.0, **{"timeout_s": 300, **given})
    return (await process.shared.tasks.insert(task)).id


def outcomes(process: Process, task_id: str) -> list[str]:
    query = "SELECT outcome FROM attempts WHERE task_id = ? ORDER BY number"
    return [row["outcome"] for row in rows(process.settings, query, task_id)]


async def attempt_begun(process: Process, client: HTTPMCPClient, task_id: str) -> asyncio.Task[dict[str, Any]]:
    """A call of execute_task whose model has begun and does not go on."""
    process.backend.word_gate = process.backend.word_gate or asyncio.Event()
    process.backend.started.clear()
    call = asyncio.create_task(client.call_tool("execute_task", {"task_id": task_id}))
    await soon(process.backend.started)
    return call


async def test_a_task_is_run_and_its_progress_told(process: Process, client: HTTPMCPClient) -> None:
    process.backend.word_gate = gate = asyncio.Event()
    heard: list[str | None] = []

    def on_progress(figure: float, total: float | None, message: str | None) -> None:
        heard.append(message)
        if message == "large is writing":
            gate.set()

    task_id = await queued(process, max_output_tokens=77)
    done = await client.call_tool("execute_task", {"task_id": task_id}, on_progress=on_progress)
    assert (done["status"], done["result"], done["attempt"]) == ("completed", "Hello world", 1)
    assert (done["usage"]["output_tokens"], done["model"], done["role"]) == (2, "large", "task")
    assert heard[0] == "Waiting for a model"
    assert "large is reading the task" in heard
    assert process.backend.requests[0].max_tokens == 77
    assert outcomes(process, task_id) == ["completed"]


async def test_only_tasks_that_are_there_are_run(client: HTTPMCPClient) -> None:
    with pytest.raises(TaskException, match="No such task"):
        await client.call_tool("execute_task", {"task_id": str(uuid.uuid4())})
    with pytest.raises(ValidationException, match="not a task id"):
        await client.call_tool("execute_task", {"task_id": "1"})
    assert await client.call_tool("stop_task", {"task_id": str(uuid.uuid4())}) == {"result": None}


async def test_a_failure_puts_the_task_back_until_its_attempts_are_used_up(
    process: Process, client: HTTPMCPClient
) -> None:
    process.backend.chat_failures = [ModelException("It broke.") for _ in range(process.settings.max_task_retries)]
    task_id = await queued(process)
    first = await client.call_tool("execute_task", {"task_id": task_id})
    assert (first["status"], first["failures"], first["error"]) == ("queued", 1, "It broke.")
    await client.call_tool("execute_task", {"task_id": task_id, "attempt": 1})
    last = await client.call_tool("execute_task", {"task_id": task_id, "attempt": 2})
    assert (last["status"], last["failures"], last["error_class"]) == ("failed", 3, "ModelException")
    assert outcomes(process, task_id) == ["failed"] * 3
    again = await client.call_tool("execute_task", {"task_id": task_id, "attempt": 3})
    assert (again["status"], len(process.backend.requests)) == ("failed", 3)


async def test_an_attempt_that_outlasts_its_limit_fails_and_keeps_what_it_wrote(
    process: Process, client: HTTPMCPClient
) -> None:
    process.backend.word_gate = asyncio.Event()
    task_id = await queued(process, timeout_s=1)
    done = await client.call_tool("execute_task", {"task_id": task_id})
    assert (done["status"], done["result"], done["error_class"]) == ("failed", "Hello", "TimeoutError")
    assert "longer than its limit of 1 s" in done["error"]
    assert (process.backend.stopped, done["model"]) == (1, "large")


async def test_the_limit_does_not_run_while_the_model_is_being_loaded(tmp_path: Path) -> None:
    backend = ScriptedBackend()
    gate = backend.load_gates["small"] = backend.load_gates["large"] = asyncio.Event()
    async with running(settings_for(tmp_path), EXECUTION, backend=backend) as process:
        client = await process.client("execution")
        task_id = await queued(process, timeout_s=1)
        call = asyncio.create_task(client.call_tool("execute_task", {"task_id": task_id}))
        waited, _ = await asyncio.wait([call], timeout=1.2)  # longer than the limit
        assert not waited
        gate.set()
        assert (await call)["status"] == "completed"


async def test_a_second_call_joins_the_attempt_that_runs(process: Process, client: HTTPMCPClient) -> None:
    task_id = await queued(process)
    first = await attempt_begun(process, client, task_id)
    heard = asyncio.Event()
    second = asyncio.create_task(
        client.call_tool("execute_task", {"task_id": task_id}, on_progress=lambda *_: heard.set())
    )
    await soon(heard)  # it is told at once how far the attempt has come
    assert process.backend.word_gate is not None
    process.backend.word_gate.set()
    assert (await first)["result"] == (await second)["result"] == "Hello world"
    assert (outcomes(process, task_id), len(process.backend.requests)) == (["completed"], 1)


async def test_when_the_caller_hangs_up_the_engine_stops_and_the_task_goes_back(
    process: Process, client: HTTPMCPClient
) -> None:
    task_id = await queued(process)
    call = await attempt_begun(process, client, task_id)
    call.cancel()
    await until(lambda: outcomes(process, task_id) == ["handed_back"])
    (row,) = rows(process.settings, "SELECT status, failures FROM tasks")
    assert (row, process.backend.stopped) == ({"status": "queued", "failures": 0}, 1)
    await until(lambda: not process.busy[0]())


async def test_a_stop_of_the_server_hands_its_tasks_back(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with running(settings, EXECUTION) as process:
        client = await process.client("execution")
        ids = [await queued(process) for _ in range(3)]
        calls = [await attempt_begun(process, client, ids[0])]  # the others wait for the model's one slot
        calls += [asyncio.create_task(client.call_tool("execute_task", {"task_id": other})) for other in ids[1:]]
        await until(lambda: len(rows(settings, "SELECT 1 FROM tasks WHERE status = 'running'")) == 3)
        assert process.busy[0]()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, NetworkException) for end in ends)
    assert rows(settings, "SELECT DISTINCT status, failures FROM tasks") == [{"status": "queued", "failures": 0}]
    assert rows(settings, "SELECT id FROM model_calls WHERE ended_at IS NULL") == []


async def test_a_user_s_stop_ends_the_attempt(process: Process, client: HTTPMCPClient) -> None:
    task_id = await queued(process)
    call = await attempt_begun(process, client, task_id)
    await process.shared.tasks.request_cancel(task_id, 2.0)
    stopped = await client.call_tool("stop_task", {"task_id": task_id})
    assert stopped["result"]["status"] == (await call)["status"] == "cancelled"
    assert (await call)["result"] == stopped["result"]["result"]


async def test_a_task_whose_runner_died_is_taken_over_with_the_attempt_s_number(
    process: Process, client: HTTPMCPClient
) -> None:
    task_id = await queued(process)
    await process.shared.tasks.claim(task_id, expected_attempt=0, now=1.0, max_failures=3)
    untouched = await client.call_tool("execute_task", {"task_id": task_id})
    assert (untouched["status"], untouched["attempt"]) == ("running", 1)
    done = await client.call_tool("execute_task", {"task_id": task_id, "attempt": 1})
    assert (done["status"], done["attempt"], done["failures"]) == ("completed", 2, 1)
    assert outcomes(process, task_id) == ["lost", "completed"]


async def test_what_ends_late_is_fenced_off(tmp_path: Path) -> None:
    """Two execution servers on one database: the first is given up, and comes back with its answer too late."""
    first_settings, second_settings = settings_for(tmp_path), settings_for(tmp_path)
    async with running(first_settings, EXECUTION) as first, running(second_settings, EXECUTION) as second:
        second.backend.words = ["The second", " was first"]
        task_id = await queued(first)
        late = await attempt_begun(first, await first.client("execution"), task_id)
        other = await second.client("execution")
        done = await other.call_tool("execute_task", {"task_id": task_id, "attempt": 1})
        assert first.backend.word_gate is not None
        first.backend.word_gate.set()
        assert (await late)["result"] == done["result"] == "The second was first"
        assert outcomes(first, task_id) == ["lost", "completed"]


async def test_a_task_that_keeps_killing_its_runner_ends_failed(process: Process, client: HTTPMCPClient) -> None:
    task_id = await queued(process)
    for attempt in range(process.settings.max_task_retries):
        await process.shared.tasks.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=3)
    done = await client.call_tool("execute_task", {"task_id": task_id, "attempt": 3})
    assert (done["status"], done["error_class"], done["failures"]) == ("failed", "AttemptsExhausted", 3)
    assert process.backend.requests == []


async def test_an_execution_server_that_is_started_anew_during_a_task_is_handed_it_again(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, retry_delay_s=0.01)
    async with running(settings, ("gateway",)) as gateway:
        client = await gateway.client()
        async with running(settings, EXECUTION) as first:
            first.backend.word_gate = asyncio.Event()
            task = await client.call_tool("submit_task", {"text": "Write a haiku"})
            await soon(first.backend.started)
            wait = {"task_id": task["id"], "timeout_s": PATIENCE_S}
            waiting = asyncio.create_task(client.call_tool("wait_for_task", wait))
        await until(lambda: outcomes(gateway, task["id"]) == ["handed_back"])
        async with running(settings, EXECUTION):
            done = await waiting
        assert (done["status"], done["attempt"], done["failures"]) == ("completed", 2, 0)
