"""The few figures that a glance is for: each with what it is held against, and its course. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from tale.analytics import summaries
from tale.analytics.summaries import Measure
from tale.monitoring.pages import Overview, of_chat
from tale.monitoring.targets import TARGETS, Target, limit_of, nearest_rank

MINUTE_S: Final = 60
P95: Final = 0.95
MOST_POINTS: Final = 60  # of the course of what is known one by one


@dataclass(frozen=True, slots=True)
class Card:
    """A figure with its unit in words; `change` against a target or (empty) the time before, and if that is good."""

    label: str
    value: str
    change: str | None
    is_good: bool | None
    against: str
    course: Sequence[float]


def cards_of(seen: Overview, under_way: dict[str, int], targets: Sequence[Target] = TARGETS) -> list[Card]:
    """The cards of the page Overview; `under_way` counts what runs now (HistoryReader.under_way)."""
    return [
        _first_words(seen, limit_of("ux_first_token", targets)),
        _whole(seen),
        _one_by_one("Tasks whole, p95", seen.task_seconds, limit_of("medium_task", targets)),
        _one_by_one("Model loads, p95", seen.load_seconds, limit_of("model_load", targets)),
        _written(seen),
        _failed(seen),
        _calls(seen),
        _tasks(seen, under_way),
    ]


def _first_words(seen: Overview, limit_s: float) -> Card:
    chat = of_chat(seen.minutes)
    return _held("First words, p95", _p95(chat, "first_token"), limit_s, _p95_course(chat, "first_token", seen))


def _one_by_one(label: str, values: Sequence[float], limit_s: float) -> Card:
    """Seconds that are known one by one, in order of time; each point of the course is of equally many."""
    size = max(1, -(-len(values) // MOST_POINTS))
    parts = [nearest_rank(values[begin : begin + size], P95) for begin in range(0, len(values), size)]
    return _held(label, nearest_rank(values, P95), limit_s, [point for point in parts if point is not None])


def _held(label: str, value: float | None, limit_s: float, course: Sequence[float]) -> Card:
    """Seconds against their target."""
    share = None if value is None else value / limit_s - 1
    is_good = None if share is None else share <= 0
    return Card(label, seconds(value), percent(share), is_good, f"vs {limit_s:g} s", course)


def _whole(seen: Overview) -> Card:
    value, before = _p95(seen.minutes, "total"), _p95(seen.before, "total")
    course = _p95_course(seen.minutes, "total", seen)
    return _compared("Calls whole, p95", seconds(value), value, before, course=course, less_is_good=True)


def _written(seen: Overview) -> Card:
    value, before = _per_minute(seen, "output_tokens")
    course = _course(seen, pl.col("output_tokens"))
    return _compared("Tokens a minute", f"{value:,.0f}", value, before, course=course)


def _failed(seen: Overview) -> Card:
    value, before = (_share_failed(frame) for frame in (seen.minutes, seen.before))
    course = _course(seen, pl.col("failed") / pl.col("calls").clip(1))
    shown = "-" if value is None else f"{value:.2%}"
    if value is None or before is None:
        return Card("Failed calls", shown, None, None, "", course)
    points = 100 * (value - before)
    is_good = None if round(points, 2) == 0 else points < 0
    return Card("Failed calls", shown, f"{points:+.2f} pt", is_good, "", course)


def _calls(seen: Overview) -> Card:
    value, before = _per_minute(seen, "calls")  # the time before is shorter by the slot that is not over
    shown = f"{_sum(seen.minutes, 'calls'):,.0f}"
    card = _compared("Calls", shown, value, before, course=_course(seen, pl.col("calls")))
    return Card(card.label, card.value, card.change, None, card.against, card.course)


def _tasks(seen: Overview, under_way: dict[str, int]) -> Card:
    points = summaries.queue_over_time(seen.task_times, seen.queue_window)
    course = (points["queued"] + points["running"]).to_list()
    waiting = f"{under_way['queued']:,} waiting"
    return Card("Tasks running", f"{under_way['running']:,}", waiting, None, "now", course)


def _compared(
    label: str,
    shown: str,
    value: float | None,
    before: float | None,
    *,
    course: Sequence[float],
    less_is_good: bool | None = None,
) -> Card:
    if value is None or not before:
        return Card(label, shown, None, None, "", course)
    change = value / before - 1
    is_good = None if less_is_good is None or round(change, 2) == 0 else (change < 0) == less_is_good
    return Card(label, shown, percent(change), is_good, "", course)


def seconds(value: float | None) -> str:
    """A duration as people read it.

    >>> seconds(0.0312), seconds(2.345), seconds(75.0), seconds(None)
    ('31 ms', '2.35 s', '75 s', '-')
    """
    if value is None:
        return "-"
    return f"{value * 1_000:.0f} ms" if value < 1 else f"{value:.2f} s" if value < MINUTE_S else f"{value:.0f} s"


def percent(share: float | None) -> str | None:
    """A change in percent, with its sign; what is twice as much or more, as a multiple, for which there is room.

    >>> percent(0.051), percent(-0.5), percent(4.62), percent(None)
    ('+5 %', '-50 %', '5.6x', None)
    """
    if share is None:
        return None
    return f"{1 + share:,.1f}x" if share >= 1 else f"{100 * share:+.0f} %"


def _p95(minutes: pl.DataFrame, measure: Measure) -> float | None:
    return summaries.percentiles(minutes, measure)["p95"].item()


def _p95_course(minutes: pl.DataFrame, measure: Measure, seen: Overview) -> list[float]:
    points = summaries.percentiles_over_time(minutes, measure, window=seen.window)
    return points["p95"].drop_nulls().to_list()


def _course(seen: Overview, value: pl.Expr) -> list[float]:
    sums, _ = summaries.over_time(seen.minutes, seen.window)
    return sums.select(value.alias("value"))["value"].to_list()


def _per_minute(seen: Overview, column: str) -> tuple[float, float]:
    """How much of it there was a minute, up to now and in the time before."""
    window = seen.window
    now, before = _sum(seen.minutes, column), _sum(seen.before, column)
    return MINUTE_S * now / (seen.until - window.since), MINUTE_S * before / (window.until - window.since)


def _sum(minutes: pl.DataFrame, column: str) -> float:
    return float(minutes[column].sum())


def _share_failed(minutes: pl.DataFrame) -> float | None:
    calls = _sum(minutes, "calls")
    return _sum(minutes, "failed") / calls if calls else None
