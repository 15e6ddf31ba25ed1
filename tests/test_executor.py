"""The executor makes attempts: each is claimed once, settled once, and leaves the row true whatever happens."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_pool import ScriptedPool

from tale.exceptions import ModelException, NetworkException, TaskException, ValidationException
from tale.orchestration.executor import Progress, TaskExecutor
from tale.records import Dispatched, PromptProgress, Reply, Task, TaskStatus
from tale.storage.database import Database
from tale.storage.task_store import TaskStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TaskStore]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield TaskStore(database)
    await database.close()


def executor(store: TaskStore, pool: ScriptedPool) -> TaskExecutor:
    return TaskExecutor(store, pool, max_output_tokens=256, max_failures=3, clock=lambda: 1000.0)


async def queued(store: TaskStore, *, timeout_s: int = 300) -> Task:
    task = Task(str(uuid.uuid4()), "Write a haiku", TaskStatus.QUEUED, 1.0, timeout_s=timeout_s)
    return await store.insert(task)


async def test_a_task_is_claimed_written_and_completed(store: TaskStore) -> None:
    pool = ScriptedPool(["Old pond", ", frog"])
    task = await queued(store)
    heard: list[Progress] = []
    done = await executor(store, pool).execute(task.id, listener=heard.append)
    assert (done.status, done.result, done.attempt) == (TaskStatus.COMPLETED, "Old pond, frog", 1)
    assert (done.model, done.route_reason) == ("scripted", "as scripted")
    assert heard[-1] == Progress("scripted is writing", 2)
    request, context = pool.calls[0]
    assert request.max_tokens == 256
    assert request.messages[-1].content == "Write a haiku"
    assert (context.role, context.operation, context.task_id, context.attempt) == ("task", "execute", task.id, 1)
    assert [attempt.outcome for attempt in await store.attempts(task.id)] == ["completed"]


async def test_a_finished_task_is_returned_as_it_stands(store: TaskStore) -> None:
    pool = ScriptedPool(["x"])
    task = await queued(store)
    runner = executor(store, pool)
    first = await runner.execute(task.id)
    assert await runner.execute(task.id) == first
    assert len(pool.calls) == 1


async def test_an_unknown_task_is_refused(store: TaskStore) -> None:
    with pytest.raises(TaskException, match="No such task"):
        await executor(store, ScriptedPool()).execute(str(uuid.uuid4()))


async def test_two_callers_of_one_task_share_one_attempt(store: TaskStore) -> None:
    gate = asyncio.Event()
    pool = ScriptedPool(["a", gate, "b"])
    task = await queued(store)
    runner = executor(store, pool)
    one = asyncio.create_task(runner.execute(task.id))
    await pool.started.wait()
    other = asyncio.create_task(runner.execute(task.id))
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(one, other)
    assert [result.result for result in results] == ["ab", "ab"]
    assert len(pool.calls) == 1


async def test_a_failed_attempt_goes_back_to_the_queue_until_its_attempts_are_used_up(store: TaskStore) -> None:
    pool = ScriptedPool(["half", ModelException("The engine broke.")])
    task = await queued(store)
    runner = executor(store, pool)
    first = await runner.execute(task.id)
    assert (first.status, first.failures, first.error) == (TaskStatus.QUEUED, 1, "The engine broke.")
    await runner.execute(task.id, attempt=1)
    last = await runner.execute(task.id, attempt=2)
    assert (last.status, last.failures, last.error_class) == (TaskStatus.FAILED, 3, "ModelException")
    assert last.result == "half"
    assert [attempt.outcome for attempt in await store.attempts(task.id)] == ["failed"] * 3


async def test_a_prompt_that_does_not_fit_fails_at_once(store: TaskStore) -> None:
    task = await queued(store)
    done = await executor(store, ScriptedPool([ValidationException("Too long.")])).execute(task.id)
    assert (done.status, done.failures, done.error) == (TaskStatus.FAILED, 1, "Too long.")


async def test_an_attempt_that_outlasts_its_limit_fails_with_what_it_had_written(store: TaskStore) -> None:
    never = asyncio.Event()
    task = await queued(store, timeout_s=1)
    done = await executor(store, ScriptedPool(["partial", never])).execute(task.id)
    assert (done.status, done.result, done.error_class) == (TaskStatus.FAILED, "partial", "TimeoutError")
    assert "limit of 1 s" in str(done.error)


async def test_a_user_s_cancel_ends_the_generation_and_keeps_what_was_written(store: TaskStore) -> None:
    pool = ScriptedPool(["partial", asyncio.Event()])
    task = await queued(store)
    runner = executor(store, pool)
    attempt = asyncio.create_task(runner.execute(task.id))
    await pool.started.wait()
    await asyncio.sleep(0)
    await store.request_cancel(task.id, 2.0)
    stopped = await runner.stop_task(task.id)
    assert stopped == await attempt
    assert stopped is not None
    assert (stopped.status, pool.stopped, runner.running) == (TaskStatus.CANCELLED, 1, 0)


async def test_a_stop_of_the_process_hands_the_task_back_without_a_failure(store: TaskStore) -> None:
    pool = ScriptedPool(["partial", asyncio.Event()])
    task = await queued(store)
    runner = executor(store, pool)
    attempt = asyncio.create_task(runner.execute(task.id))
    await pool.started.wait()
    await runner.stop()
    handed_back = await attempt
    assert (handed_back.status, handed_back.failures) == (TaskStatus.QUEUED, 0)
    assert [past.outcome for past in await store.attempts(task.id)] == ["handed_back"]


async def test_when_the_last_caller_goes_away_the_attempt_is_handed_back(store: TaskStore) -> None:
    pool = ScriptedPool(["partial", asyncio.Event()])
    task = await queued(store)
    runner = executor(store, pool)
    callers = [asyncio.create_task(runner.execute(task.id)) for _ in range(2)]
    await pool.started.wait()
    callers[0].cancel()
    await asyncio.wait([callers[0]])
    assert runner.running == 1
    callers[1].cancel()
    await asyncio.wait([callers[1]])
    row = await store.get(task.id)
    assert row is not None
    assert (row.status, runner.running, pool.stopped) == (TaskStatus.QUEUED, 0, 1)


async def test_a_task_whose_runner_died_is_taken_over_by_who_knows_its_attempt(store: TaskStore) -> None:
    task = await queued(store)
    await store.claim(task.id, expected_attempt=0, now=1.0, max_failures=3)  # by a process that then died
    runner = executor(store, ScriptedPool(["done"]))
    untouched = await runner.execute(task.id)
    assert untouched.status is TaskStatus.RUNNING  # without the number it might still be running elsewhere
    done = await runner.execute(task.id, attempt=1)
    assert (done.status, done.attempt, done.failures) == (TaskStatus.COMPLETED, 2, 1)
    assert [past.outcome for past in await store.attempts(task.id)] == ["lost", "completed"]


async def test_an_engine_that_is_out_of_reach_is_a_failed_attempt(store: TaskStore) -> None:
    task = await queued(store)
    row = await executor(store, ScriptedPool([NetworkException("No answer.")])).execute(task.id)
    assert (row.status, row.error_class) == (TaskStatus.QUEUED, "NetworkException")


async def test_a_failed_attempt_tells_which_model_made_it(store: TaskStore) -> None:
    task = await queued(store)
    row = await executor(store, ScriptedPool([ModelException("It broke.")])).execute(task.id)
    assert (row.model, row.route_reason) == ("scripted", "as scripted")
    assert [past.model for past in await store.attempts(task.id)] == ["scripted"]


async def test_an_error_of_our_own_is_a_failed_attempt_too(store: TaskStore) -> None:
    task = await queued(store)
    row = await executor(store, ScriptedPool([KeyError("not foreseen")])).execute(task.id)
    assert (row.status, row.failures, row.error_class) == (TaskStatus.QUEUED, 1, "KeyError")
    assert "the server's log has the details" in str(row.error)


async def test_an_answer_that_breaks_off_without_an_error_is_a_failed_attempt(store: TaskStore) -> None:
    class Endless(ScriptedPool):
        async def chat(self, request: Any, context: Any) -> Any:
            async for event in super().chat(request, context):
                if not isinstance(event, Reply):
                    yield event

    task = await queued(store)
    row = await executor(store, Endless(["half"])).execute(task.id)
    assert (row.status, row.result) == (TaskStatus.QUEUED, "half")
    assert "broke off before its end" in str(row.error)


async def test_how_far_the_prompt_is_read_is_told(store: TaskStore) -> None:
    class Reading(ScriptedPool):
        async def chat(self, request: Any, context: Any) -> Any:
            yield PromptProgress(64, 128)
            async for event in super().chat(request, context):
                yield event
                if isinstance(event, Dispatched):
                    yield PromptProgress(128, 128)

    heard: list[Progress] = []
    task = await queued(store)
    await executor(store, Reading(["x"])).execute(task.id, listener=heard.append)
    assert Progress("the model is reading the task (64 of 128 tokens)") in heard
    assert Progress("scripted is reading the task (128 of 128 tokens)") in heard


class SlowStore(TaskStore):
    """Answers a claim only when it is told to."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.claimed, self.gate = asyncio.Event(), asyncio.Event()

    async def claim(self, task_id: str, **given: Any) -> Task | None:
        task = await super().claim(task_id, **given)
        self.claimed.set()
        await self.gate.wait()
        return task


