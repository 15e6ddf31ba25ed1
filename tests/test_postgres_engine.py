"""Several gateways and execution servers on one PostgreSQL: shared work, one truth, news from host to host."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from fakes.engine_script import EngineScript
from fakes.ollama_server import served
from fakes.openai_server import OpenAIServer
from fakes.postgres import away, drop_connections, run_on
from fakes.servers import PATIENCE_S, settings_for, until
from sqlalchemy import text

from tale.exceptions import DatabaseException
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.engines.engine import RunAttempt
from tale.orchestration.engines.postgres_engine import PostgresEngine
from tale.orchestration.engines.postgres_worker import Pace
from tale.records import Task, TaskStatus
from tale.servers.service import Service
from tale.settings import Settings
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.engines import postgresql_dsn
from tale.storage.patient_store import PatientTaskStore
from tale.storage.task_jobs import TaskJobs
from tale.storage.task_store import TaskStore

pytestmark = pytest.mark.postgres

WORKER = Path(__file__).parent / "fakes" / "postgres_worker.py"
PACE = Pace(heartbeat_s=0.6, poll_s=0.2)


class Host:
    """A database connection with a store and engines, as one host has them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database.open(url)
        self.jobs = TaskJobs(self.database)
        self.store = TaskStore(self.database, jobs=self.jobs)

    def engine(self, run: RunAttempt | None = None, *, slots: int = 1, pace: Pace = PACE) -> PostgresEngine:
        dsn = postgresql_dsn(self.url)
        assert dsn is not None
        return PostgresEngine(
            self.store,
            self.jobs,
            dsn,
            run,
            slots=slots,
            queue_limit=1_000,
            retry_delay_s=0.0,
            on_end=lambda _: None,
            pace=pace,
        )

    async def hears(self) -> bool:
        """Whether a worker listens for jobs."""
        statement = text(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        )
        return bool(await self.database.read(lambda connection: connection.scalar(statement)))

    async def ended(self, task_id: str) -> Task:
        """The task at its end."""
        task: Task | None = None

        async def is_final() -> bool:
            nonlocal task
            with suppress(DatabaseException):
                task = await self.store.get(task_id)
            return task is not None and task.status.is_final

        await until(is_final)
        assert task is not None
        return task


@pytest.fixture
async def hosts(postgres_url: str) -> AsyncIterator[list[Host]]:
    hosts = [Host(postgres_url) for _ in range(2)]
    gateway = hosts[0].engine()
    await gateway.start()
    await gateway.stop(0.0)
    yield hosts
    for host in hosts:
        await host.database.close()


def new_task(text: str = "x") -> Task:
    return Task(str(uuid.uuid4()), text, TaskStatus.QUEUED, 1.0, timeout_s=10)


async def test_hosts_share_the_load_and_each_task_is_run_once(hosts: list[Host]) -> None:
    ran: list[list[str]] = [[], []]
    both = asyncio.Barrier(2)

    def runner(number: int) -> RunAttempt:
        async def run(task_id: str, attempt: int) -> Task | None:
            store = hosts[number].store
            task = await store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=3)
            assert task is not None
            if not ran[number]:
                ran[number].append(task_id)
                await both.wait()  # opens only when each host has begun one
            else:
                ran[number].append(task_id)
            await store.finish(task_id, task.attempt, status=TaskStatus.COMPLETED, now=2.0)
            return await store.get(task_id)

        return run

    engines = [host.engine(runner(number)) for number, host in enumerate(hosts)]
    await asyncio.gather(*(engine.start() for engine in engines))
    tasks = await asyncio.gather(*(engines[number % 2].submit(new_task()) for number in range(12)))
    for task in tasks:
        assert (await hosts[0].ended(task.id)).attempt == 1
    await asyncio.gather(*(engine.stop(1.0) for engine in engines))
    assert sorted([*ran[0], *ran[1]]) == sorted(task.id for task in tasks)
    assert await hosts[0].jobs.counts() == (0, 0)


