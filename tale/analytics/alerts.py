"""The alerts of targets and budgets in one list: what was said, what to do first, and whether it still holds."""

from typing import Any, Final

import polars as pl

from tale.analytics import frames
from tale.analytics.frames import UTC_TIME, Schema
from tale.analytics.history import History
from tale.storage.budget_views import AlertView
from tale.storage.history_reader import ALERT_COLUMNS, VIOLATION_COLUMNS

LISTED: Final = 50
DAYS_S: Final = 30 * 86_400.0
BURNS_S: Final = 3_600.0  # for which an alert of a fast hour holds
SPENT: Final = 100  # percent
RAISE: Final = "Raise it (tale budgets set), or wait for its reset."
LOOK: Final = "See which calls take most: tale usage."
TOLD: Final[Schema] = {
    "at": UTC_TIME,
    **dict.fromkeys(("of", "name", "kind", "text", "action"), pl.String),  # of: target, budget
    "is_open": pl.Boolean,
}


def told_alerts(history: History) -> pl.DataFrame:
    """The alerts of the latest thirty days (TOLD), the newest first. Raises DatabaseException.

    One of a target is open while it is the last that was said of it, its violation lasts, and nobody has acknowledged
    it; one of a budget until its period is over, likewise.
    """
    now = history.now()
    rows = [*_of_targets(history, now), *_of_budgets(history.reader.budget_alerts(limit=LISTED), now)]
    return frames.frame_of(sorted(rows, key=lambda row: -row[0])[:LISTED], TOLD)


def _of_targets(history: History, now: float) -> list[tuple[Any, ...]]:
    reader, since = history.reader, now - DAYS_S
    found = [dict(zip(VIOLATION_COLUMNS, row, strict=True)) for row in reader.violations(since, now + 1)]
    actions = {each["id"]: each["action"] for each in found}
    ended = {each["id"] for each in found if each["ended_at"] is not None}
    seen: set[str] = set()
    rows: list[tuple[Any, ...]] = []
    for row in reader.target_alerts(since, now + 1, limit=LISTED):
        told = dict(zip(ALERT_COLUMNS, row, strict=True))
        name, kind, at = told["target"], told["kind"], told["created_at"]
        action = "" if kind == "met" else actions.get(told["violation_id"], "")
        lasts = kind == "missed" and told["violation_id"] not in ended
        holds = lasts or (kind == "burning" and now - at <= BURNS_S)
        is_open = holds and name not in seen and told["acknowledged_at"] is None
        seen.add(name)
        text = told["text"].removesuffix(action).rstrip()
        rows.append((at, "target", name, kind, text, action, is_open))
    return rows


def _of_budgets(alerts: list[AlertView], now: float) -> list[tuple[Any, ...]]:
    seen: set[str] = set()
    rows: list[tuple[Any, ...]] = []
    for each in sorted(alerts, key=lambda each: (each.created_at, each.percent), reverse=True):
        is_last = each.budget_id not in seen
        seen.add(each.budget_id)
        is_open = is_last and each.acknowledged_at is None and each.resets_at > now
        action = RAISE if each.percent >= SPENT else LOOK
        rows.append((each.created_at, "budget", each.budget_id, f"{each.percent} %", each.text, action, is_open))
    return rows
