"""Both task engines hand tasks out by priority, try again what failed, take up what was left behind, and lose none."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.engine_kit import MAX_FAILURES, FaultyStore, Kit, Runner, new_task

from tale.exceptions import NetworkException, TaskException
from tale.orchestration.engines.attempt import delay_before_next_s
from tale.records import Task, TaskStatus
from tale.storage.database import Database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def kit(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kit]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'tale.db'}"
        database, jobs = Database.open(url), None
    else:
        pytest.importorskip("pgqueuer")
        from tale.storage.task_jobs import TaskJobs

        url = request.getfixturevalue("postgres_url")
        database = Database.open(url)
        jobs = TaskJobs(database)
    made = Kit(url, database, FaultyStore(database, jobs=jobs))
    if jobs:
        gateway = made.engine(None)
        await gateway.start()  # makes pgqueuer's tables
        await gateway.stop(0.0)
    yield made
    await database.close()


async def test_urgent_tasks_go_first_and_equals_in_order_of_submission(kit: Kit) -> None:
    runner = Runner(kit.store, 4)
    gateway = kit.engine(None)  # whose tasks are run elsewhere, or after a restart
    queue = kit.engine(runner)
    for text, priority, moment in [("early", 0, 1.0), ("late", 0, 2.0), ("urgent", 5, 3.0), ("idle", -5, 0.0)]:
        await gateway.submit(new_task(text, priority=priority, created_at=moment))
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["urgent", "early", "late", "idle"]


async def test_a_failed_attempt_is_made_again(kit: Kit) -> None:
    runner = Runner(kit.store, 1, failures=2)
    queue = kit.engine(runner)
    await queue.start()
    task = await queue.submit(new_task("x"))
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["x"] * 3
    row = await kit.store.get(task.id)
    assert row is not None
    assert (row.status, row.failures) == (TaskStatus.COMPLETED, 2)


@pytest.mark.parametrize(
    ("failures", "base_s", "shortest_s"),
    [(1, 5.0, 5.0), (2, 5.0, 10.0), (3, 5.0, 20.0), (40, 5.0, 60.0), (40, 90.0, 90.0)],
)
def test_the_wait_before_the_next_attempt_doubles_up_to_a_limit_and_up_to_a_quarter_is_drawn(
    failures: int, base_s: float, shortest_s: float
) -> None:
    task = replace(new_task("x"), failures=failures)
    assert delay_before_next_s(task, base_s, draw=0.0) == shortest_s
    assert delay_before_next_s(task, base_s, draw=1.0) == 1.25 * shortest_s


async def test_a_task_that_fails_again_and_again_ends_as_failed_with_its_history(kit: Kit) -> None:
    runner = Runner(kit.store, 1, failures=99)
    queue = kit.engine(runner)
    await queue.start()
    task = await queue.submit(new_task("x"))
    await runner.done.wait()
    await queue.stop(1.0)
    row = await kit.store.get(task.id)
    assert row is not None
    assert (row.status, row.failures) == (TaskStatus.FAILED, MAX_FAILURES)
    assert [past.outcome for past in await kit.store.attempts(task.id)] == ["failed"] * MAX_FAILURES


async def test_a_task_that_kills_its_runners_is_given_up(kit: Kit) -> None:
    runner = Runner(kit.store, 1, lost=99)
    queue = kit.engine(runner)
    await queue.start()
    task = await queue.submit(new_task("poison"))
    await runner.done.wait()
    await queue.stop(1.0)
    row = await kit.store.get(task.id)
    assert row is not None
    assert (row.status, row.error_class) == (TaskStatus.FAILED, "AttemptsExhausted")
    assert [past.outcome for past in await kit.store.attempts(task.id)] == ["lost"] * MAX_FAILURES


async def test_a_task_whose_runner_is_lost_is_taken_up_again(kit: Kit) -> None:
    runner = Runner(kit.store, 1, lost=1)
    queue = kit.engine(runner)
    await queue.start()
    task = await queue.submit(new_task("x"))
    await runner.done.wait()
    await queue.stop(1.0)
    assert [past.outcome for past in await kit.store.attempts(task.id)] == ["lost", "completed"]


async def test_a_running_task_of_a_dead_process_is_taken_up_at_the_start(kit: Kit) -> None:
    runner = Runner(kit.store, 1)
    queue = kit.engine(runner)
    task = await kit.store.insert(new_task("x"))
    await kit.store.claim(task.id, expected_attempt=0, now=1.0, max_failures=9)
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert [past.outcome for past in await kit.store.attempts(task.id)] == ["lost", "completed"]


async def test_a_retry_keeps_its_priority(kit: Kit) -> None:
    runner = Runner(kit.store, 3, failures=1)
    gateway = kit.engine(None)
    for text, priority in [("urgent", 9), ("a", 0), ("b", 0)]:
        await gateway.submit(new_task(text, priority=priority))
    queue = kit.engine(runner)
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert sorted(runner.order) == ["a", "b", "urgent", "urgent"]
    assert runner.order[-1] != "urgent"  # the retry went before one that had waited longer


async def test_the_same_key_gives_the_task_stored_first_and_queues_nothing(kit: Kit) -> None:
    runner = Runner(kit.store, 2)
    queue = kit.engine(runner)
    await queue.start()
    first = await queue.submit(new_task("x", key="k"))
    second = await queue.submit(new_task("y", key="k"))
    assert second.id == first.id
    await queue.submit(new_task("z"))
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["x", "z"]


async def test_a_full_queue_refuses_what_is_new_and_says_when_to_come_back(kit: Kit) -> None:
    queue = kit.engine(None, queue_limit=2)
    first = await queue.submit(new_task("a", key="k"))
    await queue.submit(new_task("b"))
    assert (await queue.submit(new_task("a", key="k"))).id == first.id
    with pytest.raises(TaskException, match="The queue is full") as caught:
        await queue.submit(new_task("c"))
    assert caught.value.context["waiting"] == 2


async def test_a_stop_lets_go_of_attempts_that_do_not_end_in_time_and_the_next_engine_runs_them(kit: Kit) -> None:
    started, let_go = asyncio.Event(), asyncio.Event()

    async def run(task_id: str, attempt: int) -> Task | None:
        task = await kit.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=MAX_FAILURES)
        assert task is not None
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await kit.store.release(task.id, task.attempt, outcome="handed_back", now=2.0, max_failures=MAX_FAILURES)
            let_go.set()
        return None

    queue = kit.engine(run)
    await queue.start()
    task = await queue.submit(new_task("x"))
    await started.wait()
    await queue.stop(0.01)
    assert let_go.is_set()
    runner = Runner(kit.store, 1)
    successor = kit.engine(runner)
    await successor.start()
    await runner.done.wait()
    await successor.stop(1.0)
    row = await kit.store.get(task.id)
    assert row is not None
    assert (row.status, row.failures) == (TaskStatus.COMPLETED, 0)  # a hand-back is no failure
    assert [past.outcome for past in await kit.store.attempts(task.id)] == ["handed_back", "completed"]


async def test_slots_limit_what_runs_at_the_same_time(kit: Kit) -> None:
    running = most = ended = 0
    pair, finished = asyncio.Barrier(2), asyncio.Event()

    async def run(task_id: str, attempt: int) -> Task | None:
        nonlocal running, most, ended
        running += 1
        most = max(most, running)
        await pair.wait()  # opens only when two are here at the same time
        running -= 1
        ended += 1
        if ended == 6:
            finished.set()
        return None

    queue = kit.engine(run, slots=2)
    await queue.start()
    for number in range(6):
        await queue.submit(new_task(str(number)))
    await finished.wait()
    await queue.stop(1.0)
    assert most == 2


async def test_an_error_of_our_own_does_not_lose_the_task(kit: Kit) -> None:
    runner = Runner(kit.store, 1)
    broken = True

    async def run(task_id: str, attempt: int) -> Task | None:
        nonlocal broken
        if broken:
            broken = False
            raise KeyError("not foreseen")
        return await runner(task_id, attempt)

    queue = kit.engine(run)
    await queue.start()
    await queue.submit(new_task("x"))
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["x"]


async def test_the_end_of_a_task_is_told_even_when_its_runner_s_answer_was_lost(kit: Kit) -> None:
    told: asyncio.Queue[Task] = asyncio.Queue()

    async def run(task_id: str, attempt: int) -> Task | None:
        await kit.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=9)
        await kit.store.finish(task_id, 1, status=TaskStatus.COMPLETED, now=2.0, result="ok")
        raise NetworkException("The connection broke just then.")

    queue = kit.engine(run, ended=told.put_nowait)
    await queue.start()
    await queue.submit(new_task("x"))
    assert (await told.get()).status is TaskStatus.COMPLETED
    await queue.stop(1.0)


async def test_a_withdrawn_task_makes_room_at_once_and_is_not_run(kit: Kit) -> None:
    runner = Runner(kit.store, 1)
    queue = kit.engine(runner, queue_limit=1)
    withdrawn = await queue.submit(new_task("withdrawn"))
    await kit.store.request_cancel(withdrawn.id, 1.0)
    queue.withdraw(withdrawn.id)
    await queue.submit(new_task("kept"))
    queue.withdraw(str(uuid.uuid4()))
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["kept"]


async def test_a_waiting_task_goes_by_the_priority_that_it_is_given_later(kit: Kit) -> None:
    runner = Runner(kit.store, 3)
    queue = kit.engine(runner)
    made = [await queue.submit(new_task(text, created_at=moment)) for moment, text in enumerate("abc")]
    for task, priority in ((made[0], -5), (made[2], 7)):
        queue.move(await kit.store.change_priority(task.id, priority) or task)
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["c", "b", "a"]


async def test_a_task_that_is_moved_as_its_attempt_fails_goes_by_its_new_priority(kit: Kit) -> None:
    runner = Runner(kit.store, 3, failures=1)

    async def run(task_id: str, attempt: int) -> Task | None:
        after = await runner(task_id, attempt)
        if after is not None and after.status is TaskStatus.QUEUED:  # the engine has yet to hear that it failed
            queue.move(await kit.store.change_priority(task_id, -5) or after)
        return after

    gateway = kit.engine(None)
    for text, priority in [("failing", 9), ("a", 0), ("b", 0)]:
        await gateway.submit(new_task(text, priority=priority))
    queue = kit.engine(run)
    await queue.start()
    await runner.done.wait()
    await queue.stop(1.0)
    assert sorted(runner.order[1:3]) == ["a", "b"]
    assert (runner.order[0], runner.order[-1]) == ("failing", "failing")


async def test_a_database_that_does_not_answer_for_a_while_costs_no_task(kit: Kit) -> None:
    runner = Runner(kit.store, 1, lost=1)
    queue = kit.engine(runner)
    await queue.start()
    kit.store.faults = 2
    await queue.submit(new_task("x"))
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["x", "x"]


async def test_many_tasks_at_once_are_each_run_once(kit: Kit) -> None:
    runner = Runner(kit.store, 60)
    queue = kit.engine(runner, slots=8)
    await queue.start()
    await asyncio.gather(*(queue.submit(new_task(str(number))) for number in range(60)))
    await runner.done.wait()
    await queue.stop(1.0)
    assert sorted(runner.order, key=int) == [str(number) for number in range(60)]


async def test_a_paused_engine_begins_nothing_until_it_is_resumed(kit: Kit) -> None:
    runner = Runner(kit.store, 1)
    queue = kit.engine(runner)
    await queue.pause()
    await queue.start()
    await queue.submit(new_task("x"))
    assert runner.order == []
    await queue.resume()
    await runner.done.wait()
    await queue.stop(1.0)
    assert runner.order == ["x"]
