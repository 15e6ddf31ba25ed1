"""The ledger of the budgets: tokens held and used, as SQL inside the transactions that write the calls.

Whoever changes it holds its lock: SQLite has locked the file for the transaction, PostgreSQL locks by a number. So what
was looked at is still true when it is changed, and no limit is overshot however many processes and hosts call at once.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy import text as sql

from tale.exceptions import BudgetException
from tale.records import ModelCall
from tale.storage.budgets import (
    EMBED,
    LONGEST_CALL_S,
    PROCESS_DIED,
    WHOLE_PERCENT,
    Alert,
    Budget,
    Standing,
    is_unreported,
    known_tokens,
    refusal,
)
from tale.storage.rows import insert_into
from tale.storage.tables import alerts, budget_periods, budget_reservations, budgets, model_calls

LEDGER_LOCK: Final = 0x7A1E_B4

FIGURES: Final = ("reported_tokens", "assumed_tokens", "reserved_tokens", "unreported")

# Made once, as each call runs them.
_IS_PERIOD: Final = (
    budget_periods.c.budget_id == bindparam("of_budget"),
    budget_periods.c.starts_at == bindparam("of_start"),
)
_BUDGETS: Final = select(budgets).order_by(budgets.c.created_at, budgets.c.id)
_PERIOD: Final = select(*(budget_periods.c[name] for name in FIGURES)).where(*_IS_PERIOD)
_ADD: Final = (
    update(budget_periods)
    .where(*_IS_PERIOD)
    .values({budget_periods.c[name]: budget_periods.c[name] + bindparam(f"more_{name}") for name in FIGURES})
)
_OF_CALL: Final = budget_reservations.c.call_id == bindparam("of_call")
_HELD: Final = select(
    budget_reservations.c.budget_id, budget_reservations.c.starts_at, budget_reservations.c.tokens
).where(_OF_CALL)
_LET_GO: Final = delete(budget_reservations).where(_OF_CALL)
_RESERVE: Final = insert(budget_reservations)

Held = dict[tuple[str, float], int]
"""Tokens that are held, by the budget's id and the start of its period."""

Spans = Mapping[Budget, tuple[float, float]]
"""The period of each budget: its beginning, and its end, which belongs to the next."""


def budgets_in(connection: Connection) -> list[Budget]:
    """All budgets, in the order in which they were made."""
    return [Budget(*row) for row in connection.execute(_BUDGETS)]


def lock(connection: Connection) -> None:
    """Have the ledger for this transaction alone."""
    if connection.dialect.name == "postgresql":
        connection.execute(sql("SELECT pg_advisory_xact_lock(:key)"), {"key": LEDGER_LOCK})


def hold(
    connection: Connection, known: Sequence[Budget], call: ModelCall, tokens: int, *, owner: str
) -> int | BudgetException:
    """Hold so many tokens of each hard budget that covers a call that begins, in place of what it held before.

    Returns of how many budgets; or, with nothing changed but that, the refusal.
    """
    for (budget_id, starts_at), tokens_held in _let_go(connection, call.id).items():
        _add(connection, budget_id, starts_at, reserved_tokens=-tokens_held)
    covering = [budget for budget in known if budget.kind == "hard" and budget.counts(call)]
    for budget in covering:
        standing = standing_of(connection, budget, call.started_at)
        if standing.left_tokens < tokens and _released_of(connection, call.started_at - LONGEST_CALL_S):
            standing = standing_of(connection, budget, call.started_at)
        if standing.left_tokens < tokens:
            return refusal(standing, tokens, now=call.started_at)
    for budget in covering:
        starts_at, _ = budget.span(call.started_at)
        _add(connection, budget.id, starts_at, reserved_tokens=tokens)
        values: dict[str, Any] = {"call_id": call.id, "budget_id": budget.id, "starts_at": starts_at, "tokens": tokens}
        connection.execute(_RESERVE, {**values, "owner": owner, "made_at": call.started_at})
    return len(covering)


