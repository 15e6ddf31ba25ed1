"""What is older than wanted goes, in small batches; what is open stays, with all that it builds upon."""

import asyncio
import json
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import Outcome
from fakes.servers import settings_for, until
from sqlalchemy import func, insert, select, update

from tale.records import Correction, McpCall, ModelCall, Task, TaskStatus
from tale.servers.upkeep import DAY_S, Upkeep
from tale.storage.call_store import CallStore
from tale.storage.conversation_store import ConversationStore
from tale.storage.correction_store import CorrectionStore
from tale.storage.database import Database
from tale.storage.monitoring_tables import monitor_samples
from tale.storage.reader import read_once
from tale.storage.retention import BATCH_ROWS, Pruned, prunable, prune
from tale.storage.rows import values_of
from tale.storage.tables import attempts, messages, model_calls, task_dependencies, tasks
from tale.storage.task_store import TaskStore

Tale = Callable[..., Outcome]
OLD, NEW = 100.0, 10_000.0
CUTOFF = 1_000.0


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    yield database
    await database.close()


async def no_pause(_: float) -> None:
    return


def new_call(started_at: float, **values: Any) -> ModelCall:
    named = {"role": "task", "operation": "execute", "model": "m", "provider": "p", "ended_at": started_at + 1}
    return ModelCall(id=str(uuid.uuid4()), started_at=started_at, **{**named, **values})


async def stored(database: Database, created_at: float, *, ended_at: float | None, **values: Any) -> str:
    """The id of a task, running if it has no end, with an attempt."""
    status = TaskStatus.RUNNING if ended_at is None else TaskStatus.COMPLETED
    task = Task(str(uuid.uuid4()), "t", status, created_at, ended_at=ended_at, **values)
    await TaskStore(database).insert(task)
    attempt = {"task_id": task.id, "number": 1, "started_at": created_at}
    await database.write(lambda connection: connection.execute(insert(attempts), attempt).rowcount)
    return task.id


async def ids_of(database: Database, column: Any) -> set[str]:
    return await database.read(lambda connection: set(connection.scalars(select(column))))


async def test_old_tasks_go_with_their_attempts_and_open_ones_never(database: Database) -> None:
    await stored(database, OLD, ended_at=OLD + 1)
    lasting = {
        await stored(database, OLD, ended_at=None),
        await stored(database, OLD, ended_at=NEW),
        await stored(database, NEW, ended_at=NEW + 1),
    }
    assert await prune(database, CUTOFF) == Pruned(tasks=1)
    assert await ids_of(database, tasks.c.id) == await ids_of(database, attempts.c.task_id) == lasting
    assert (await prune(database, CUTOFF)).is_empty


async def test_a_task_for_whose_result_another_waits_stays(database: Database) -> None:
    first = await stored(database, OLD, ended_at=OLD + 1)
    second = await stored(database, OLD, ended_at=None)
    row = {"task_id": second, "after_id": first, "position": 0}
    await database.write(lambda connection: connection.execute(insert(task_dependencies), row).rowcount)
    assert (await prune(database, CUTOFF)).is_empty
    ended = update(tasks).where(tasks.c.id == second).values(ended_at=OLD + 2)
    await database.write(lambda connection: connection.execute(ended).rowcount)
    assert (await prune(database, CUTOFF)).tasks == 2


async def test_calls_go_after_the_task_that_they_were_made_for(database: Database) -> None:
    kept, gone = await stored(database, OLD, ended_at=NEW), await stored(database, OLD, ended_at=OLD + 1)
    calls = CallStore(database)
    lasting = [new_call(OLD, task_id=kept), new_call(NEW), new_call(OLD, ended_at=None), new_call(OLD, ended_at=NEW)]
    for call in (*lasting, new_call(OLD, task_id=gone), new_call(OLD), new_call(OLD, task_id="unknown")):
        await calls.close_call(call)
    for at in (OLD, NEW):
        await calls.record_mcp(McpCall(str(uuid.uuid4()), at, "gateway", "tools/list", 0.1, "ok"))
    assert await prune(database, CUTOFF) == Pruned(tasks=1, model_calls=3, mcp_calls=1)
    assert await ids_of(database, model_calls.c.id) == {call.id for call in lasting}


async def test_conversations_go_by_their_last_message_unless_a_task_in_them_is_open(database: Database) -> None:
    store = ConversationStore(database)
    for name, times in {"old": (OLD,), "new": (OLD, NEW), "open": (OLD,)}.items():
        for at in times:
            await store.append(name, "user", "Hello", now=at)
    await stored(database, NEW, ended_at=None, conversation_id="open")
    assert await prune(database, CUTOFF) == Pruned(conversations=1)
    assert await ids_of(database, messages.c.conversation_id) == {"new", "open"}


async def test_what_users_put_right_goes_by_its_age(database: Database) -> None:
    store = CorrectionStore(database)
    for name, at in (("old", OLD), ("new", NEW)):
        await store.add(Correction(name, at, "Do it.", label="task", detected="chat"))
    assert await prune(database, CUTOFF) == Pruned(corrections=1)
    assert [correction.id for correction in await store.newest(10)] == ["new"]


