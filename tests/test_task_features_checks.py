"""An answer that fails a check is asked for again, of the larger model, with the reason; until the attempts end."""

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.scripted_pool import ScriptedPool
from fakes.servers import running, settings_for

from tale.exceptions import ValidationException
from tale.orchestration.executor import TaskExecutor
from tale.orchestration.task_prompt import CHECK_FAILED
from tale.records import Task, TaskStatus
from tale.storage.database import Database
from tale.storage.task_store import TaskStore

SCHEMA = {"type": "object", "required": ["age"]}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TaskStore]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield TaskStore(database)
    await database.close()


async def attempted(store: TaskStore, pool: ScriptedPool, expect: object, attempts: int) -> Task:
    task = Task(str(uuid.uuid4()), "Work", TaskStatus.QUEUED, 1.0, timeout_s=300, expect=json.dumps(expect))
    executor = TaskExecutor(store, pool, max_output_tokens=256, max_failures=3, clock=lambda: 1000.0)
    await store.insert(task)
    for attempt in range(attempts):
        task = await executor.execute(task.id, attempt=attempt)
    return task


async def test_an_answer_that_passes_completes_the_task(store: TaskStore) -> None:
    pool = ScriptedPool(['{"age": 3}'])
    task = await attempted(store, pool, {"json_schema": SCHEMA}, 1)
    assert (task.status, task.result, task.failures) == (TaskStatus.COMPLETED, '{"age": 3}', 0)
    request, context = pool.calls[0]
    assert request.json_schema == SCHEMA
    assert json.dumps(SCHEMA) in request.messages[0].content
    assert context.route_reason is None


async def test_a_failed_check_is_a_failed_attempt_and_the_next_one_is_told_why(store: TaskStore) -> None:
    pool = ScriptedPool(["```python\nprint(1\n```"], ["```python\nprint(1)\n```"])
    task = await attempted(store, pool, {"python": True}, 1)
    assert (task.status, task.failures, task.error_class) == (TaskStatus.QUEUED, 1, CHECK_FAILED)
    assert task.error == (
        "The answer failed its check: python: the code does not compile: '(' was never closed (line 1)."
    )
    task = await TaskExecutor(store, pool, max_output_tokens=256, max_failures=3, clock=lambda: 1000.0).execute(task.id)
    assert (task.status, task.failures, task.error) == (TaskStatus.COMPLETED, 1, None)
    request, context = pool.calls[1]
    assert "was never closed" in request.messages[0].content
    assert (context.role, context.route_reason) == ("task", "the answer of scripted failed its check")


async def test_checks_that_go_on_failing_fail_the_task_and_keep_the_last_answer(store: TaskStore) -> None:
    pool = ScriptedPool(["first"], ["second"], ["third"])
    task = await attempted(store, pool, {"regex": "^secret$"}, 3)
    assert (task.status, task.failures, task.result) == (TaskStatus.FAILED, 3, "third")
    assert "no match for ^secret$" in str(task.error)
    assert all("secret" not in message.content for request, _ in pool.calls for message in request.messages)
    assert [attempt.error_class for attempt in await store.attempts(task.id)] == [CHECK_FAILED] * 3


async def test_the_log_tells_which_check_failed_and_no_word_of_the_answer(
    store: TaskStore, caplog: pytest.LogCaptureFixture
) -> None:
    task = await attempted(store, ScriptedPool(['"secret"']), {"json_schema": SCHEMA}, 1)
    assert "'secret' is not of type 'object'" in str(task.error)
    assert "failed its check: json_schema" in caplog.text
    assert "secret" not in caplog.text


async def test_over_http_a_check_goes_with_the_task_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as process:
        client = await process.client()
        for expect, reason in (({"regex": "("}, "not valid"), ({"rege": "x"}, "knows no check 'rege'")):
            with pytest.raises(ValidationException, match=reason):
                await client.call_tool("submit_task", {"text": "Work", "expect": expect})
        assert (await client.call_tool("list_tasks"))["tasks"] == []
        task = await client.call_tool("submit_task", {"text": "Work", "expect": {"regex": "^Hello"}})
        done = await client.call_tool("wait_for_task", {"task_id": task["id"]})
        assert (done["status"], done["expect"]) == ("completed", {"regex": "^Hello"})