async def test_kill_9_of_a_worker_and_another_takes_its_task_over(hosts: list[Host]) -> None:
    here, there = hosts
    task = await here.engine().submit(new_task())
    worker = await asyncio.create_subprocess_exec(sys.executable, str(WORKER), here.url, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert (await worker.stdout.readline()).decode().strip() == f"running {task.id} 1"
    worker.kill()
    await worker.wait()

    async def run(task_id: str, attempt: int) -> Task | None:
        claimed = await there.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=3)
        assert claimed is not None
        await there.store.finish(task_id, claimed.attempt, status=TaskStatus.COMPLETED, now=2.0, result="by another")
        return await there.store.get(task_id)

    successor = there.engine(run)
    await successor.start()
    done = await here.ended(task.id)
    await successor.stop(1.0)
    assert (done.status, done.result, done.attempt, done.failures) == (TaskStatus.COMPLETED, "by another", 2, 1)
    assert [past.outcome for past in await here.store.attempts(task.id)] == ["lost", "completed"]
    # What comes from the dead after all is fenced off.
    assert not await here.store.finish(task.id, 1, status=TaskStatus.FAILED, now=3.0)


async def test_a_worker_that_comes_back_late_leaves_its_task_to_its_successor(hosts: list[Host]) -> None:
    late, other = hosts
    begun: list[int] = []

    async def run(task_id: str, attempt: int) -> Task | None:
        begun.append(attempt)
        mine = await late.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=3)
        assert mine is not None
        await other.store.claim(task_id, expected_attempt=mine.attempt, now=2.0, max_failures=3)
        await late.store.finish(task_id, mine.attempt, status=TaskStatus.COMPLETED, now=3.0)  # is fenced off
        return await late.store.get(task_id)

    engine = late.engine(run)
    await engine.start()
    task = await engine.submit(new_task())
    await until(lambda: begun == [0] and not engine.running_tasks())
    assert await other.store.finish(task.id, 2, status=TaskStatus.COMPLETED, now=4.0) is not None
    await asyncio.sleep(2 * PACE.heartbeat_s)  # the job is picked once more, and forgotten
    assert begun == [0]
    await engine.stop(0.0)


async def test_a_database_that_drops_all_connections_costs_no_task(hosts: list[Host]) -> None:
    here, there = hosts
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def run(task_id: str, attempt: int) -> Task | None:
        task = await there.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=9)
        if task is None:
            return await there.store.get(task_id)
        begun.set()
        await go_on.wait()
        await there.store.finish(task_id, task.attempt, status=TaskStatus.COMPLETED, now=2.0)
        return await there.store.get(task_id)

    worker = there.engine(run, slots=2)
    await worker.start()
    first = await here.engine().submit(new_task("runs meanwhile"))
    await begun.wait()
    drop_connections(here.url)
    second = await here.engine().submit(new_task("comes after"))
    go_on.set()
    ends = [await here.ended(task.id) for task in (first, second)]
    await worker.stop(1.0)
    assert [task.status for task in ends] == [TaskStatus.COMPLETED] * 2


async def test_an_answer_that_comes_while_the_database_is_away_is_kept(
    hosts: list[Host], postgres_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = hosts
    store = PatientTaskStore(there.database, jobs=there.jobs)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def run(task_id: str, attempt: int) -> Task | None:
        task = await store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=9)
        assert task is not None
        begun.set()
        await go_on.wait()
        await store.finish(task_id, task.attempt, status=TaskStatus.COMPLETED, now=2.0, result="precious")
        return await store.get(task_id)

    worker = there.engine(run)
    await worker.start()
    task = await here.engine().submit(new_task())
    await begun.wait()
    with away(postgres_server, here.url):
        go_on.set()
        await until(lambda: "cannot be written yet" in caplog.text)
        with pytest.raises(DatabaseException):
            await here.engine().submit(new_task())
    done = await here.ended(task.id)
    await worker.stop(1.0)
    assert (done.result, done.attempt) == ("precious", 1)
    second = await here.engine().submit(new_task("after it"))
    begun.clear()
    successor = there.engine(run)
    await successor.start()
    assert (await here.ended(second.id)).status is TaskStatus.COMPLETED
    await successor.stop(1.0)