async def test_samples_of_the_monitor_go_after_three_months_or_sooner_if_the_setting_says(
    database: Database, tmp_path: Path
) -> None:
    now = 100 * DAY_S
    times = {"a": 1.0, "b": now - 3 * DAY_S, "c": now}
    rows = [
        {"id": f"{name}{n}", "at": at, "owner": "here", "models": "[]"}
        for name, at in times.items()
        for n in range(600)
    ]
    await database.write(lambda connection: connection.execute(insert(monitor_samples), rows).rowcount)
    for days, left in ((None, 1_200), (2, 600)):
        await Upkeep(settings_for(tmp_path, retention_days=days), database, clock=lambda: now).do_chores()
        assert len(await ids_of(database, monitor_samples.c.id)) == left


async def test_it_takes_small_steps_and_lets_others_in_between(database: Database) -> None:
    rows = [values_of(new_call(OLD)) for _ in range(2 * BATCH_ROWS + 7)]
    await database.write(lambda connection: connection.execute(insert(model_calls), rows).rowcount)
    seen: list[int] = []

    async def look(_: float) -> None:
        seen.append(await database.read(lambda c: c.scalar(select(func.count()).select_from(model_calls)) or 0))

    assert (await prune(database, CUTOFF, pause=look)).model_calls == len(rows)
    assert seen == [BATCH_ROWS + 7, 7]


async def test_what_would_go_is_told_exactly(database: Database) -> None:
    kept = await stored(database, OLD, ended_at=NEW)
    for task_id in (kept, await stored(database, OLD, ended_at=OLD), None):
        await CallStore(database).close_call(new_call(OLD, task_id=task_id))
    told = read_once(database.url, lambda connection: prunable(connection, CUTOFF), absent=Pruned())
    assert told == await prune(database, CUTOFF, pause=no_pause) == Pruned(tasks=1, model_calls=2)


async def test_the_oldest_are_found_by_index(database: Database, tmp_path: Path) -> None:
    statements = {
        "SELECT id FROM tasks WHERE created_at < 5 ORDER BY created_at LIMIT 500": "ix_tasks_created_at_id",
        "SELECT id FROM model_calls WHERE started_at < 5 ORDER BY started_at LIMIT 500": "ix_model_calls_started_at",
    }
    with closing(sqlite3.connect(tmp_path / "tale.db")) as connection:
        for statement, index in statements.items():
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            assert index in plan[0][3], plan


async def test_the_servers_throw_away_what_the_setting_says(database: Database, tmp_path: Path) -> None:
    now = 10 * 86_400.0
    for at in (now - 3 * 86_400, now - 86_400):
        await CallStore(database).close_call(new_call(at))
    settings = settings_for(tmp_path)
    await Upkeep(settings, database, clock=lambda: now).do_chores()
    assert len(await CallStore(database).calls()) == 2
    upkeep = Upkeep(settings.model_copy(update={"retention_days": 2}), database, clock=lambda: now)
    upkeep.start()

    async def is_pruned() -> bool:
        return len(await CallStore(database).calls()) == 1

    await until(is_pruned)
    await upkeep.stop()


async def test_a_database_that_cannot_be_written_stops_no_server(database: Database, tmp_path: Path) -> None:
    upkeep = Upkeep(settings_for(tmp_path, retention_days=2), database, clock=lambda: NEW)
    await database.close()
    await upkeep.do_chores()


@pytest.fixture
def aged(tale: Tale, tale_home: Path) -> None:
    """A home with a call of a year ago and one of now."""

    async def made() -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        for age_s in (366 * 86_400, 5):
            call = new_call(time.time() - age_s)
            await CallStore(database).close_call(replace(call, ended_at=call.started_at + 1))
        await database.close()

    asyncio.run(made())


def test_the_command_tells_before_it_does(tale: Tale, aged: None) -> None:
    found = "0 tasks, 1 model call, 0 MCP calls, 0 conversations and 0 corrections"
    assert tale("db", "prune", "--older-than", "90d", "--dry-run").out == f"Would delete {found}.\n"
    refused = tale("db", "prune", "--older-than", "90d")
    assert refused.code == 2
    assert f"Delete {found} for good? Nobody can be asked here" in refused.err
    assert tale("db", "prune", "--older-than", "90d", "--yes").out == f"Deleted {found}.\n"
    assert tale("db", "prune", "--older-than", "90d", "--yes").out == "Nothing is that old.\n"
    assert json.loads(tale("usage", "--json").out)["whole"]["calls"] == 1


def test_the_age_comes_from_the_settings_or_has_to_be_told(
    tale: Tale, aged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--older-than is missing" in tale("db", "prune", "--yes").err
    assert tale("db", "prune", "--older-than", "soon").code == 2
    monkeypatch.setenv("TALE_RETENTION_DAYS", "90")
    told = json.loads(tale("db", "prune", "--dry-run", "--json").out)
    assert (told["model_calls"], told["deleted"]) == (1, False)


def test_where_there_is_no_database_none_is_made(tale: Tale, tale_home: Path) -> None:
    assert tale("db", "prune", "--older-than", "1d", "--yes").out == "Nothing is that old.\n"
    assert not tale_home.exists()
