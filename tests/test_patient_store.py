"""Ends of calls are written once, also where the database goes away over them; test_postgres_engine.py has the rest."""

import asyncio
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
REFUSAL_S = 0.05


class Shaky(Database):
    """Can be out of reach, be full, and break off when a work is done and nobody has been told yet."""

    is_away = False
    is_full = False
    breaks_off = False

    async def write(self, work: Callable[[Connection], T], *, ends: bool = False) -> T:
        await self._refuse(self.is_away or self.is_full)
        done = await super().write(work, ends=ends)
        if self.breaks_off:
            self.breaks_off = False
            raise DatabaseException("The connection broke.")
        return done

    async def upsert(self, table: Table, values: Mapping[str, Any]) -> None:
        await self._refuse(self.is_away or self.is_full)
        await super().upsert(table, values)

    async def read(self, work: Callable[[Connection], T]) -> T:
        await self._refuse(self.is_away)
        return await super().read(work)

    async def _refuse(self, refuses: bool) -> None:
        if refuses:
            await asyncio.sleep(REFUSAL_S)
            raise DatabaseException("There is no connection." if self.is_away else "The disk is full.")


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


async def test_while_the_database_is_away_ends_are_kept_in_mind_and_who_is_no_task_is_told(
    database: Shaky,
) -> None:
    budgets = BudgetStore(database)
    calls = PatientCallStore(database, budgets)
    await budgets.set(parsed_budget("b", 100, now=time.time()))
    of_task, other, refused = new_call(task_id="t"), new_call(), new_call()
    for call in (of_task, other):
        await calls.hold_call(call, most_tokens=50)
    database.is_away = True
    await calls.close_call(ended(of_task))
    for call in (refused, other):
        with pytest.raises(DatabaseException, match="no connection"):
            await calls.close_call(ended(call))
    database.is_away = False

    async def are_closed() -> bool:
        return all(call.ended_at is not None for call in await calls.calls())

    await until(are_closed)
    assert {call.id for call in await calls.calls()} == {of_task.id, other.id}
    (standing,) = await budgets.standings(time.time())
    assert (standing.used_tokens, standing.reserved_tokens) == (14, 0)
    await calls.stop()


@pytest.mark.parametrize("task_id", [None, "t"])
async def test_an_end_that_a_full_disk_refuses_is_written_when_there_is_space(
    database: Shaky, task_id: str | None
) -> None:
    budgets = BudgetStore(database)
    calls = PatientCallStore(database, budgets)
    await budgets.set(parsed_budget("b", 100, now=time.time()))
    call = new_call(task_id)
    await calls.hold_call(call, most_tokens=50)
    database.is_full = True
    with pytest.raises(DatabaseException, match="full"):
        await calls.close_call(ended(call))
    await asyncio.sleep(4 * REFUSAL_S)  # it has been tried again
    database.is_full = False
    await until(lambda: is_closed(calls, call))
    (standing,) = await budgets.standings(time.time())
    assert (standing.used_tokens, standing.reserved_tokens) == (7, 0)
    await calls.stop()


async def test_an_end_in_an_outage_is_written_though_nobody_waits_for_it(database: Shaky) -> None:
    calls = PatientCallStore(database)
    call = new_call()
    await calls.open_call(call)
    database.is_away = True
    closing = asyncio.create_task(calls.close_call(ended(call)))
    await asyncio.sleep(REFUSAL_S / 5)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await asyncio.sleep(4 * REFUSAL_S)
    database.is_away = False
    await until(lambda: is_closed(calls, call))
    await calls.stop()


async def is_closed(calls: CallStore, call: ModelCall) -> bool:
    (found,) = [each for each in await calls.calls() if each.id == call.id]
    return found.ended_at is not None


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
