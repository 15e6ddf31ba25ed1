"""Budgets hold to the token: periods begin when they should, and no limit is overshot, whoever calls at once."""

import asyncio
import itertools
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tale.exceptions import BudgetException, ValidationException
from tale.records import ModelCall
from tale.storage.budget_store import BudgetStore
from tale.storage.budgets import Alert, Budget, Standing, parsed_budget
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.tables import budget_periods

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 11, 25, tzinfo=UTC).timestamp()
NUMBERS = itertools.count()
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "America/Santiago", "Pacific/Apia"]


class Pauses:
    """Stands for waiting."""

    def __init__(self) -> None:
        self.lengths_s: list[float] = []

    async def __call__(self, length_s: float) -> None:
        self.lengths_s.append(length_s)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'tale.db'}"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database.open(url)
    yield database
    await database.close()


def store_of(database: Database, **options: Any) -> BudgetStore:
    return BudgetStore(database, **{"owner": "here", "pause": Pauses(), **options})


def new_budget(limit_tokens: int = 1_000, **options: Any) -> Budget:
    return parsed_budget(f"{next(NUMBERS):08}", limit_tokens, **{"now": NOON, **options})


def new_call(at: float = NOON, **values: Any) -> ModelCall:
    return ModelCall(str(uuid.uuid4()), at, "task", "execute", **{"model": "m", "provider": "p", **values})


def ended(call: ModelCall, tokens: int | None, **values: Any) -> ModelCall:
    told = {"input_tokens": tokens, "output_tokens": None if tokens is None else 0}
    return replace(call, **{"ended_at": call.started_at + 1.0, "queue_s": 0.0, **told, **values})


async def only(budgets: BudgetStore, now: float = NOON) -> Standing:
    (standing,) = await budgets.standings(now)
    return standing