async def test_a_task_whose_job_got_lost_is_queued_again(hosts: list[Host]) -> None:
    here, _ = hosts
    task = await here.engine().submit(new_task())
    run_on(here.url, "DELETE FROM tale_pgqueuer")
    assert await here.jobs.repair() == 1
    assert await here.jobs.repair() == 0

    async def run(task_id: str, attempt: int) -> Task | None:
        claimed = await here.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=3)
        assert claimed is not None
        await here.store.finish(task_id, claimed.attempt, status=TaskStatus.COMPLETED, now=2.0)
        return await here.store.get(task_id)

    worker = here.engine(run)
    await worker.start()
    assert (await here.ended(task.id)).status is TaskStatus.COMPLETED
    await worker.stop(1.0)


async def test_a_task_is_stored_with_its_job_or_not_at_all(hosts: list[Host]) -> None:
    here, _ = hosts
    run_on(here.url, "ALTER TABLE tale_pgqueuer RENAME TO elsewhere")
    task = new_task()
    with pytest.raises(DatabaseException):
        await here.store.insert(task)
    assert await here.store.get(task.id) is None


async def test_a_queue_that_is_resumed_goes_on_at_once_not_with_the_next_look(hosts: list[Host]) -> None:
    here, _ = hosts

    async def run(task_id: str, attempt: int) -> Task | None:
        claimed = await here.store.claim(task_id, expected_attempt=attempt, now=1.0, max_failures=3)
        assert claimed is not None
        return await here.store.finish(task_id, claimed.attempt, status=TaskStatus.COMPLETED, now=2.0)

    worker = here.engine(run, pace=Pace(poll_s=600.0))
    await worker.pause()
    await worker.start()
    task = await here.engine().submit(new_task())
    await until(here.hears)
    await worker.resume()
    assert (await here.ended(task.id)).status is TaskStatus.COMPLETED
    await worker.stop(1.0)


@pytest.fixture
async def engine() -> AsyncIterator[OpenAIServer]:
    """A model that writes one word and then waits for the script's gate."""
    async with served(OpenAIServer(EngineScript(models=["m"], gate=asyncio.Event()))) as engine:
        yield engine


async def service(stack: AsyncExitStack, home: Path, url: str, engine: OpenAIServer, *roles: str) -> Settings:
    """A host of its own on the database."""
    settings = settings_for(home, backend="openai", openai_url=engine.base_url, database_url=url, stop_grace_s=0.1)
    started = Service(settings, roles, background=False)
    stack.push_async_callback(started.stop)
    await started.start()
    return settings


