"""One look at everything that a dashboard in the terminal shows, as values for a screen or a script."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import polars as pl

from tale.analytics import History, summaries
from tale.analytics.alerts import told_alerts
from tale.analytics.windows import Window
from tale.monitoring.cards import cards_of
from tale.monitoring.evaluation import standings
from tale.monitoring.pages import Choice as Chosen
from tale.monitoring.pages import FramedEvidence, Overview, of_chat, overview
from tale.monitoring.profiles import profile_of
from tale.monitoring.targets import Standing, Target
from tale.orchestration.server_status import ServerStatus, look_at
from tale.settings import Settings
from tale.storage.call_pages import CallFilter

VERSION: Final = 1  # of the schema
DAY_S: Final = 86_400.0
TASKS_SHOWN: Final = 10
CALLS_SHOWN: Final = 10
TASK_AGE_S: Final = 7 * DAY_S  # a task that waits longer is told by the counts alone
CHARACTERS: Final = 200
UP: Final = ("running", "starting")
FRESH_S: Final = 10.0  # what moves slowly is not read at each look


def look(settings: Settings, history: History, *, hours: float) -> dict[str, Any]:
    """How everything stands now; the keys are told in the command's help. Raises DatabaseException."""
    gateway = asyncio.run(look_at(settings, "gateway"))
    is_ours = gateway.state in UP or settings.gateway_url is not None
    health: dict[str, Any] = (gateway.health if is_ours else None) or {}
    now = history.now()
    targets = profile_of(_backend(health).get("provider")).targets(settings.target_limits)
    seen = overview(history, Chosen(hours))
    under_way = history.reader.under_way()
    return {
        "version": VERSION,
        "at": now,
        "hours": hours,
        "service": _service(gateway, health),
        "queue": under_way,
        "cards": [{**asdict(card), "course": list(card.course)} for card in cards_of(seen, under_way, targets)],
        "figures": _figures(seen),
        "targets": history.kept(("targets", targets), now, lambda: _targets(history, targets, now)),
        "tasks": _tasks(history, now),
        "calls": _calls(history, now - hours * 3_600),
        "alerts": _alerts(history),
        "models": [_model(model) for model in health.get("models", ())],
    }


def _service(gateway: ServerStatus, health: dict[str, Any]) -> dict[str, Any]:
    reason = _backend(health).get("reason")
    return {"state": health.get("status") or gateway.state, "url": gateway.url, "reason": reason}


def _backend(health: dict[str, Any]) -> dict[str, Any]:
    return health.get("backend") or {}


def _figures(seen: Overview) -> dict[str, Any]:
    minutes = seen.minutes
    first = summaries.percentiles(of_chat(minutes), "first_token")["p95"].item()
    whole = summaries.percentiles(minutes, "total")["p95"].item()
    sums = {name: int(minutes[name].sum()) for name in ("calls", "failed", "output_tokens")}
    return {**sums, "first_token_p95_s": first, "total_p95_s": whole}


def _targets(history: History, targets: Sequence[Target], now: float) -> list[dict[str, Any]]:
    """Those that the running service is measured by; the others are told by benchmarks."""
    found = standings(FramedEvidence(history), targets, now=now)
    return [_target(standing) for standing in found if standing.values]


def _target(standing: Standing) -> dict[str, Any]:
    target = standing.target
    return {
        "name": target.name,
        "title": target.title,
        "status": standing.status,
        "measured": standing.measured,
        "sense": target.sense,
        "limit": target.limit,
        "unit": target.unit,
        "values": standing.values,
        "burn_rate": standing.burn_rate,
        "action": standing.action,
    }


def _tasks(history: History, now: float) -> list[dict[str, Any]]:
    """The tasks that run, and the newest that wait."""
    window = Window(now - TASK_AGE_S, now + 1, 1)
    found = [history.tasks(window=window, status=status, limit=TASKS_SHOWN) for status in ("running", "queued")]
    return [
        {
            **{name: row[name] for name in ("id", "status", "text", "model")},
            "age_s": now - row["created_at"].timestamp(),
        }
        for row in pl.concat(found).head(TASKS_SHOWN).iter_rows(named=True)
    ]


def _calls(history: History, since: float) -> list[dict[str, Any]]:
    found = history.page(CallFilter(since, None, limit=CALLS_SHOWN))
    return [
        {
            "at": row["started_at"].timestamp(),
            **{name: row[name] for name in ("model", "operation")},
            "outcome": _outcome(row),
            "total_s": row["total_s"],
            "first_token_s": row["time_to_first_token_s"],
            **{name: row[name] for name in ("input_tokens", "output_tokens")},
        }
        for row in found.iter_rows(named=True)
    ]


def _outcome(row: dict[str, Any]) -> str:
    if row["error_class"] is not None:
        return "cancelled" if row["error_class"] == "Cancelled" else "failed"
    return "running" if row["ended_at"] is None else "completed"


def _alerts(history: History) -> list[dict[str, Any]]:
    found = told_alerts(history).filter("is_open").drop("is_open")
    return [{**row, "at": row["at"].timestamp()} for row in found.iter_rows(named=True)]


def _model(model: dict[str, Any]) -> dict[str, Any]:
    return {name: model.get(name) for name in ("name", "role", "state", "memory_bytes", "running", "waiting")}