@pytest.fixture
async def slow_store(tmp_path: Path) -> AsyncIterator[SlowStore]:
    database = Database.open(f"sqlite:///{tmp_path / 'slow.db'}")
    yield SlowStore(database)
    await database.close()


async def test_a_caller_that_leaves_during_the_claim_leaves_no_task_running(slow_store: SlowStore) -> None:
    task = await queued(slow_store)
    runner = executor(slow_store, ScriptedPool())
    caller = asyncio.create_task(runner.execute(task.id))
    await slow_store.claimed.wait()
    caller.cancel()
    slow_store.gate.set()
    await asyncio.wait([caller])
    row = await slow_store.get(task.id)
    assert row is not None
    assert (row.status, row.failures, runner.running) == (TaskStatus.QUEUED, 0, 0)
    assert [past.outcome for past in await slow_store.attempts(task.id)] == ["handed_back"]


async def test_a_cancel_that_comes_during_the_claim_is_heard(slow_store: SlowStore) -> None:
    pool = ScriptedPool()
    task = await queued(slow_store)
    runner = executor(slow_store, pool)
    attempt = asyncio.create_task(runner.execute(task.id))
    await slow_store.claimed.wait()  # the row says running, but the executor does not know it yet
    await slow_store.request_cancel(task.id, 2.0)
    stopping = asyncio.create_task(runner.stop_task(task.id))
    slow_store.gate.set()
    stopped = await stopping
    assert stopped is not None
    assert stopped.status is (await attempt).status is TaskStatus.CANCELLED
    assert pool.calls == []