async def test_a_call_holds_what_it_may_use_and_counts_what_it_used(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    await budgets.set(new_budget(1_000))
    call = new_call()
    assert await calls.hold_call(call, most_tokens=600)
    standing = await only(budgets)
    assert (standing.used_tokens, standing.reserved_tokens, standing.left_tokens) == (0, 600, 400)
    await calls.close_call(replace(ended(call, 100), output_tokens=50))
    standing = await only(budgets)
    assert (standing.used_tokens, standing.reserved_tokens, standing.left_tokens) == (150, 0, 850)


async def test_a_refusal_says_which_budget_how_much_is_used_and_when_it_is_reset(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    budget = await budgets.set(new_budget(1_000, scope="key", name="ci"))
    first = new_call(key_name="ci")
    await calls.hold_call(first, most_tokens=300)
    await calls.close_call(ended(first, 300))
    await calls.hold_call(new_call(key_name="ci"), most_tokens=500)
    with pytest.raises(BudgetException) as caught:
        await calls.hold_call(new_call(key_name="ci"), most_tokens=201)
    assert caught.value.message == (
        "The hard budget of 1,000 tokens a day for key 'ci' has no room for a call of up to 201 tokens: "
        "300 of 1,000 are used, 500 are held by calls under way; it is reset at 2026-11-25 00:00 UTC."
    )
    assert caught.value.context["budget"] == budget.id
    assert caught.value.context["retry_after_s"] == 12 * 3_600
    assert await calls.hold_call(new_call(key_name="ci"), most_tokens=200)
    assert not await calls.hold_call(new_call(key_name="other"), most_tokens=10**9)


async def test_a_used_up_budget_refuses_before_any_call_and_lets_in_again_at_midnight(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    await budgets.set(new_budget(100))
    call = new_call()
    await calls.hold_call(call, most_tokens=100)
    assert await budgets.used_up(NOON) == []  # held is not used
    await calls.close_call(ended(call, 100))
    for at in (NOON, MIDNIGHT - 0.001):
        assert [each.used_tokens for each in await budgets.used_up(at)] == [100]
        with pytest.raises(BudgetException, match=r"is used up \(100 of 100\); it is reset at 2026-11-25 00:00 UTC"):
            await calls.hold_call(new_call(at), most_tokens=1)
    assert await budgets.used_up(MIDNIGHT) == []
    assert await calls.hold_call(new_call(MIDNIGHT), most_tokens=100)


async def test_a_call_over_midnight_counts_for_the_day_in_which_it_began(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    await budgets.set(new_budget(100))
    call = new_call(MIDNIGHT - 1.0)
    await calls.hold_call(call, most_tokens=100)
    await calls.close_call(ended(call, 70, ended_at=MIDNIGHT + 5.0))
    assert (await only(budgets, MIDNIGHT - 1.0)).used_tokens == 70
    assert (await only(budgets, MIDNIGHT + 6.0)).used_tokens == 0


async def test_every_budget_that_covers_a_call_counts_it_and_each_can_refuse_it(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    await budgets.set(new_budget(1_000))
    await budgets.set(new_budget(500, scope="model", name="m"))
    await budgets.set(new_budget(50, scope="model", name="other"))
    await budgets.set(new_budget(10, scope="key", name="ci", kind="soft"))
    call = new_call(key_name="ci")
    await calls.hold_call(call, most_tokens=500)
    with pytest.raises(BudgetException, match="for model 'm'"):
        await calls.hold_call(new_call(), most_tokens=1)
    assert [standing.reserved_tokens for standing in await budgets.standings(NOON)] == [500, 500, 0, 0]
    await calls.close_call(ended(call, 400))
    assert [standing.used_tokens for standing in await budgets.standings(NOON)] == [400, 400, 0, 400]


async def test_a_call_that_another_model_serves_is_held_of_that_model_s_budget(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    await budgets.set(new_budget(500, scope="model", name="large"))
    await budgets.set(new_budget(300, scope="model", name="small"))
    call = new_call(model="large")
    await calls.hold_call(call, most_tokens=250)
    served = replace(call, model="small")
    await calls.hold_call(served, most_tokens=250)
    assert [standing.reserved_tokens for standing in await budgets.standings(NOON)] == [0, 250]
    await calls.close_call(ended(served, 80))
    assert [(each.reserved_tokens, each.used_tokens) for each in await budgets.standings(NOON)] == [(0, 0), (0, 80)]


async def test_the_first_call_of_a_month_begins_it_for_budgets_that_count_none_of_its_calls(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    idle = await budgets.set(new_budget(1_000, scope="key", name="ci", period="month"))
    december = NOON + 7 * 86_400
    for key_name, tokens in (("desk", 10), ("desk", 20), ("ci", 30)):
        call = new_call(december, key_name=key_name)
        await calls.hold_call(call, most_tokens=100)
        begun = await database.read(lambda connection: connection.execute(select(budget_periods.c.starts_at)).all())
        assert sorted(begun) == [(idle.span(at)[0],) for at in (NOON, december)]
        await calls.close_call(ended(call, tokens))
    assert (await only(budgets, december)).used_tokens == 30


async def test_what_no_engine_reported_is_assumed_to_be_all_that_was_held(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    await budgets.set(new_budget(1_000))
    silent, cut, unasked = new_call(), new_call(), new_call()
    for call in (silent, cut, unasked):
        await calls.hold_call(call, most_tokens=100)
    await calls.close_call(ended(silent, None))
    await calls.close_call(replace(ended(cut, 30), output_tokens=None))
    await calls.close_call(ended(unasked, None, queue_s=None, error_class="Cancelled"))
    standing = await only(budgets)
    assert (standing.reported_tokens, standing.assumed_tokens) == (30, 170)
    assert (standing.reserved_tokens, standing.unreported) == (0, 2)


async def test_a_budget_made_in_the_middle_of_a_day_counts_what_is_on_record(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database)
    for at, tokens in ((NOON - 86_400, 7), (NOON - 60, 20), (NOON - 50, None)):
        await calls.close_call(ended(new_call(at), tokens))
    await calls.close_call(ended(new_call(NOON - 40, model="other"), 5))
    under_way = new_call(NOON - 30)
    await calls.open_call(under_way)
    await budgets.set(new_budget(100, scope="model", name="m"))
    standing = await only(budgets)
    assert (standing.used_tokens, standing.unreported) == (20, 1)
    await CallStore(database, budgets).close_call(ended(under_way, 3))
    assert (await only(budgets)).used_tokens == 23


async def test_calls_that_a_process_closed_before_it_knew_of_the_first_budget_are_counted(
    database: Database, url: str
) -> None:
    other = Database.open(url)
    theirs = BudgetStore(other, timer=lambda: 0.0)  # its look at the budgets never gets old
    late = new_call()
    await theirs.close_call(ended(new_call(), 10))
    assert not theirs.may_hold

    async def meanwhile(_: float) -> None:
        await CallStore(other, theirs).close_call(ended(late, 25))

    budgets = store_of(database, pause=meanwhile)
    await budgets.set(new_budget(100))
    assert (await only(budgets)).used_tokens == 35
    await other.close()


async def test_that_there_is_no_budget_is_looked_up_once_a_second(database: Database) -> None:
    now = 0.0
    budgets = BudgetStore(database, timer=lambda: now)
    assert budgets.may_hold
    assert await budgets.used_up(NOON) == []
    assert not budgets.may_hold
    now = 1.0
    assert budgets.may_hold


async def test_only_the_first_budget_has_to_settle(database: Database) -> None:
    pauses = Pauses()
    budgets = store_of(database, pause=pauses)
    for limit in (100, 200):
        await budgets.set(new_budget(limit, scope="model", name=str(limit)))
    await budgets.set(new_budget(300, scope="model", name="100"))
    assert pauses.lengths_s == [1.5]
    assert [each.budget.limit_tokens for each in await budgets.standings(NOON)] == [300, 200]


async def test_fifty_parallel_callers_in_two_processes_never_overshoot(database: Database, url: str) -> None:
    await never_overshot(database, url)


async def never_overshot(database: Database, url: str) -> None:
    """Fifty callers on two connections to one database: what is held and used stays within the limit at every look."""
    other = Database.open(url)
    stores = [store_of(each) for each in (database, other)]
    await stores[0].set(new_budget(2_000))
    refused = 0

    async def call_once(number: int) -> int:
        calls = CallStore(each := [database, other][number % 2], stores[number % 2])
        call = new_call(NOON + number)
        try:
            await calls.hold_call(call, most_tokens=100)
        except BudgetException:
            return 0
        standing = await only(store_of(each))
        assert standing.used_tokens + standing.reserved_tokens <= 2_000
        await calls.close_call(ended(call, used := 40 + number))
        return used

    for _ in range(3):
        used = await asyncio.gather(*(call_once(number) for number in range(50)))
        refused += used.count(0)
    standing = await only(stores[0])
    on_record = sum(call.input_tokens or 0 for call in await CallStore(database).calls(limit=500))
    assert standing.used_tokens == standing.reported_tokens == on_record <= 2_000
    assert (standing.reserved_tokens, refused > 0) == (0, True)
    await other.close()


HOLDER = """
import asyncio, os, sys
sys.path[:0] = {paths!r}
from test_budgets import new_call, store_of
from tale.storage.call_store import CallStore
from tale.storage.database import Database

async def hold():
    database = Database.open({url!r})
    await CallStore(database, store_of(database, owner={owner!r})).hold_call(new_call(), most_tokens=300)
    os.kill(os.getpid(), 9)

asyncio.run(hold())
"""


async def killed_while_it_holds(url: str, owner: str) -> None:
    script = HOLDER.format(url=url, owner=owner, paths=[str(Path(__file__).parent)])
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr


async def test_what_a_killed_process_held_counts_as_used_after_the_next_start(database: Database, url: str) -> None:
    budgets = store_of(database)
    await budgets.set(new_budget(1_000))
    for owner in ("here", "there"):
        await killed_while_it_holds(url, owner)
    assert (await only(budgets)).reserved_tokens == 600
    calls = CallStore(database, budgets)
    assert await calls.close_orphans(NOON + 5, owner="") == 2
    standing = await only(budgets)
    assert (standing.reserved_tokens, standing.assumed_tokens, standing.unreported) == (300, 300, 1)
    # The host named there never comes back; what it held is ended when it is needed.
    with pytest.raises(BudgetException):
        await calls.hold_call(new_call(NOON + 60), most_tokens=500)
    with pytest.raises(BudgetException):
        await calls.hold_call(new_call(NOON + 7_300), most_tokens=500)
    standing = await only(budgets)
    assert (standing.reserved_tokens, standing.assumed_tokens) == (0, 600)


async def test_alerts_are_raised_once_a_period_for_each_threshold(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Alert] = []
    budgets = store_of(database)
    budgets.listen(told.extend)
    calls = CallStore(database, budgets)
    await budgets.set(new_budget(100, kind="soft", alert_percent=50))
    for at, tokens in ((NOON, 49), (NOON, 1), (NOON, 30), (NOON, 60), (NOON, 60), (MIDNIGHT, 150)):
        await calls.close_call(ended(new_call(at), tokens))
    assert [(alert.percent, alert.used_tokens) for alert in told] == [(50, 50), (100, 140), (50, 150), (100, 150)]
    assert told[0].text == (
        "50 of 100 tokens a day for all calls are used (soft budget, 50 %); it is reset at 2026-11-25 00:00 UTC."
    )
    logged = [record for record in caplog.records if record.name == "tale.storage.budget_store"]
    assert [(each.levelname, each.message) for each in logged] == [
        ("WARNING", f"Budget: {alert.text}") for alert in told
    ]
    kept = await budgets.alerts(limit=10)
    assert {alert.id for alert in kept} == {alert.id for alert in told}
    assert await budgets.acknowledge(NOON) == 4
    assert await budgets.alerts(limit=10, unseen=True) == []


async def test_a_hard_budget_that_is_nearly_used_up_and_refuses_raises_its_last_alert(database: Database) -> None:
    told: list[Alert] = []
    budgets = store_of(database)
    budgets.listen(told.extend)
    calls = CallStore(database, budgets)
    await budgets.set(new_budget(100))
    await calls.close_call(ended(new_call(), None, queue_s=None, error_class="BudgetException"))
    assert told == []
    await calls.close_call(ended(new_call(), 90))
    for _ in range(2):
        await calls.close_call(ended(new_call(), None, queue_s=None, error_class="BudgetException"))
    assert [alert.percent for alert in told] == [80, 100]


async def test_a_limit_set_below_what_is_used_alerts_and_refuses_at_once(database: Database) -> None:
    told: list[Alert] = []
    budgets = store_of(database)
    budgets.listen(told.extend)
    await CallStore(database).close_call(ended(new_call(), 90))
    made = await budgets.set(new_budget(1_000))
    assert told == []
    assert (await budgets.set(new_budget(100))).id == made.id
    assert [alert.percent for alert in told] == [80]
    with pytest.raises(BudgetException):
        await CallStore(database, budgets).hold_call(new_call(), most_tokens=11)


async def test_a_budget_that_is_removed_holds_no_more_and_its_alerts_stay(database: Database) -> None:
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    made = await budgets.set(new_budget(10))
    call = new_call()
    await calls.hold_call(call, most_tokens=10)
    await calls.close_call(ended(call, 10))
    held = new_call(NOON + 86_400)
    await calls.hold_call(held, most_tokens=10)
    assert await budgets.remove(made.id) == made
    await calls.close_call(ended(held, 10))
    assert not await calls.hold_call(new_call(), most_tokens=10**6)
    assert await budgets.standings(NOON) == []
    assert len(await budgets.alerts(limit=10)) == 2
    with pytest.raises(ValidationException, match=f"No budget has the id '{made.id}'"):
        await budgets.remove(made.id)


async def test_without_budgets_rows_go_the_quick_way_between_two_looks(database: Database) -> None:
    now = [0.0]
    budgets = store_of(database, timer=lambda: now[0])
    assert budgets.may_hold
    await budgets.release_dead(NOON)
    assert not budgets.may_hold
    now[0] = 1.0
    assert budgets.may_hold
