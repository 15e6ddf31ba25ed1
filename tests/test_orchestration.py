"""The coordinator takes tasks in, has them run, tells how they go and stops them; the row is the truth throughout."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_pool import ScriptedPool
from fakes.servers import until

from tale.exceptions import ModelException, NetworkException, TaleBaseException, TaskException, ValidationException
from tale.models.pool import ModelState
from tale.orchestration.coordinator import HTTPCoordinator
from tale.orchestration.executor import Progress, TaskExecutor
from tale.orchestration.intake import Submission
from tale.orchestration.task_events import TaskEvent
from tale.records import NewTask, Task, TaskStatus
from tale.settings import Settings, load_settings
from tale.storage.database import Database
from tale.storage.task_store import TaskStore


class DirectClient:
    """Stands where the MCP client to the execution server stands, and calls the executor itself."""

    def __init__(self, executor: TaskExecutor) -> None:
        self.executor = executor
        self.fails_with: list[TaleBaseException] = []
        self.loses: list[TaleBaseException] = []  # raised after the work was done

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        on_progress: Callable[[float, float | None, str | None], None] | None = None,
        timeout_s: float | None = None,
        idempotent: bool = False,
    ) -> dict[str, Any]:
        if self.fails_with:
            raise self.fails_with.pop(0)
        assert arguments is not None
        if name == "stop_task":
            task = await self.executor.stop_task(arguments["task_id"])
        else:

            def listen(progress: Progress) -> None:
                if on_progress:
                    on_progress(float(progress.output_tokens or 0), None, progress.message)

            task = await self.executor.execute(arguments["task_id"], attempt=arguments["attempt"], listener=listen)
        if self.loses:
            raise self.loses.pop(0)
        return asdict(task) if task else {}


class SlowStore(TaskStore):
    """Answers a submission or a cancellation only when it is told to."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.written, self.gate = asyncio.Event(), asyncio.Event()
        self.is_slow = False

    async def insert_all(self, new: Sequence[NewTask]) -> list[Task]:
        return await self._slowed(await super().insert_all(new))

    async def request_cancel(self, task_id: str, now: float) -> Task | None:
        return await self._slowed(await super().request_cancel(task_id, now))

    async def _slowed(self, task: Any) -> Any:
        self.written.set()
        if self.is_slow:
            await self.gate.wait()
        return task


class Bench:
    """A coordinator on a real database, with a scripted pool behind it."""

    def __init__(self, settings: Settings, store: SlowStore, pool: ScriptedPool) -> None:
        self.store, self.pool = store, pool
        self.client = DirectClient(
            TaskExecutor(store, pool, max_output_tokens=64, max_failures=3, clock=lambda: 1000.0)
        )
        self.coordinator = HTTPCoordinator(
            settings, store, execution=self.client, pool=pool, clock=lambda: 1000.0, acknowledge_after_s=0.0
        )

    async def finished(self, task: Task) -> Task:
        return await self.coordinator.wait(task.id, timeout_s=20)


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    benches: list[Bench] = []

    async def make(pool: ScriptedPool | None = None, **settings: object) -> Bench:
        chosen = load_settings({"home": str(tmp_path), "retry_delay_s": 0.0, **settings}, environment={})
        bench = Bench(chosen, SlowStore(database), pool or ScriptedPool())
        benches.append(bench)
        await bench.coordinator.start()
        return bench

    yield make
    for bench in benches:
        await bench.coordinator.stop(0.0)
    await database.close()


async def test_a_submitted_task_is_run_and_its_result_waited_for(start: Start) -> None:
    bench = await start()
    heard: list[TaskEvent] = []

    async def on_event(event: TaskEvent) -> None:
        heard.append(event)

    task = await bench.coordinator.submit(Submission("  Say hello  ", trace_id="a" * 32))
    done = await bench.coordinator.wait(task.id, timeout_s=20, on_event=on_event)
    assert (done.status, done.result, done.text) == (TaskStatus.COMPLETED, "Hello world", "Say hello")
    assert heard[-1].status is TaskStatus.COMPLETED
    assert bench.pool.calls[0][1].trace_id == "a" * 32


