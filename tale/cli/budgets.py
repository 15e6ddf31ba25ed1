"""Commands about budgets of tokens: set, list, remove, and the alerts they have raised."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tale.cli.groups import group
from tale.cli.invocation import settings_of
from tale.cli.tasks import Json

if TYPE_CHECKING:
    from tale.settings import Settings
    from tale.storage.budget_store import BudgetStore
    from tale.storage.budgets import Budget, Of
    from tale.storage.database import Database

T = TypeVar("T")
MOST_ALERTS = 1_000

budgets = group("Set and list budgets of tokens, and read their alerts.")


class Per(StrEnum):
    """How long a budget lasts."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@budgets.command("set")
def set_budget(
    context: typer.Context,
    limit: Annotated[str, typer.Argument(help="Tokens, read and written together: 200000, 200k, 2M.", metavar="LIMIT")],
    model: Annotated[str | None, typer.Option(help="Only calls that this model serves.", metavar="NAME")] = None,
    key: Annotated[str | None, typer.Option(help="Only calls asked for with this key.", metavar="NAME")] = None,
    per: Annotated[Per, typer.Option(help="When it is reset: at midnight, on Monday, on the first.")] = Per.DAY,
    soft: Annotated[bool, typer.Option("--soft", help="Alert only; without it, calls beyond it are refused.")] = False,
    alert_at: Annotated[int, typer.Option(help="Alert when so much is used, and at 100.", metavar="PERCENT")] = 80,
    zone: Annotated[str, typer.Option(help="Time zone of the midnight, as Europe/Berlin.", metavar="ZONE")] = "UTC",
    as_json: Json = False,
) -> None:
    """Make a budget, or change the one of the same calls, period and kind. It holds when this returns."""
    from tale.cli.rendering import Screen
    from tale.exceptions import ValidationException
    from tale.storage.budget_store import new_budget_id
    from tale.storage.budgets import parsed_budget, parsed_tokens

    if model is not None and key is not None:
        raise ValidationException("A budget is a model's or a key's, not both; set two.")
    scope: Of = "model" if model is not None else "key" if key is not None else "all"
    asked = parsed_budget(
        new_budget_id(),
        parsed_tokens(limit),
        scope=scope,
        name=model or key or "",
        period=per.value,
        kind="soft" if soft else "hard",
        alert_percent=alert_at,
        zone=zone,
        now=time.time(),
    )
    screen, made = Screen(), _set(settings_of(context), asked)
    if as_json:
        screen.json(made)
    else:
        screen.show(f"{made['id']} is {asked.title}.")


@budgets.command("list")
def list_budgets(context: typer.Context, as_json: Json = False) -> None:
    """List the budgets with what is used of them. No server needs to run."""
    from tale.cli.rendering import Screen

    found = _found(settings_of(context))
    screen = Screen()
    if as_json:
        screen.json(found["budgets"])
        return
    if not found["budgets"]:
        screen.show("There are no budgets; `tale budgets set LIMIT` makes one.")
        return
    _show(screen, found["budgets"])
    if found["alerts"]:
        count = len(found["alerts"])
        screen.aside(f"{count} {'alert' if count == 1 else 'alerts'} nobody has acknowledged: `tale budgets alerts`")


@budgets.command("remove")
def remove(
    context: typer.Context,
    budget_id: Annotated[str, typer.Argument(help="Id of the budget, from the list.", metavar="ID")],
) -> None:
    """Delete a budget; it holds no more."""
    from tale.cli.rendering import Screen

    settings = settings_of(context)
    if settings.gateway_url is None:
        gone = _in_store(settings, lambda store: store.remove(budget_id))
        Screen().show(f"Removed {gone.title}.")
    else:
        _asked(settings, "remove_budget", {"budget_id": budget_id})
        Screen().show(f"Removed the budget {budget_id}.")