async def test_handed_in_at_one_host_run_on_a_second_followed_and_cancelled_at_a_third(
    tmp_path: Path, postgres_url: str, engine: OpenAIServer
) -> None:
    async with AsyncExitStack() as stack:
        first = await service(stack, tmp_path / "1", postgres_url, engine, "gateway")
        await service(stack, tmp_path / "2", postgres_url, engine, "execution")
        third = await service(stack, tmp_path / "3", postgres_url, engine, "gateway")
        here = await stack.enter_async_context(HTTPMCPClient(first.url_of("gateway")))
        there = await stack.enter_async_context(HTTPMCPClient(third.url_of("gateway")))

        task_id = (await here.call_tool("submit_task", {"text": "Write a haiku"}))["id"]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        url = f"{third.url_of('gateway')}/tasks/{task_id}/events"
        response = await stack.enter_async_context(session.get(url))
        await response.content.readuntil(b"event: text")
        assert b'"text": "Hello"' in await response.content.readline() + await response.content.readline()
        waiting = asyncio.create_task(here.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": PATIENCE_S}))
        cancelled = await there.call_tool("cancel_task", {"task_id": task_id})
        assert (cancelled["status"], cancelled["result"]) == ("cancelled", "Hello")
        assert (await waiting)["status"] == "cancelled"
        assert b'"status": "cancelled"' in await response.content.read()
        await engine.script.left.wait()  # the model was stopped, too

        assert engine.script.gate is not None
        engine.script.gate.set()
        task_id = (await there.call_tool("submit_task", {"text": "Another"}))["id"]
        done = await here.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": PATIENCE_S})
        assert (done["status"], done["result"]) == ("completed", "Hello world!")


async def test_an_answer_and_the_row_of_its_call_outlast_a_database_that_is_away_at_their_end(
    tmp_path: Path, postgres_url: str, postgres_server: str, engine: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        host = await service(stack, tmp_path, postgres_url, engine, "gateway", "execution")
        client = await stack.enter_async_context(HTTPMCPClient(host.url_of("gateway")))
        task_id = (await client.call_tool("submit_task", {"text": "Write a haiku"}))["id"]
        await engine.script.started.wait()
        with away(postgres_server, postgres_url):
            assert engine.script.gate is not None
            engine.script.gate.set()
            await until(lambda: "end of an attempt cannot be written yet" in caplog.text)
        done = await client.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": PATIENCE_S})
        assert (done["status"], done["result"], done["attempt"]) == ("completed", "Hello world!", 1)
        calls = CallStore(database := Database.open(postgres_url))
        stack.push_async_callback(database.close)

        async def is_closed() -> bool:
            return (await calls.calls(task_id=task_id))[0].finish_reason == "stop"

        await until(is_closed)
        assert len(engine.script.requests) == 1


async def test_those_who_wait_hear_at_once_what_ended_at_another_gateway_and_with_it(
    tmp_path: Path, postgres_url: str, engine: OpenAIServer
) -> None:
    async with AsyncExitStack() as stack:
        first = await service(stack, tmp_path / "1", postgres_url, engine, "gateway")
        second = await service(stack, tmp_path / "2", postgres_url, engine, "gateway")
        here = await stack.enter_async_context(HTTPMCPClient(first.url_of("gateway")))
        there = await stack.enter_async_context(HTTPMCPClient(second.url_of("gateway")))
        tasks = [{"text": "first"}, {"text": "second", "after": ["#1"]}, {"text": "third", "after": ["#2"]}]
        receipts = (await here.call_tool("submit_tasks", {"tasks": tasks}))["tasks"]
        last = {"task_id": receipts[2]["id"], "timeout_s": PATIENCE_S}
        waiting = asyncio.create_task(here.call_tool("wait_for_task", last))
        await asyncio.sleep(0.5)  # so that it listens, and does not find the end in the row
        await there.call_tool("cancel_task", {"task_id": receipts[0]["id"]})
        async with asyncio.timeout(PATIENCE_S / 2):
            assert (await waiting)["error_class"] == "DependencyFailed"


async def test_deadlines_of_tasks_that_came_in_elsewhere_are_kept_though_nobody_told_of_them(
    tmp_path: Path, postgres_url: str, engine: OpenAIServer, hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tale.orchestration.coordinator.LONGEST_SLEEP_S", 0.1)
    async with AsyncExitStack() as stack:
        await service(stack, tmp_path, postgres_url, engine, "gateway")
        late = await hosts[0].store.insert(replace(new_task("late"), deadline_at=1.0))  # by a gateway that is gone
        assert (await hosts[0].ended(late.id)).error_class == "DeadlinePassed"


async def test_a_host_that_stops_hands_its_task_to_the_next_at_once(
    tmp_path: Path, postgres_url: str, engine: OpenAIServer
) -> None:
    async with AsyncExitStack() as stack:
        first = await service(stack, tmp_path / "1", postgres_url, engine, "gateway")
        here = await stack.enter_async_context(HTTPMCPClient(first.url_of("gateway")))
        async with AsyncExitStack() as second:
            await service(second, tmp_path / "2", postgres_url, engine, "execution")
            task_id = (await here.call_tool("submit_task", {"text": "Write a haiku"}))["id"]
            await engine.script.started.wait()
        queued = await here.call_tool("get_task_status", {"task_id": task_id})
        assert (queued["status"], queued["failures"]) == ("queued", 0)  # a stop is no cancel, and no failure
        assert engine.script.gate is not None
        engine.script.gate.set()
        await service(stack, tmp_path / "3", postgres_url, engine, "execution")
        done = await here.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": PATIENCE_S})
        assert (done["status"], done["attempt"]) == ("completed", 2)