async def test_waiting_for_a_finished_task_returns_at_once_and_for_an_unknown_one_fails(start: Start) -> None:
    bench = await start()
    done = await bench.finished(await bench.coordinator.submit(Submission("x")))
    assert await bench.finished(done) == done
    with pytest.raises(TaskException, match="No such task"):
        await bench.coordinator.wait(str(uuid.uuid4()), timeout_s=1)


async def test_a_wait_that_runs_out_returns_the_task_as_it_stands(start: Start) -> None:
    bench = await start(ScriptedPool([asyncio.Event()]))
    task = await bench.coordinator.submit(Submission("x"))
    await bench.pool.started.wait()
    standing = await bench.coordinator.wait(task.id, timeout_s=0)
    assert standing.status is TaskStatus.RUNNING


@pytest.mark.parametrize(
    ("submission", "complaint"),
    [
        (Submission(" "), "empty"),
        (Submission("x" * 10_001), "at most 10,000"),
        (Submission("x", priority=101), "priority"),
        (Submission("x", timeout_s=0), "timeout"),
        (Submission("x", max_output_tokens=0), "output tokens"),
        (Submission("x", max_output_tokens=10**30), "output tokens"),
    ],
)
async def test_what_is_not_acceptable_is_refused_and_not_stored(
    start: Start, submission: Submission, complaint: str
) -> None:
    bench = await start()
    with pytest.raises(ValidationException, match=complaint):
        await bench.coordinator.submit(submission)
    assert await bench.store.list() == []


async def test_a_prompt_larger_than_the_context_is_refused_with_both_numbers(start: Start) -> None:
    bench = await start(ScriptedPool(tokens=5_000), task_context_tokens=1_024)
    with pytest.raises(ValidationException, match="5,000 tokens") as caught:
        await bench.coordinator.submit(Submission("word " * 1_000))
    assert caught.value.context == {"input_tokens": 5_000, "context_tokens": 1_024}
    assert (await bench.coordinator.submit(Submission("short"))).status is TaskStatus.QUEUED


async def test_a_failed_attempt_is_made_again(start: Start) -> None:
    bench = await start(ScriptedPool([ModelException("It broke.")], ["fine"]))
    done = await bench.finished(await bench.coordinator.submit(Submission("x")))
    assert (done.status, done.result, done.failures, done.attempt) == (TaskStatus.COMPLETED, "fine", 1, 2)


async def test_a_task_that_always_fails_ends_failed_with_its_last_error(start: Start) -> None:
    bench = await start(ScriptedPool([ModelException("It broke.")]))
    done = await bench.finished(await bench.coordinator.submit(Submission("x")))
    assert (done.status, done.error, done.failures) == (TaskStatus.FAILED, "It broke.", 3)


async def test_an_execution_server_out_of_reach_costs_no_attempt(start: Start) -> None:
    bench = await start()
    bench.client.fails_with = [NetworkException("no answer"), NetworkException("no answer")]
    done = await bench.finished(await bench.coordinator.submit(Submission("x")))
    assert (done.status, done.failures, done.attempt) == (TaskStatus.COMPLETED, 0, 1)


async def test_a_queued_task_is_cancelled_at_once_and_never_runs(start: Start) -> None:
    gate = asyncio.Event()
    bench = await start(ScriptedPool([gate, "x"]))
    first = await bench.coordinator.submit(Submission("first"))
    await bench.pool.started.wait()
    second = await bench.coordinator.submit(Submission("second"))
    assert (await bench.coordinator.cancel(second.id)).status is TaskStatus.CANCELLED
    gate.set()
    await bench.finished(first)
    third = await bench.finished(await bench.coordinator.submit(Submission("third")))
    assert third.status is TaskStatus.COMPLETED
    assert [call.messages[-1].content for call, _ in bench.pool.calls] == ["first", "third"]


async def test_a_running_task_is_cancelled_with_what_it_had_written(start: Start) -> None:
    bench = await start(ScriptedPool(["partial", asyncio.Event()]))
    task = await bench.coordinator.submit(Submission("x"))
    waiting = asyncio.create_task(bench.finished(task))
    await bench.pool.started.wait()
    cancelled = await bench.coordinator.cancel(task.id)
    assert (cancelled.status, bench.pool.stopped) == (TaskStatus.CANCELLED, 1)
    assert (await waiting).status is TaskStatus.CANCELLED
    assert (await bench.coordinator.cancel(task.id)).status is TaskStatus.CANCELLED