async def test_an_attempt_stopped_before_its_first_step_claims_nothing(store: TaskStore) -> None:
    task = await queued(store)
    runner = executor(store, ScriptedPool())
    caller = asyncio.create_task(runner.execute(task.id))
    while not runner.running:
        await asyncio.sleep(0)
    await runner.stop()
    row = await caller
    assert row.status is TaskStatus.QUEUED
    assert await runner.execute(task.id) != row  # nothing stands in the way of the next attempt


async def test_a_cancel_whose_call_got_lost_is_carried_out_when_the_task_is_asked_for_again(store: TaskStore) -> None:
    pool = ScriptedPool(["partial", asyncio.Event()])
    task = await queued(store)
    runner = executor(store, pool)
    first = asyncio.create_task(runner.execute(task.id))
    await pool.started.wait()
    await store.request_cancel(task.id, 2.0)
    again = await runner.execute(task.id, attempt=1)
    assert again.status is TaskStatus.CANCELLED
    assert (await first).status is TaskStatus.CANCELLED


async def test_a_late_completion_is_fenced_off(store: TaskStore) -> None:
    gate = asyncio.Event()
    task = await queued(store)
    slow = executor(store, late := ScriptedPool([gate, "late"]))
    attempt = asyncio.create_task(slow.execute(task.id))
    await late.started.wait()
    done = await executor(store, ScriptedPool(["first"])).execute(task.id, attempt=1)
    gate.set()
    assert await attempt == done
    assert (done.result, done.attempt) == ("first", 2)
    assert [past.outcome for past in await store.attempts(task.id)] == ["lost", "completed"]


async def test_a_late_failure_is_fenced_off(store: TaskStore) -> None:
    gate = asyncio.Event()
    task = await queued(store)
    slow = executor(store, late := ScriptedPool([gate, ModelException("late")]))
    attempt = asyncio.create_task(slow.execute(task.id))
    await late.started.wait()
    done = await executor(store, ScriptedPool(["first"])).execute(task.id, attempt=1)
    gate.set()
    assert await attempt == done
    assert done.failures == 1  # the one that was lost
