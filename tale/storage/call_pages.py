"""Pages through the calls, newest first: what a filter leaves is found by the rollups, however rare it is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Integer, Select, TextClause, and_, bindparam, select, text, tuple_

from tale.storage.rollup_rows import MINUTE_S
from tale.storage.rollups import pruned_before, stragglers, watermark_of
from tale.storage.tables import model_calls, rollup_minute
from tale.storage.usage import CANCELLED

CALL_COLUMNS: Final = tuple(model_calls.c.keys())
NAMES: Final = ("model", "role", "operation")
HELD: Final = 100  # minutes of rollups read at a time

Outcome = Literal["completed", "failed", "cancelled", "running"]
Kind = Literal["load", "fallback"]
Place = tuple[float, str]  # started_at and id of a call


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls are meant; all limits hold together. Times are Unix seconds, of calls begun in [since, until).

    `kind` load: those that waited for a model to be loaded; fallback: those that another model answered than the one
    asked. `before` is the id of the last call of the page before.
    """

    since: float = 0.0
    until: float | None = None
    model: str | None = None
    role: str | None = None
    operation: str | None = None
    outcome: Outcome | None = None
    kind: Kind | None = None
    task_id: str | None = None
    conversation_id: str | None = None
    slower_than_s: float | None = None
    before: str | None = None
    limit: int = 50


def call_page(connection: Connection, wanted: CallFilter) -> list[tuple[Any, ...]]:
    """The newest calls that fulfil the filter, with the columns CALL_COLUMNS."""
    began = connection.scalar(select(model_calls.c.started_at).where(model_calls.c.id == wanted.before))
    before = None if began is None or wanted.before is None else (began, wanted.before)
    if _needs_search(wanted):
        return _searched(connection, wanted, before)
    until = math.inf if wanted.until is None else wanted.until
    return _between(connection, _statement(wanted, before), wanted.since, until, wanted.limit)


def _needs_search(wanted: CallFilter) -> bool:
    """Whether the calls may lie far apart, and no index of their own leads to them."""
    if wanted.task_id or wanted.conversation_id or wanted.outcome == "running":
        return False
    return bool(wanted.model or wanted.role or wanted.operation or wanted.outcome or wanted.kind)


def _statement(wanted: CallFilter, before: Place | None) -> Select[Any]:
    """The newest `most` calls of [begin, end): parameters, as a search runs it for many minutes."""
    call = model_calls.c
    limits = [call.started_at >= bindparam("begin"), call.started_at < bindparam("end"), *_limits(wanted)]
    if before is not None:
        limits.append(tuple_(call.started_at, call.id) < before)
    newest = select(model_calls).where(*limits).order_by(call.started_at.desc(), call.id.desc())
    return newest.limit(bindparam("most", type_=Integer()))


def _between(
    connection: Connection, statement: Select[Any], begin: float, end: float, most: int
) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(statement, {"begin": begin, "end": end, "most": most})]


def _searched(connection: Connection, wanted: CallFilter, before: Place | None) -> list[tuple[Any, ...]]:
    """Minute by minute, in those only that have such calls; what a prune has left of older ones, at once."""
    rows: list[tuple[Any, ...]] = []
    edge, statement = watermark_of(connection) or 0, _statement(wanted, before)
    whole = min(pruned_before(connection), edge)  # the rollups from here on are of calls that are there
    until = math.inf if wanted.until is None else wanted.until
    first = min(until, before[0]) if before else until
    if first >= edge * MINUTE_S:
        rows += _between(connection, statement, max(wanted.since, edge * MINUTE_S), until, wanted.limit)
    for minute in _minutes(connection, wanted, range(whole, edge), first):
        if len(rows) >= wanted.limit:
            return rows
        begin, end = max(wanted.since, minute * MINUTE_S), min(until, (minute + 1) * MINUTE_S)
        rows += _between(connection, statement, begin, end, wanted.limit - len(rows))
    return rows + _between(connection, statement, wanted.since, min(until, whole * MINUTE_S), wanted.limit - len(rows))


def _minutes(connection: Connection, wanted: CallFilter, rolled_up: range, first: float) -> Iterator[int]:
    """The minutes that are rolled up in which such calls may be, the latest first."""
    begin = max(int(wanted.since // MINUTE_S), rolled_up.start)
    end = int(min(rolled_up.stop - 1, first // MINUTE_S))
    call = model_calls.c
    late = [*connection.scalars(select(call.started_at).where(stragglers(rolled_up.stop * MINUTE_S)))]
    if wanted.outcome is None:
        late += connection.scalars(select(call.started_at).where(call.ended_at.is_(None)))
    strays = sorted({minute for at in late if begin <= (minute := int(at // MINUTE_S)) <= end}, reverse=True)
    both = merge(_rolled_up(connection, wanted, begin, end), strays, reverse=True)
    return (minute for minute, _ in groupby(both))


def _rolled_up(connection: Connection, wanted: CallFilter, begin: int, end: int) -> Iterator[int]:
    sums = rollup_minute.c
    limits: list[ColumnElement[bool] | TextClause] = []
    limits += [sums[name] == value for name in NAMES if (value := getattr(wanted, name)) is not None]
    # In words, not with a parameter: so the index over the few minutes that have such calls is found.
    match wanted.outcome:
        case "completed":
            limits.append(sums.calls > sums.failed + sums.cancelled)
        case "failed" | "cancelled":
            limits.append(text(f"{wanted.outcome} > 0"))
        case _:
            pass
    if wanted.kind is not None:
        limits.append(text("load_s > 0" if wanted.kind == "load" else "fallbacks > 0"))
    while True:
        within = and_(sums.minute >= begin, sums.minute <= end, *limits)
        found = connection.scalars(
            select(sums.minute).where(within).distinct().order_by(sums.minute.desc()).limit(HELD)
        ).all()
        yield from found
        if len(found) < HELD:
            return
        end = found[-1] - 1


def _limits(wanted: CallFilter) -> list[ColumnElement[bool]]:
    call = model_calls.c
    limits: list[ColumnElement[bool]] = []
    named = (*NAMES, "task_id", "conversation_id")
    limits += [call[name] == value for name in named if (value := getattr(wanted, name)) is not None]
    if wanted.slower_than_s is not None:
        limits.append(call.total_s >= wanted.slower_than_s)
    if wanted.kind is not None:
        is_fallback = and_(call.requested_model.is_not(None), call.requested_model != call.model)
        limits.append(call.load_s > 0 if wanted.kind == "load" else is_fallback)
    return [*limits, *_of_outcome(wanted.outcome)]


def _of_outcome(outcome: Outcome | None) -> list[ColumnElement[bool]]:
    call = model_calls.c
    match outcome:
        case "completed":
            return [call.ended_at.is_not(None), call.error_class.is_(None)]
        case "failed":
            return [call.error_class.is_not(None), call.error_class != CANCELLED]
        case "cancelled":
            return [call.error_class == CANCELLED]
        case "running":
            return [call.ended_at.is_(None)]
        case None:
            return []
