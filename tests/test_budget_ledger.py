"""What budgets can be, when their periods begin, and a ledger that says what a plain model of it says."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_budgets import MIDNIGHT, ended, new_budget, new_call, store_of

from tale.exceptions import BudgetException, ValidationException
from tale.records import ModelCall
from tale.storage.call_store import CallStore
from tale.storage.database import Database

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "America/Santiago", "Pacific/Apia"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"limit_tokens": 0}, "must have from 1 to"),
        ({"alert_percent": 0}, "percentage"),
        ({"alert_percent": 101}, "percentage"),
        ({"name": "m"}, "has no name"),
        ({"scope": "key"}, "Name the key"),
        ({"scope": "model", "name": "a\nb"}, "Name the model"),
        ({"zone": "Mars/Base"}, "is no time zone"),
        ({"zone": "../etc/passwd"}, "is no time zone"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationException, match=complaint):
        new_budget(**options)


@given(st.floats(0.0, 4e9), st.sampled_from(["day", "week", "month"]), st.sampled_from(ZONES))
def test_every_moment_lies_in_one_period_and_the_next_begins_where_it_ends(at: float, period: Any, zone: str) -> None:
    budget = new_budget(period=period, zone=zone)
    starts_at, resets_at = budget.span(at)
    assert starts_at <= at < resets_at
    assert budget.span(starts_at) == (starts_at, resets_at)
    assert budget.span(resets_at)[0] == resets_at


def test_a_day_of_a_time_zone_with_summer_time_has_23_or_25_hours() -> None:
    berlin = new_budget(zone="Europe/Berlin")
    for day, hours in (((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 11, 24), 24)):
        starts_at, resets_at = berlin.span(datetime(*day, 12, tzinfo=UTC).timestamp())
        assert (resets_at - starts_at) / 3_600 == hours


class Model:
    """What the ledger of three budgets has to say, worked out anew from all that was done."""

    def __init__(self) -> None:
        self.limits = {"": 1_000, "m": 600, "n": 300}
        self.under_way: dict[str, tuple[ModelCall, int]] = {}
        self.used: list[tuple[ModelCall, int]] = []

    def figures(self, name: str, at: float) -> tuple[int, int]:
        """Tokens used and held of the budget of that name, in the period that began with `at`."""
        held = self.under_way.values()
        return _sum_of(self.used, name, at), _sum_of(held, name, at)

    def fits(self, call: ModelCall, tokens: int) -> bool:
        return all(sum(self.figures(name, call.started_at)) + tokens <= self.limits[name] for name in ("", call.model))


def _sum_of(calls: Iterable[tuple[ModelCall, int]], name: str, at: float) -> int:
    return sum(tokens for call, tokens in calls if name in ("", call.model) and call.started_at == at)


async def step_taken(model: Model, calls: CallStore, step: str, tokens: int, call: ModelCall) -> None:
    if step == "open":
        fits = model.fits(call, tokens)
        try:
            assert await calls.hold_call(call, most_tokens=tokens) == fits
            model.under_way[call.id] = (call, tokens)
        except BudgetException:
            assert not fits
    elif step == "die":
        await calls.close_orphans(MIDNIGHT + 2, owner="")
        model.used += model.under_way.values()
        model.under_way.clear()
    elif model.under_way:
        begun, most = model.under_way.pop(min(model.under_way))
        spent = most if step == "silent" else min(tokens, most)
        await calls.close_call(ended(begun, None if step == "silent" else spent))
        model.used.append((begun, spent))


steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "open", "close", "silent", "die"]),
        st.integers(0, 400),
        st.sampled_from(["m", "n"]),
        st.sampled_from([MIDNIGHT - 1, MIDNIGHT + 1]),
    ),
    max_size=25,
)


@settings(max_examples=20)
@given(steps)
async def test_the_ledger_says_what_a_model_of_it_says(steps: list[tuple[str, int, str, float]]) -> None:
    database = Database.open("sqlite://")
    budgets = store_of(database)
    calls = CallStore(database, budgets)
    model = Model()
    for name, limit in model.limits.items():
        await budgets.set(new_budget(limit, scope="model" if name else "all", name=name))
    for step, tokens, served_by, at in steps:
        await step_taken(model, calls, step, tokens, new_call(at, model=served_by))
        for when in (MIDNIGHT - 1, MIDNIGHT + 1):
            for standing in await budgets.standings(when):
                name = standing.budget.name
                assert (standing.used_tokens, standing.reserved_tokens) == model.figures(name, when)
                assert standing.used_tokens + standing.reserved_tokens <= model.limits[name]
    await database.close()