def settle(connection: Connection, known: Sequence[Budget], call: ModelCall) -> list[Alert]:
    """Count a call that ends, whose row still is open: what its engine reported, and what it held no more.

    Where not all was reported, what the call held is assumed to be used up. Returns the alerts that this raises.
    """
    held = _let_go(connection, call.id)
    raised: list[Alert] = []
    told, lacks = known_tokens(call), is_unreported(call)
    for budget in known if told or lacks else ():
        if budget.counts(call):
            before = standing_of(connection, budget, call.started_at)
            most = held.pop((budget.id, before.starts_at), 0)
            assumed = max(0, most - told) if lacks else 0
            added = {"reported_tokens": told, "assumed_tokens": assumed, "unreported": int(lacks)}
            _add(connection, budget.id, before.starts_at, reserved_tokens=-most, **added)
            reported_tokens, assumed_tokens = before.reported_tokens + told, before.assumed_tokens + assumed
            after = replace(before, reported_tokens=reported_tokens, assumed_tokens=assumed_tokens)
            raised += _alerts_between(connection, before, after, now=call.ended_at or call.started_at)
    for (budget_id, starts_at), tokens in held.items():
        _add(connection, budget_id, starts_at, reserved_tokens=-tokens)
    if call.error_class == BudgetException.__name__:
        raised += _refused(connection, known, call)
    return raised


def release_dead(connection: Connection, owner: str, *, now: float) -> None:
    """End what the dead processes of an owner held: it is assumed to be used, as nobody knows how much was."""
    _released_of(connection, now - LONGEST_CALL_S, owner)


def standing_of(connection: Connection, budget: Budget, at: float) -> Standing:
    """How a budget stands in the period around `at`, which is begun if need be: with what calls on record have used."""
    starts_at, resets_at = budget.span(at)
    row = connection.execute(_PERIOD, {"of_budget": budget.id, "of_start": starts_at}).first()
    if row is not None:
        return Standing(budget, starts_at, resets_at, *row)
    told, unreported = counted(connection, budget, starts_at, resets_at)
    begun = Standing(budget, starts_at, resets_at, reported_tokens=told, unreported=unreported)
    values = {"reported_tokens": told, "assumed_tokens": 0, "reserved_tokens": 0, "unreported": unreported}
    connection.execute(insert(budget_periods), {"budget_id": budget.id, "starts_at": starts_at, **values})
    return begun


def begin(connection: Connection, known: Sequence[Budget], at: float, *, begun: Spans) -> Spans:
    """Begin the periods around `at` of all budgets, also of those that count no call yet; `begun` are begun already.

    At the first call of a period there is next to nothing to sum up; at the first that a budget counts there may be a
    month of other calls to look through.
    """
    spans: dict[Budget, tuple[float, float]] = {}
    for budget in known:
        starts_at, resets_at = begun.get(budget, (at, at))
        if not starts_at <= at < resets_at:
            standing = standing_of(connection, budget, at)
            starts_at, resets_at = standing.starts_at, standing.resets_at
        spans[budget] = starts_at, resets_at
    return spans


def look_at(connection: Connection, budget: Budget, at: float) -> Standing:
    """The same, with nothing written: on a connection that may only read."""
    starts_at, resets_at = budget.span(at)
    row = connection.execute(_PERIOD, {"of_budget": budget.id, "of_start": starts_at}).first()
    if row is not None:
        return Standing(budget, starts_at, resets_at, *row)
    told, unreported = counted(connection, budget, starts_at, resets_at)
    return Standing(budget, starts_at, resets_at, reported_tokens=told, unreported=unreported)


def counted(connection: Connection, budget: Budget, since: float, until: float) -> tuple[int, int]:
    """What ended calls on record, begun in [since, until), have used of a budget; and how many did not report all."""
    call = model_calls.c
    was_asked = or_(call.queue_s.is_not(None), call.error_class == PROCESS_DIED)
    lacks = or_(call.input_tokens.is_(None), and_(call.output_tokens.is_(None), call.operation != EMBED))
    tokens = func.coalesce(call.input_tokens, 0) + func.coalesce(call.output_tokens, 0)
    limits: list[ColumnElement[bool]] = [call.started_at >= since, call.started_at < until, call.ended_at.is_not(None)]
    if budget.scope != "all":
        limits.append(call["model" if budget.scope == "model" else "key_name"] == budget.name)
    statement = select(func.coalesce(func.sum(tokens), 0), func.count().filter(was_asked, lacks)).where(*limits)
    told, unreported = connection.execute(statement).one()
    return int(told), int(unreported)


