"""What each page of a dashboard shows, read from a history: for the one in the browser and the one in the terminal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import polars as pl

from tale.analytics import frames, summaries
from tale.analytics.history import History
from tale.analytics.windows import Window
from tale.histogram import Histogram
from tale.monitoring.evaluation import standings
from tale.monitoring.evidence import StoredEvidence
from tale.monitoring.targets import DAY_S, TARGETS, Standing, Target
from tale.records import CHAT, TaskStatus
from tale.storage.call_pages import CallFilter

DAY_HOURS: Final = 24.0
CALENDAR_DAYS: Final = 28
LISTED: Final = 50
MOST_READ: Final = 200  # of failed calls, and of those that waited for a model: the newest
MOST_TIMED: Final = 1_000  # of completed tasks, likewise
MINUTE_S: Final = 60
DAILY: Final = ("ux_first_token", "model_load", "interrupt")  # told day by day; of all tasks of a month there are many


@dataclass(frozen=True, slots=True)
class Choice:
    """What people chose to see: the latest hours, and one model or all of them."""

    hours: float = 1.0
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the service. `minutes` are of the chosen model, `models` are all that answered in the window.

    As on all pages, `window` is of whole slots, for charts; all else reaches up to now, which is `until`. Of tasks that
    completed and of calls that waited for a model there are the seconds of the newest, oldest first.
    """

    window: Window
    until: float
    models: list[str]
    minutes: pl.DataFrame
    before: pl.DataFrame  # of as many whole slots before the window, to compare with
    task_times: pl.DataFrame
    queue_window: Window
    task_seconds: list[float]
    load_seconds: list[float]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long calls take; `slowest` of the last day at most."""

    window: Window
    models: list[str]
    minutes: pl.DataFrame
    slowest: pl.DataFrame


@dataclass(frozen=True, slots=True)
class TargetsPage:
    """How the service stands against its targets: now, by day, and over the window for the first words."""

    window: Window
    standings: list[Standing]
    chat: pl.DataFrame
    days: pl.DataFrame
    violations: pl.DataFrame


@dataclass(frozen=True, slots=True)
class TokensPage:
    """What was read and written, and what the budgets say."""

    window: Window
    models: list[str]
    minutes: pl.DataFrame
    budgets: pl.DataFrame


@dataclass(frozen=True, slots=True)
class ModelsPage:
    """The models at work: `loads` are the newest calls that waited for one."""

    window: Window
    models: list[str]
    minutes: pl.DataFrame
    loads: pl.DataFrame
    samples: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Reliability:
    """What failed, what was tried again, and where another model had to answer; of failed calls the newest."""

    window: Window
    models: list[str]
    minutes: pl.DataFrame
    failed: pl.DataFrame
    attempts: pl.DataFrame
    fallbacks: pl.DataFrame


class FramedEvidence(StoredEvidence):
    """Evidence of a history that is looked at again and again: what it keeps of the calls is not read anew."""

    def __init__(self, history: History) -> None:
        super().__init__(history.reader)
        self._history = history

    def first_tokens(self, since: float, until: float) -> Histogram:
        """See Evidence."""
        whole = Window(since // MINUTE_S * MINUTE_S, -(-until // MINUTE_S) * MINUTE_S, MINUTE_S)
        found = summaries.buckets(of_chat(self._history.minutes(window=whole)), "first_token")
        return dict(found.iter_rows())


def overview(history: History, choice: Choice) -> Overview:
    """The page Overview. Raises DatabaseException, as all of them do."""
    window, models, minutes = _minutes(history, choice)
    span_s = window.until - window.since
    before = history.minutes(window=Window(window.since - span_s, window.since, window.slot_s))
    queue_window = _lately(window, history)
    times = history.task_times(queue_window)
    earlier = summaries.of(before, model=choice.model)
    tasks_s = _task_seconds(history, window)
    loads_s = _loads(history, window, choice)["load_s"].reverse().to_list()
    return Overview(window, history.now(), models, minutes, earlier, times, queue_window, tasks_s, loads_s)


def latency(history: History, choice: Choice) -> Latency:
    """The page Latency."""
    window, models, minutes = _minutes(history, choice)
    slowest = history.slowest(_to_now(_lately(window, history), history), model=choice.model)
    return Latency(window, models, minutes, slowest)


def targets(history: History, choice: Choice, wanted: Sequence[Target] = TARGETS) -> TargetsPage:
    """The page Targets; targets stand by windows of their own, whatever is chosen."""
    window, _, _ = _minutes(history, Choice(choice.hours))
    now = history.now()
    chat = of_chat(history.minutes(window=_to_now(window, history)))
    days = compliance(history, wanted, now=now)
    found = standings(FramedEvidence(history), wanted, now=now)
    return TargetsPage(window, found, chat, days, history.violations(CALENDAR_DAYS * DAY_HOURS))


def tokens(history: History, choice: Choice) -> TokensPage:
    """The page Tokens & Budgets."""
    window, models, minutes = _minutes(history, choice)
    return TokensPage(window, models, minutes, history.budgets())


def models(history: History, choice: Choice) -> ModelsPage:
    """The page Models."""
    window, names, minutes = _minutes(history, choice)
    loads = _loads(history, window, choice)
    return ModelsPage(window, names, minutes, loads, history.samples(window=_to_now(window, history)))


def reliability(history: History, choice: Choice) -> Reliability:
    """The page Reliability."""
    window, names, minutes = _minutes(history, choice)
    since, model = window.since, choice.model
    failed = history.page(CallFilter(since, None, model=model, outcome="failed", limit=MOST_READ))
    fallbacks = history.page(CallFilter(since, None, model=model, kind="fallback", limit=LISTED))
    attempts = history.attempts(window=_to_now(window, history))
    return Reliability(window, names, minutes, failed, attempts, fallbacks)


def calls(history: History, choice: Choice) -> pl.DataFrame:
    """The first page of Calls: the newest of the chosen time, up to now (frames.CALLS)."""
    return history.page(CallFilter(history.now() - choice.hours * 3_600, None, model=choice.model, limit=LISTED))


def compliance(history: History, wanted: Sequence[Target], *, now: float) -> pl.DataFrame:
    """Whether the targets that are told by calls and cancelled tasks were met, day by day in UTC (frames.DAYS)."""
    told = tuple(target for target in wanted if target.name in DAILY)
    today = int(now // DAY_S)
    rows: list[tuple[Any, ...]] = []
    for day in range(today - CALENDAR_DAYS + 1, today + 1):
        held = history.kept(("compliance", day, told), (day + 1) * DAY_S, lambda day=day: _day(history, told, day))
        rows += [row for row in held if row[2]]
    return pl.DataFrame(rows, schema=dict(frames.DAYS), orient="row")


PAGES: Final[Mapping[str, Callable[..., Any]]] = {
    "Overview": overview,
    "Latency": latency,
    "Targets": targets,
    "Tokens & Budgets": tokens,
    "Models": models,
    "Reliability": reliability,
    "Calls": calls,
}


def _minutes(history: History, choice: Choice) -> tuple[Window, list[str], pl.DataFrame]:
    """The window, the names of all models since it began, and the minutes of the chosen one up to now."""
    window = history.window(choice.hours)
    minutes = history.minutes(window=_to_now(window, history))
    return window, minutes["model"].unique().sort().to_list(), summaries.of(minutes, model=choice.model)


def _loads(history: History, window: Window, choice: Choice) -> pl.DataFrame:
    """The newest calls that waited for a model (frames.CALLS)."""
    return history.page(CallFilter(window.since, None, model=choice.model, kind="load", limit=MOST_READ))


def _task_seconds(history: History, window: Window) -> list[float]:
    """Seconds from hand-in to end of the newest tasks that completed, in the order of their hand-in."""
    newest_first = history.reader.task_seconds(
        window.since, history.now(), status=TaskStatus.COMPLETED, begin="created_at", limit=MOST_TIMED
    )
    return newest_first[::-1]


def exceeds_day(window: Window) -> bool:
    """Whether what is looked at one by one, tasks and the slowest calls, is of the window's last day only."""
    return window.until - window.since > DAY_S


def _lately(window: Window, history: History) -> Window:
    """The window, or its last day."""
    return history.window(DAY_HOURS) if exceeds_day(window) else window


def _to_now(window: Window, history: History) -> Window:
    """The window with the slot that is not over yet."""
    return replace(window, until=history.now())


def of_chat(minutes: pl.DataFrame) -> pl.DataFrame:
    """The small model's answers in chats: not what else it does, such as tasks, acknowledgements and summaries."""
    return minutes.filter(role="ux", operation=CHAT)


def _day(history: History, told: Sequence[Target], day: int) -> list[tuple[Any, ...]]:
    """How targets stood at the end of a day since 1970, as rows of frames.DAYS."""
    found = standings(FramedEvidence(history), told, now=(day + 1) * DAY_S, window_s=DAY_S)
    date = datetime.fromtimestamp(day * DAY_S, UTC).date()
    return [(each.target.title, date, each.values, each.measured, each.status) for each in found]