async def test_cancelling_an_unknown_task_says_so(start: Start) -> None:
    bench = await start()
    with pytest.raises(TaskException, match="No such task"):
        await bench.coordinator.cancel(str(uuid.uuid4()))


async def test_a_cancel_while_the_runner_is_out_of_reach_is_kept(start: Start) -> None:
    bench = await start(ScriptedPool(["partial", asyncio.Event()]))
    task = await bench.coordinator.submit(Submission("x"))
    await bench.pool.started.wait()
    bench.client.fails_with = [NetworkException("no answer")]
    standing = await bench.coordinator.cancel(task.id)
    assert standing.status is TaskStatus.RUNNING
    assert standing.cancel_requested_at == 1000.0


async def test_the_small_model_says_what_is_being_worked_on(start: Start) -> None:
    gate = asyncio.Event()
    pool = ScriptedPool([gate, "done"], ["Writing a haiku."])
    pool.states = (ModelState("small", "ux", "ready"), ModelState("large", "task", "ready"))
    bench = await start(pool)
    heard: list[str] = []

    async def on_event(event: TaskEvent) -> None:
        heard.append(event.message)
        if event.message == "Writing a haiku.":
            gate.set()

    task = await bench.coordinator.submit(Submission("Write a haiku"))
    await pool.started.wait()
    done = await bench.coordinator.wait(task.id, timeout_s=20, on_event=on_event)
    assert done.status is TaskStatus.COMPLETED
    assert "Writing a haiku." in heard
    assert pool.calls[1][1].operation == "acknowledge"
    assert pool.calls[1][1].role == "ux"


async def test_nothing_is_said_of_a_task_whose_answer_is_being_written(start: Start) -> None:
    gate = asyncio.Event()
    pool = ScriptedPool(["Leaves ", gate, "fall."])
    pool.states = (ModelState("small", "ux", "ready"), ModelState("large", "task", "ready"))
    bench = await start(pool)
    task = await bench.coordinator.submit(Submission("Write a haiku"))
    while not bench.coordinator.events.is_being_written(task.id):
        await asyncio.sleep(0.001)
    waiting = asyncio.create_task(bench.finished(task))
    await asyncio.sleep(0.01)
    gate.set()
    assert (await waiting).status is TaskStatus.COMPLETED
    assert [context.operation for _, context in pool.calls] == ["execute"]


async def test_an_acknowledgement_that_fails_does_not_harm_the_task(start: Start) -> None:
    gate = asyncio.Event()
    pool = ScriptedPool([gate, "done"], [ModelException("The small model is gone.")])
    pool.states = (ModelState("small", "ux", "ready"), ModelState("large", "task", "ready"))
    bench = await start(pool)
    task = await bench.coordinator.submit(Submission("Write a haiku"))
    await pool.started.wait()
    pool.started.clear()
    waiting = asyncio.create_task(bench.finished(task))
    await pool.started.wait()
    gate.set()
    assert (await waiting).status is TaskStatus.COMPLETED


async def test_a_client_that_hangs_up_while_it_submits_leaves_no_task_behind_that_nobody_runs(start: Start) -> None:
    bench = await start()
    bench.store.is_slow = True
    client = asyncio.create_task(bench.coordinator.submit(Submission("x", idempotency_key="k")))
    await bench.store.written.wait()  # the row is there, the engine does not know it yet
    client.cancel()
    await asyncio.wait([client])
    bench.store.gate.set()
    task = await bench.coordinator.submit(Submission("x", idempotency_key="k"))
    assert (await bench.finished(task)).status is TaskStatus.COMPLETED


async def test_a_client_that_hangs_up_while_it_cancels_has_cancelled(start: Start) -> None:
    bench = await start(ScriptedPool(["partial", asyncio.Event()]))
    task = await bench.coordinator.submit(Submission("x"))
    await bench.pool.started.wait()
    bench.store.written.clear()
    bench.store.is_slow = True
    client = asyncio.create_task(bench.coordinator.cancel(task.id))
    await bench.store.written.wait()  # the wish is kept, the runner does not know it yet
    client.cancel()
    await asyncio.wait([client])
    waiting = asyncio.create_task(bench.finished(task))
    bench.store.gate.set()
    assert (await waiting).status is TaskStatus.CANCELLED