def recount(connection: Connection, budget: Budget, *, now: float) -> list[Alert]:
    """Set what a budget's calls reported in the period that runs to what is on record; returns the alerts it raises."""
    standing = standing_of(connection, budget, now)
    told, unreported = counted(connection, budget, standing.starts_at, standing.resets_at)
    values = {"reported_tokens": told, "unreported": unreported}
    of_period = {"of_budget": budget.id, "of_start": standing.starts_at}
    connection.execute(update(budget_periods).where(*_IS_PERIOD).values(**values), of_period)
    return raised_by(connection, replace(standing, reported_tokens=told), now=now)


def raised_by(connection: Connection, standing: Standing, *, now: float) -> list[Alert]:
    """The alerts for all thresholds that a budget has reached and that have not been told in this period."""
    return [
        alert
        for percent in _thresholds(standing.budget)
        if standing.reaches(percent) and (alert := _raised(connection, standing, percent, now=now))
    ]


def _alerts_between(connection: Connection, before: Standing, after: Standing, *, now: float) -> list[Alert]:
    crossed = [
        percent for percent in _thresholds(after.budget) if after.reaches(percent) and not before.reaches(percent)
    ]
    return [alert for percent in crossed if (alert := _raised(connection, after, percent, now=now))]


def _refused(connection: Connection, known: Sequence[Budget], call: ModelCall) -> list[Alert]:
    """The alert that a nearly used-up budget now refuses calls, once a period."""
    standings = [
        standing_of(connection, budget, call.started_at)
        for budget in known
        if budget.kind == "hard" and budget.counts(call)
    ]
    refusing = min(standings, key=lambda standing: standing.left_tokens, default=None)
    if refusing is None or not refusing.reaches(refusing.budget.alert_percent):
        return []
    alert = _raised(connection, refusing, WHOLE_PERCENT, now=call.started_at)
    return [alert] if alert else []


def _thresholds(budget: Budget) -> list[int]:
    return sorted({budget.alert_percent, WHOLE_PERCENT})


def _raised(connection: Connection, standing: Standing, percent: int, *, now: float) -> Alert | None:
    budget = standing.budget
    alert = Alert(
        id=str(uuid.uuid4()),
        created_at=now,
        budget_id=budget.id,
        scope=budget.scope,
        name=budget.name,
        period=budget.period,
        kind=budget.kind,
        starts_at=standing.starts_at,
        resets_at=standing.resets_at,
        percent=percent,
        used_tokens=standing.used_tokens,
        limit_tokens=budget.limit_tokens,
    )
    values = {column.name: getattr(alert, column.name) for column in alerts.columns}
    told = connection.execute(insert_into(connection, alerts).on_conflict_do_nothing(), values)
    return alert if told.rowcount else None


def _let_go(connection: Connection, call_id: str) -> Held:
    """End what a call holds, but for the figures of the periods; returns it."""
    of_call = {"of_call": call_id}
    held: Held = {(row.budget_id, row.starts_at): row.tokens for row in connection.execute(_HELD, of_call)}
    if held:
        connection.execute(_LET_GO, of_call)
    return held


def _released_of(connection: Connection, before: float, owner: str | None = None) -> bool:
    """End what was held by dead processes, as if it were used up; whether there was anything."""
    is_dead: ColumnElement[bool] = budget_reservations.c.made_at < before
    if owner is not None:
        is_dead = or_(is_dead, budget_reservations.c.owner == owner)
    rows = connection.execute(select(budget_reservations).where(is_dead)).mappings().all()
    for row in rows:
        tokens: int = row["tokens"]
        _add(
            connection,
            row["budget_id"],
            row["starts_at"],
            reserved_tokens=-tokens,
            assumed_tokens=tokens,
            unreported=1,
        )
    if rows:
        connection.execute(delete(budget_reservations).where(is_dead))
    return bool(rows)


def _add(connection: Connection, budget_id: str, starts_at: float, **amounts: int) -> None:
    more = {f"more_{name}": amounts.get(name, 0) for name in FIGURES}
    connection.execute(_ADD, {"of_budget": budget_id, "of_start": starts_at, **more})