@budgets.command("alerts")
def alerts(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=MOST_ALERTS, help="How many at most.")] = 20,
    acknowledge: Annotated[
        bool, typer.Option("--acknowledge", help="Mark all as seen, and the alerts of targets, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the latest alerts of budgets, newest first; those of targets stand in `tale dashboard`."""
    from tale.cli.formatting import seconds
    from tale.cli.rendering import Screen

    settings = settings_of(context)
    found, screen = _alerts(settings, limit), Screen()
    if acknowledge and (count := _acknowledge(settings)):
        screen.aside(f"{count} {'alert' if count == 1 else 'alerts'} of targets marked as seen, too.")
    if as_json:
        screen.json(found)
        return
    if not found:
        screen.show("There are no alerts of budgets.")
    for alert in found:
        seen = "" if alert["acknowledged_at"] is None else ", seen"
        screen.show(f"{seconds(max(0.0, time.time() - alert['created_at']))} ago{seen}: {alert['text']}")


def _set(settings: "Settings", asked: "Budget") -> dict[str, Any]:
    """The budget as it is kept: in the database, or by the gateway where that is another machine's."""
    if settings.gateway_url is None:
        return _as_dict(_in_store(settings, lambda store: store.set(asked)))
    names = ("limit_tokens", "scope", "period", "kind", "alert_percent", "zone")
    arguments = {**{name: getattr(asked, name) for name in names}, "name": asked.name or None}
    found = _asked(settings, "set_budget", arguments)["budgets"]
    same = ("scope", "name", "period", "kind")
    return next(view for view in found if all(view[name] == arguments[name] for name in same))


def _found(settings: "Settings") -> dict[str, Any]:
    """From the database, or from the gateway where that is another machine's."""
    if settings.gateway_url is not None:
        return _asked(settings, "get_budgets", {})
    from tale.storage.budget_views import Budgets, budgets_of
    from tale.storage.reader import read_once

    now = time.time()
    return asdict(read_once(settings.database, lambda each: budgets_of(each, now), absent=Budgets([], [])))


def _alerts(settings: "Settings", limit: int) -> list[dict[str, Any]]:
    """The latest alerts; of another machine's those that nobody has acknowledged, which is what its gateway tells."""
    if settings.gateway_url is not None:
        return _asked(settings, "get_budgets", {})["alerts"][:limit]
    from tale.storage.budget_store import alerts_in
    from tale.storage.budget_views import alert_view
    from tale.storage.reader import read_once

    alerts = read_once(settings.database, lambda connection: alerts_in(connection, limit=limit), absent=[])
    return [asdict(alert_view(alert)) for alert in alerts]


def _acknowledge(settings: "Settings") -> int | None:
    """Mark all alerts as seen; returns how many of targets were not, None where the gateway does it."""
    if settings.gateway_url is not None:
        _asked(settings, "acknowledge_alerts", {})
        return None
    from tale.storage.budget_store import BudgetStore
    from tale.storage.monitoring_store import MonitoringStore
    from tale.storage.reader import read_once

    async def of_both(database: "Database") -> int:
        now = time.time()
        await BudgetStore(database).acknowledge(now)
        return await MonitoringStore(database).acknowledge(now)

    is_there = read_once(settings.database, lambda _: True, absent=False)
    return _in_database(settings, of_both) if is_there else 0


def _asked(settings: "Settings", tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from tale.cli.gateway import ask
    from tale.cli.rendering import Screen

    return ask(settings, tool, arguments, say=Screen().aside)


def _show(screen: Any, views: list[dict[str, Any]]) -> None:
    from tale.cli.formatting import seconds
    from tale.cli.rendering import facts, table

    now = time.time()
    rows = [
        (
            view["id"],
            "all calls" if view["scope"] == "all" else f"{view['scope']} {view['name']}",
            view["kind"],
            view["period"],
            f"{view['used_tokens']:,}",
            f"{view['reserved_tokens']:,}",
            f"{view['limit_tokens']:,}",
            f"{view['used_tokens'] / view['limit_tokens']:.0%}",
            seconds(max(0.0, view["resets_at"] - now)),
        )
        for view in views
    ]
    headings = ("id", "of", "kind", "per", "used", "held", "limit", "share", "reset in")
    if screen.narrow:
        for row in rows:
            screen.show(facts(list(zip(headings, row, strict=True))), "")
    else:
        made = table(headings, right=("used", "held", "limit", "share", "reset in"))
        for row in rows:
            made.add_row(*row)
        screen.show(made)
    unreported = sum(view["unreported"] for view in views)
    if unreported:
        screen.aside("Engines did not report all tokens of some calls: a hard budget takes such a call's upper bound.")


def _in_store(settings: "Settings", work: "Callable[[BudgetStore], Awaitable[T]]") -> T:
    from tale.storage.budget_store import BudgetStore

    return _in_database(settings, lambda database: work(BudgetStore(database)))


def _in_database(settings: "Settings", work: "Callable[[Database], Awaitable[T]]") -> T:
    from tale.storage.database import Database

    async def do() -> T:
        database = await asyncio.to_thread(Database.open, settings.database, backup_folder=settings.home / "backups")
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(do())


def _as_dict(budget: "Budget") -> dict[str, Any]:
    return {**asdict(budget), "name": budget.name or None}
