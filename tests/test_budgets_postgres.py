"""The same budgets on PostgreSQL, where several hosts call at once."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from test_budgets import NOON, ended, killed_while_it_holds, never_overshot, new_budget, new_call, only, store_of

from tale.exceptions import BudgetException
from tale.storage.call_store import CallStore
from tale.storage.database import Database

pytestmark = pytest.mark.postgres


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    database = Database.open(postgres_url)
    yield database
    await database.close()


async def test_fifty_parallel_callers_on_two_hosts_never_overshoot(database: Database, postgres_url: str) -> None:
    await never_overshot(database, postgres_url)


async def test_callers_whose_budgets_cross_do_not_lock_each_other_out(database: Database, postgres_url: str) -> None:
    other = Database.open(postgres_url)
    budgets = [store_of(each) for each in (database, other)]
    for name in ("a", "b"):
        await budgets[0].set(new_budget(10_000, scope="model", name=name))
        await budgets[0].set(new_budget(10_000, scope="key", name=name))
    calls = [CallStore(each, store) for each, store in zip((database, other), budgets, strict=True)]

    async def call_once(number: int) -> None:
        names = ("a", "b") if number % 3 else ("b", "a")
        call = new_call(model=names[0], key_name=names[1])
        await calls[number % 2].hold_call(call, most_tokens=10)
        await calls[(number + 1) % 2].close_call(ended(call, 10))

    await asyncio.gather(*(call_once(number) for number in range(60)))
    standings = await budgets[1].standings(NOON)
    assert [each.used_tokens for each in standings] == [400, 200, 200, 400]
    assert {each.reserved_tokens for each in standings} == {0}
    await other.close()


async def test_what_a_killed_process_held_counts_as_used_after_its_home_s_next_start(
    database: Database, postgres_url: str
) -> None:
    budgets = store_of(database)
    await budgets.set(new_budget(500))
    await killed_while_it_holds(postgres_url, "here")
    with pytest.raises(BudgetException, match="300 are held by calls under way"):
        await CallStore(database, budgets).hold_call(new_call(), most_tokens=300)
    await CallStore(database, budgets).close_orphans(NOON + 5, owner="")
    standing = await only(budgets)
    assert (standing.reserved_tokens, standing.assumed_tokens) == (0, 300)
