"""Keeps one row for every model call and every MCP request, and sums them up."""

from collections.abc import Awaitable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, or_, select, update

from tale.records import ACKNOWLEDGE, McpCall, ModelCall, TokenTotals
from tale.storage.budget_store import BudgetStore
from tale.storage.budgets import LONGEST_CALL_S, PROCESS_DIED
from tale.storage.database import Database
from tale.storage.rows import record_of, values_of
from tale.storage.tables import mcp_calls, model_calls

TOKENS: Final = ("input_tokens", "output_tokens", "cached_tokens")
TIMES: Final = ("queue_s", "load_s", "prefill_s", "decode_s")


class CallStore:
    """Calls in the database. Every change is durable on return; all raise DatabaseException when it fails.

    With `budgets`, calls are held and counted in the transactions that write their rows, as long as there are any.
    """

    def __init__(self, database: Database, budgets: BudgetStore | None = None) -> None:
        self._database = database
        self._budgets = budgets

    @property
    def may_refuse(self) -> bool:
        """Whether there may be a budget for which a call has to be held before its engine is asked."""
        return self._budgets is not None and self._budgets.may_hold

    def open_call(self, call: ModelCall) -> Awaitable[None]:
        """Keep a call that begins, and that no budget can refuse; handed to the database on return."""
        return self._database.insert(model_calls, values_of(call))

    async def hold_call(self, call: ModelCall, *, most_tokens: int) -> bool:
        """Keep a call that begins, with so many tokens held of the hard budgets that cover it.

        Returns whether there is such a budget; raises BudgetException when one has not so much left. A call that is
        held may be held anew, for another model or with other tokens.
        """
        if self._budgets is None:
            await self.open_call(call)
            return False
        return await self._budgets.open_call(call, most_tokens)

    async def close_call(self, call: ModelCall) -> None:
        """Keep a call that has ended, in place of its open row where there is one."""
        await self._end_handed_over(call)

    def record_mcp(self, call: McpCall) -> Awaitable[None]:
        """Keep an answered MCP request; handed to the database on return."""
        return self._database.insert(mcp_calls, values_of(call))

    async def totals(
        self,
        *,
        task_id: str | None = None,
        conversation_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> TokenTotals:
        """Sums over the calls of a task, a conversation, and those begun in [since, until); all limits together.

        A sum is None where no engine reported the figure. Acknowledgements count as calls and with their tokens, but
        not in the times: they run beside the work. The time to first token is that of the first call that produced one.
        """
        if task_id is not None and (conversation_id, since, until) == (None, None, None):
            return (await self.totals_of_tasks([task_id]))[task_id]
        wanted = _limits(task_id, conversation_id, since, until)
        call = model_calls.c
        work = call.operation != ACKNOWLEDGE
        sums = select(*_sums()).where(*wanted)
        first = (
            select(call.time_to_first_token_s)
            .where(*wanted, work, call.time_to_first_token_s.is_not(None))
            .order_by(call.started_at, call.id)
            .limit(1)
        )

        def summed(connection: Connection) -> TokenTotals:
            return _totals([*connection.execute(sums).one(), connection.scalar(first)])

        return await self._database.read(summed)

    async def totals_of_tasks(self, task_ids: Sequence[str]) -> dict[str, TokenTotals]:
        """The same sums for each of these tasks."""

        def summed(connection: Connection) -> dict[str, TokenTotals]:
            rows = connection.execute(OF_TASKS, {"ids": task_ids})
            return {task_id: _totals(found) for task_id, *found in rows}

        found = await self._database.read(summed)
        return {task_id: found.get(task_id) or TokenTotals(calls=0) for task_id in task_ids}

    async def calls(self, *, task_id: str | None = None, limit: int = 100) -> list[ModelCall]:
        """The latest `limit` model calls, of one task or of all, newest first."""
        statement = (
            select(model_calls)
            .where(*_limits(task_id))
            .order_by(model_calls.c.started_at.desc(), model_calls.c.id.desc())
            .limit(limit)
        )
        return await self._database.read(
            lambda connection: [record_of(row, ModelCall) for row in connection.execute(statement).mappings()]
        )

    async def close_orphans(self, now: float, *, owner: str) -> int:
        """Close the rows that dead processes left open, with the error class ProcessDied; returns how many.

        The calls of `owner`, a host and home, are of dead processes, and so are those that began longer ago than any
        call takes; other hosts on the same database may be at work. What they held of budgets counts as used, as nobody
        knows how much was.
        """
        if self._budgets is not None:
            await self._budgets.release_dead(now)
        call = model_calls.c
        is_dead = or_(call.owner == owner, call.owner.is_(None), call.started_at < now - LONGEST_CALL_S)
        orphaned = (
            update(model_calls)
            .where(call.ended_at.is_(None), call.started_at <= now, is_dead)
            .values(
                ended_at=now,
                error_class=PROCESS_DIED,
                error="The process that made the call ended before the call did.",
            )
        )
        return await self._database.write(lambda connection: connection.execute(orphaned).rowcount)

    def _end_handed_over(self, call: ModelCall) -> Awaitable[None]:
        """The end of a call on its way into the database; handed over on return unless there are budgets."""
        if self._budgets is not None and self._budgets.may_hold:
            return self._budgets.close_call(call)
        return self._database.upsert(model_calls, values_of(call))


def _sums() -> list[ColumnElement[Any]]:
    call = model_calls.c
    work = call.operation != ACKNOWLEDGE
    return [
        func.count(),
        *(func.sum(call[name]) for name in TOKENS),
        *(func.sum(call[name]).filter(work) for name in TIMES),
    ]


def _totals(found: Sequence[Any]) -> TokenTotals:
    calls, *sums, first_token_s = found
    named: dict[str, Any] = dict(zip((*TOKENS, *TIMES), sums, strict=True))
    return TokenTotals(calls, **named, time_to_first_token_s=first_token_s)


def _of_tasks() -> Select[Any]:
    call, other = model_calls.c, model_calls.alias("other")
    first = (
        select(other.c.time_to_first_token_s)
        .where(other.c.task_id == call.task_id, other.c.operation != ACKNOWLEDGE)
        .where(other.c.time_to_first_token_s.is_not(None))
        .order_by(other.c.started_at, other.c.id)
        .limit(1)
        .scalar_subquery()
    )
    mine = call.task_id.in_(bindparam("ids", expanding=True))
    return select(call.task_id, *_sums(), first).where(mine).group_by(call.task_id)


OF_TASKS: Final = _of_tasks()
"""Made once: to put it together takes longer than to run it."""


def _limits(
    task_id: str | None,
    conversation_id: str | None = None,
    since: float | None = None,
    until: float | None = None,
) -> list[ColumnElement[bool]]:
    call = model_calls.c
    limits: list[ColumnElement[bool]] = []
    if task_id is not None:
        limits.append(call.task_id == task_id)
    if conversation_id is not None:
        limits.append(call.conversation_id == conversation_id)
    if since is not None:
        limits.append(call.started_at >= since)
    if until is not None:
        limits.append(call.started_at < until)
    return limits