async def test_those_who_wait_hear_of_an_end_whose_answer_was_lost(start: Start) -> None:
    gate = asyncio.Event()
    bench = await start(ScriptedPool([gate, "x"]), retry_delay_s=3_600.0)
    bench.client.loses = [NetworkException("The connection broke just then.")]
    task = await bench.coordinator.submit(Submission("x"))
    await bench.pool.started.wait()
    waiting = asyncio.create_task(bench.coordinator.wait(task.id, timeout_s=3_600))
    gate.set()
    assert (await waiting).status is TaskStatus.COMPLETED


async def test_cancelled_tasks_leave_room_in_the_queue_at_once(start: Start) -> None:
    bench = await start(ScriptedPool([asyncio.Event()]), queue_limit=1)
    await bench.coordinator.submit(Submission("running"))
    await bench.pool.started.wait()
    queued = await bench.coordinator.submit(Submission("queued"))
    with pytest.raises(TaskException, match="queue is full"):
        await bench.coordinator.submit(Submission("one too many"))
    await bench.coordinator.cancel(queued.id)
    assert (await bench.coordinator.submit(Submission("fits now"))).status is TaskStatus.QUEUED


async def test_attempts_that_did_not_begin_were_cut_short_or_failed_are_told(start: Start) -> None:
    bench = await start(ScriptedPool([asyncio.Event()], [ModelException("It broke.")], ["x"]))
    heard: list[str] = []

    async def on_event(event: TaskEvent) -> None:
        heard.append(event.message)

    bench.client.fails_with = [NetworkException("no answer")]
    task = await bench.coordinator.submit(Submission("x"))
    waiting = asyncio.create_task(bench.coordinator.wait(task.id, timeout_s=20, on_event=on_event))
    await bench.pool.started.wait()
    await until(lambda: any("`tale servers start --roles execution`" in message for message in heard))
    await bench.client.executor.stop()
    assert (await waiting).status is TaskStatus.COMPLETED
    assert heard.count("The attempt was cut short; the task will be taken up again") == 1
    assert "Attempt 2 failed; it will be tried again: It broke." in heard


async def test_the_same_key_gives_the_task_that_was_stored_first(start: Start) -> None:
    bench = await start()
    first = await bench.coordinator.submit(Submission("x", idempotency_key="k"))
    done = await bench.finished(first)
    assert await bench.coordinator.submit(Submission("another text", idempotency_key="k")) == done


async def test_a_prompt_that_cannot_be_counted_now_is_taken(start: Start) -> None:
    class Uncounted(ScriptedPool):
        async def count_tokens(self, request: Any, context: Any) -> int | None:
            raise NetworkException("No engine answers.")

    bench = await start(Uncounted(), task_context_tokens=1_024)
    assert (await bench.coordinator.submit(Submission("word " * 1_000))).status is TaskStatus.QUEUED


async def test_no_acknowledgement_is_asked_for_where_none_is_wanted(start: Start) -> None:
    gate = asyncio.Event()
    pool = ScriptedPool([gate, "done"])
    pool.states = (ModelState("small", "ux", "ready"), ModelState("large", "task", "ready"))
    bench = await start(pool, acknowledge=False)
    task = await bench.coordinator.submit(Submission("Write a haiku"))
    await pool.started.wait()
    waiting = asyncio.create_task(bench.finished(task))
    gate.set()
    assert (await waiting).status is TaskStatus.COMPLETED
    assert len(pool.calls) == 1


async def test_a_stop_ends_an_acknowledgement_that_is_under_way(start: Start) -> None:
    pool = ScriptedPool([asyncio.Event()])
    pool.states = (ModelState("small", "ux", "ready"), ModelState("large", "task", "ready"))
    bench = await start(pool)
    task = await bench.coordinator.submit(Submission("Write a haiku"))
    await pool.started.wait()
    waiting = asyncio.create_task(bench.finished(task))
    while len(pool.calls) < 2:
        await asyncio.sleep(0)
    await bench.coordinator.stop(0.0)
    assert pool.stopped == 2
    waiting.cancel()
