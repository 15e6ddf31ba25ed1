"""Budgets and alerts as people and programs read them.

The views have no slots: the MCP SDK reads the schema of a tool's answer off them.
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from tale.storage.budget_store import alerts_in, standings_in
from tale.storage.budgets import Alert, Kind, Of, Period, Standing

ALERTS_SHOWN: Final = 20


@dataclass(frozen=True)
class BudgetView:
    """A budget and how it stands in the period that runs. Times are Unix seconds, the tokens read and written.

    Used are those that engines reported and those `assumed` of calls whose engine reported none (`unreported` calls);
    `reserved` are held by calls under way, and what is left may be taken by others.
    """

    id: str
    scope: Of
    name: str | None  # of the model or the key; null where all calls count
    period: Period
    kind: Kind
    limit_tokens: int
    used_tokens: int
    assumed_tokens: int
    reserved_tokens: int
    left_tokens: int
    unreported: int
    alert_percent: int
    zone: str
    starts_at: float
    resets_at: float


@dataclass(frozen=True)
class AlertView:
    """That so much of a budget was used; told once a period for each threshold. Times are Unix seconds."""

    id: str
    created_at: float
    text: str
    budget_id: str
    percent: int
    used_tokens: int
    limit_tokens: int
    resets_at: float
    delivered_at: float | None  # to the webhook
    acknowledged_at: float | None


@dataclass(frozen=True)
class Budgets:
    """All budgets, and the latest alerts that nobody has acknowledged."""

    budgets: list[BudgetView]
    alerts: list[AlertView]


def budgets_of(connection: Connection, now: float) -> Budgets:
    """The budgets as they stand."""
    return Budgets(
        [budget_view(standing) for standing in standings_in(connection, now)],
        [alert_view(alert) for alert in alerts_in(connection, limit=ALERTS_SHOWN, unseen=True)],
    )


def budget_view(standing: Standing) -> BudgetView:
    """A budget as it stands."""
    budget = standing.budget
    return BudgetView(
        id=budget.id,
        scope=budget.scope,
        name=budget.name or None,
        period=budget.period,
        kind=budget.kind,
        limit_tokens=budget.limit_tokens,
        used_tokens=standing.used_tokens,
        assumed_tokens=standing.assumed_tokens,
        reserved_tokens=standing.reserved_tokens,
        left_tokens=standing.left_tokens,
        unreported=standing.unreported,
        alert_percent=budget.alert_percent,
        zone=budget.zone,
        starts_at=standing.starts_at,
        resets_at=standing.resets_at,
    )


def alert_view(alert: Alert) -> AlertView:
    """An alert with its sentence."""
    return AlertView(
        id=alert.id,
        created_at=alert.created_at,
        text=alert.text,
        budget_id=alert.budget_id,
        percent=alert.percent,
        used_tokens=alert.used_tokens,
        limit_tokens=alert.limit_tokens,
        resets_at=alert.resets_at,
        delivered_at=alert.delivered_at,
        acknowledged_at=alert.acknowledged_at,
    )
