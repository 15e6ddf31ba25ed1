"""Ends of calls are written once, also where the database goes away over them; test_postgres_engine.py has the rest."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fakes.rolled_up import rolled_up
from fakes.servers import until
from sqlalchemy import Connection, Table

from tale.exceptions import DatabaseException
from tale.records import ModelCall
from tale.storage.budget_store import BudgetStore
from tale.storage.budgets import parsed_budget
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.patient_store import PatientCallStore
from tale.storage.rollups import Rollups

T = TypeVar("T")


class Shaky(Database):
    """Can be out of reach, and break off when a work is done and nobody has been told yet."""

    is_away = False
    breaks_off = False

    async def write(self, work: Callable[[Connection], T], *, ends: bool = False) -> T:
        self._refuse_away()
        done = await super().write(work, ends=ends)
        if self.breaks_off:
            self.breaks_off = False
            raise DatabaseException("The connection broke.")
        return done

    async def upsert(self, table: Table, values: Mapping[str, Any]) -> None:
        self._refuse_away()
        await super().upsert(table, values)

    async def read(self, work: Callable[[Connection], T]) -> T:
        self._refuse_away()
        return await super().read(work)

    def _refuse_away(self) -> None:
        if self.is_away:
            raise DatabaseException("There is no connection.")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Shaky]:
    database = Shaky.open(f"sqlite:///{tmp_path / 'tale.db'}")
    assert isinstance(database, Shaky)
    yield database
    await database.close()


def new_call(task_id: str | None = None) -> ModelCall:
    return ModelCall(str(uuid.uuid4()), time.time(), "task", "execute", model="m", provider="p", task_id=task_id)


def ended(call: ModelCall) -> ModelCall:
    return replace(call, ended_at=call.started_at + 1.0, queue_s=0.0, input_tokens=7, output_tokens=0)


async def used_tokens(budgets: BudgetStore) -> int:
    (standing,) = await budgets.standings(time.time())
    return standing.used_tokens


async def test_a_call_whose_end_was_written_and_not_acknowledged_is_counted_once(database: Shaky) -> None:
    budgets = BudgetStore(database)
    calls = PatientCallStore(database, budgets)
    await budgets.set(parsed_budget("b", 100, now=time.time()))
    call = new_call()
    await calls.hold_call(call, most_tokens=50)
    database.breaks_off = True
    await calls.close_call(ended(call))
    assert await used_tokens(budgets) == 7


async def test_while_the_database_is_away_the_call_of_a_task_is_kept_in_mind_and_another_refused(
    database: Shaky,
) -> None:
    budgets = BudgetStore(database)
    calls = PatientCallStore(database, budgets)
    await budgets.set(parsed_budget("b", 100, now=time.time()))
    of_task, other = new_call(task_id="t"), new_call()
    for call in (of_task, other):
        await calls.hold_call(call, most_tokens=50)
    database.is_away = True
    await calls.close_call(ended(of_task))
    with pytest.raises(DatabaseException, match="no connection"):
        await calls.close_call(ended(other))
    database.is_away = False

    async def is_closed() -> bool:
        return (await calls.calls(task_id="t"))[0].ended_at is not None

    await until(is_closed)
    assert await used_tokens(budgets) == 7
    await calls.stop()


async def test_the_call_of_a_task_that_ended_in_an_outage_is_in_the_sums_though_they_went_on(
    database: Shaky, tmp_path: Path
) -> None:
    now = time.time()
    calls, elsewhere = PatientCallStore(database), Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    late = [replace(new_call(task_id="t"), started_at=now - 600.0) for _ in range(8)]
    for call in late:
        await calls.open_call(call)
    database.is_away = True
    for call in late:
        await calls.close_call(ended(call))
    await CallStore(elsewhere).close_call(ended(replace(new_call(), started_at=now - 600.0)))
    await Rollups(elsewhere).catch_up(now)
    database.is_away = False

    async def are_summed_up() -> bool:
        return sum(each.calls for each in await elsewhere.read(lambda c: rolled_up(c, 0.0, now))) == 9

    await until(are_summed_up)
    await calls.stop()
    await elsewhere.close()


async def test_a_stop_does_not_wait_for_a_database_that_stays_away(database: Shaky) -> None:
    calls = PatientCallStore(database, BudgetStore(database))
    call = new_call(task_id="t")
    await calls.hold_call(call, most_tokens=50)
    database.is_away = True
    await calls.close_call(ended(call))
    await calls.stop()
    database.is_away = False
    assert (await calls.calls(task_id="t"))[0].ended_at is None
