"""The gateway's tools about budgets of tokens, and its refusal of tasks for which there are none left."""

from collections.abc import Callable

from tale.credentials import Scope
from tale.mcp.base_server import BaseMCPServer
from tale.models.pool import Pool
from tale.storage.budget_store import BudgetStore, new_budget_id
from tale.storage.budget_views import ALERTS_SHOWN, Budgets, alert_view, budget_view
from tale.storage.budgets import DEFAULT_ALERT_PERCENT, Kind, Of, Period, parsed_budget, refusal
from tale.storage.monitoring_store import MonitoringStore


class BudgetTools:
    """The tools get_budgets, set_budget, remove_budget and acknowledge_alerts."""

    def __init__(self, budgets: BudgetStore, monitoring: MonitoringStore, *, clock: Callable[[], float]) -> None:
        self._budgets = budgets
        self._monitoring = monitoring
        self._clock = clock

    async def get_budgets(self) -> Budgets:
        """Tell the budgets of tokens with what is used of them, and the alerts that nobody has acknowledged."""
        standings = await self._budgets.standings(self._clock())
        alerts = await self._budgets.alerts(limit=ALERTS_SHOWN, unseen=True)
        return Budgets([budget_view(standing) for standing in standings], [alert_view(alert) for alert in alerts])

    async def set_budget(
        self,
        limit_tokens: int,
        scope: Of = "all",
        name: str | None = None,
        period: Period = "day",
        kind: Kind = "hard",
        alert_percent: int = DEFAULT_ALERT_PERCENT,
        zone: str = "UTC",
    ) -> Budgets:
        """Make a budget, or change the one of the same scope, name, period and kind; tells all there are.

        It holds when this returns.

        Args:
            limit_tokens: Tokens that calls begun in one period may use, read and written together.
            scope: Which calls count: all, those that one model serves, or those asked for with one key.
            name: Of the model or the key.
            period: day, week (from Monday) or month.
            kind: hard refuses calls that could exceed it; soft alerts only.
            alert_percent: Alert when so much is used, 1 to 100; another alert comes at 100.
            zone: Time zone of the midnight at which a period begins: UTC, or a name such as Europe/Berlin.
        """
        asked = parsed_budget(
            new_budget_id(),
            limit_tokens,
            scope=scope,
            name=name or "",
            period=period,
            kind=kind,
            alert_percent=alert_percent,
            zone=zone,
            now=self._clock(),
        )
        await self._budgets.set(asked)
        return await self.get_budgets()

    async def remove_budget(self, budget_id: str) -> Budgets:
        """Delete a budget, which then holds no more; tells those that are left.

        Args:
            budget_id: Its id, from get_budgets.
        """
        await self._budgets.remove(budget_id)
        return await self.get_budgets()

    async def acknowledge_alerts(self) -> Budgets:
        """Mark all alerts, of budgets and of targets, as seen, so that none is told as open any more."""
        now = self._clock()
        await self._budgets.acknowledge(now)
        await self._monitoring.acknowledge(now)
        return await self.get_budgets()


class BudgetGate:
    """Refuses tasks beforehand that could not be begun, because a budget for them is used up."""

    def __init__(self, budgets: BudgetStore, pool: Pool, *, clock: Callable[[], float]) -> None:
        self._budgets = budgets
        self._pool = pool
        self._clock = clock

    async def refuse_used_up(self, key_name: str | None) -> None:
        """Raise BudgetException if tasks handed in with that key cannot be begun before a budget is reset."""
        now = self._clock()
        used_up = await self._budgets.used_up(now)
        if not used_up:
            return
        names = {state.role: state.name for state in (await self._pool.status()).models}
        model = names.get("task") or names.get("ux")  # one model may fill both roles
        for standing in used_up:
            if standing.budget.covers(model=model, key_name=key_name):
                raise refusal(standing, 0, now=now)


def add_budget_tools(server: BaseMCPServer, tools: BudgetTools) -> None:
    """Register the tools."""
    server.add_tool(tools.get_budgets, title="Budgets of tokens", read_only=True)
    server.add_tool(tools.set_budget, title="Set a budget", idempotent=True, scope=Scope.ADMIN)
    server.add_tool(tools.remove_budget, title="Remove a budget", destructive=True, scope=Scope.ADMIN)
    server.add_tool(tools.acknowledge_alerts, title="Acknowledge alerts", idempotent=True, scope=Scope.ADMIN)
