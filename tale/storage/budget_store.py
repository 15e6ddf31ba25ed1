"""Keeps the budgets, and has each call that they cover held and counted in the transaction that writes its row."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import Final

from sqlalchemy import Connection, Executable, delete, insert, select, update

from tale.exceptions import BudgetException, ValidationException
from tale.records import ModelCall
from tale.storage import budget_rows as ledger
from tale.storage.budgets import WHOLE_PERCENT, Alert, Budget, Standing
from tale.storage.database import Database
from tale.storage.rows import upsert_statement, values_of
from tale.storage.tables import alerts, budgets, model_calls

FRESH_S: Final = 1.0  # so soon the first budget, also one that another process made, holds
SETTLING_S: Final = 1.5 * FRESH_S
ID_BYTES: Final = 4

Pause = Callable[[float], Awaitable[None]]
OnAlerts = Callable[[Sequence[Alert]], None]

logger = logging.getLogger(__name__)


def new_budget_id() -> str:
    """The id of a budget that is made."""
    return secrets.token_hex(ID_BYTES)


class BudgetStore:
    """Budgets in the database. Every change is durable on return; all raise DatabaseException when it fails.

    `owner` names the host and home whose calls these are: what its dead processes held is ended at the next start.
    """

    def __init__(
        self,
        database: Database,
        *,
        owner: str = "",
        timer: Callable[[], float] = time.monotonic,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self._database = database
        self._owner = owner
        self._timer = timer
        self._pause = pause
        self._upsert: Executable | None = None
        self._known: tuple[Budget, ...] = ()
        self._read_at: float | None = None
        self._begun: ledger.Spans = {}  # the periods that are durable
        self._listeners: list[OnAlerts] = []

    def listen(self, on_alerts: OnAlerts) -> None:
        """Have alerts told that calls of this process raise."""
        self._listeners.append(on_alerts)

    @property
    def may_hold(self) -> bool:
        """Whether there may be a budget; False only where a look not older than a second found none."""
        return bool(self._known) or self._read_at is None or self._timer() - self._read_at >= FRESH_S

    async def open_call(self, call: ModelCall, tokens: int) -> bool:
        """Keep the row of a call that begins, and hold what it may use at most of each hard budget that covers it.

        Returns whether a budget holds for it. Again for the same call, this is done in place of what was done before.
        Raises BudgetException, with no row kept, when a budget has not so much left.
        """

        def work(connection: Connection) -> tuple[int | BudgetException, ledger.Spans]:
            known = self._read(connection)
            begun = ledger.begin(connection, known, call.started_at, begun=self._begun)
            held = ledger.hold(connection, known, call, tokens, owner=self._owner)
            if not isinstance(held, BudgetException):
                self._keep(connection, call)
            return held, begun

        held, self._begun = await self._database.write(work)
        if isinstance(held, BudgetException):
            raise held
        return held > 0

    async def close_call(self, call: ModelCall) -> None:
        """Keep a call that has ended, and count what it used."""

        def work(connection: Connection) -> list[Alert]:
            raised = ledger.settle(connection, self._read(connection), call)
            self._keep(connection, call)
            return raised

        self._tell(await self._database.write(work, ends=True))

    async def release_dead(self, now: float) -> None:
        """End what this home's dead processes held; it is assumed to be used."""

        def work(connection: Connection) -> None:
            if self._read(connection):
                ledger.release_dead(connection, self._owner, now=now)

        await self._database.write(work)

    async def set(self, budget: Budget) -> Budget:
        """Make a budget, or change the one that has the same scope, name, period and kind; returns it as it is kept.

        On return it holds in every process. For the first budget that takes a second and a half.
        """

        def work(connection: Connection) -> tuple[Budget, bool, list[Alert]]:
            known = self._read(connection)
            kept = next((old for old in known if _is_same(old, budget)), None)
            made = budget if kept is None else replace(budget, id=kept.id, created_at=kept.created_at)
            if kept is None:
                connection.execute(insert(budgets), asdict(made))
            else:
                connection.execute(update(budgets).where(budgets.c.id == made.id).values(**asdict(made)))
            standing = ledger.standing_of(connection, made, budget.created_at)
            self._read(connection)
            return made, not known, ledger.raised_by(connection, standing, now=budget.created_at)

        made, is_first, raised = await self._database.write(work)
        self._tell(raised)
        if is_first:
            # Processes that found no budget a moment ago do not count yet: what they close meanwhile is counted after.
            await self._pause(SETTLING_S)
            self._tell(await self._database.write(lambda connection: self._recounted(connection, made)))
        return made

    async def remove(self, budget_id: str) -> Budget:
        """Delete a budget with its figures; its alerts stay. Raises ValidationException for an unknown id."""

        def work(connection: Connection) -> Budget | None:
            found = next((budget for budget in self._read(connection) if budget.id == budget_id), None)
            if found:
                connection.execute(delete(budgets).where(budgets.c.id == budget_id))
                self._read(connection)
            return found

        found = await self._database.write(work)
        if found is None:
            raise ValidationException(f"No budget has the id {budget_id!r}; `tale budgets list` shows those there are.")
        return found

    async def standings(self, now: float) -> list[Standing]:
        """How all budgets stand."""
        return await self._database.read(lambda connection: standings_in(connection, now))

    async def used_up(self, now: float) -> list[Standing]:
        """The hard budgets that allow no call, however small, before they are reset."""
        if not self.may_hold:
            return []
        looked_at = self._timer()
        standings = await self.standings(now)
        if not standings and (self._read_at is None or looked_at > self._read_at):
            self._known, self._read_at = (), looked_at  # so that handing in tasks does not look each time
        return [each for each in standings if each.budget.kind == "hard" and each.reaches(WHOLE_PERCENT)]

    async def alerts(self, *, limit: int, unseen: bool = False) -> list[Alert]:
        """The latest alerts, newest first; or those of them that nobody has acknowledged."""
        return await self._database.read(lambda connection: alerts_in(connection, limit=limit, unseen=unseen))

    async def acknowledge(self, now: float) -> int:
        """Mark all alerts as seen; returns how many were not."""
        unseen = update(alerts).where(alerts.c.acknowledged_at.is_(None)).values(acknowledged_at=now)
        return await self._database.write(lambda connection: connection.execute(unseen).rowcount)

    async def undelivered(self, since: float) -> list[Alert]:
        """Alerts raised then or later that have not reached the webhook, oldest first."""
        waiting = select(alerts).where(alerts.c.delivered_at.is_(None), alerts.c.created_at >= since)
        ordered = waiting.order_by(alerts.c.created_at, alerts.c.id)
        return await self._database.read(
            lambda connection: [Alert(**row) for row in connection.execute(ordered).mappings()]
        )

    async def delivered(self, alert_id: str, now: float) -> None:
        """Note that an alert has reached the webhook."""
        done = update(alerts).where(alerts.c.id == alert_id).values(delivered_at=now)
        await self._database.write(lambda connection: connection.execute(done).rowcount)

    def _keep(self, connection: Connection, call: ModelCall) -> None:
        if self._upsert is None:  # made once, as making it takes longer than running it
            self._upsert = upsert_statement(connection.dialect.name, model_calls)
        connection.execute(self._upsert, values_of(call))

    def _recounted(self, connection: Connection, budget: Budget) -> list[Alert]:
        if budget not in self._read(connection):  # it was changed or removed meanwhile
            return []
        return ledger.recount(connection, budget, now=budget.created_at)

    def _read(self, connection: Connection) -> tuple[Budget, ...]:
        """Lock the ledger; the budgets as they are, which are remembered."""
        ledger.lock(connection)
        read_at = self._timer()
        self._known = tuple(ledger.budgets_in(connection))
        self._read_at = read_at
        return self._known

    def _tell(self, raised: Sequence[Alert]) -> None:
        for alert in raised:
            logger.warning("Budget: %s", alert.text)
        if raised:
            for listener in self._listeners:
                listener(raised)


def standings_in(connection: Connection, now: float) -> list[Standing]:
    """How all budgets stand, on a connection that may only read."""
    return [ledger.look_at(connection, budget, now) for budget in ledger.budgets_in(connection)]


def alerts_in(connection: Connection, *, limit: int, unseen: bool = False) -> list[Alert]:
    """The latest alerts, newest first; or those of them that nobody has acknowledged."""
    statement = select(alerts).order_by(alerts.c.created_at.desc(), alerts.c.id).limit(limit)
    if unseen:
        statement = statement.where(alerts.c.acknowledged_at.is_(None))
    return [Alert(**row) for row in connection.execute(statement).mappings()]


def _is_same(one: Budget, other: Budget) -> bool:
    return (one.scope, one.name, one.period, one.kind) == (other.scope, other.name, other.period, other.kind)
