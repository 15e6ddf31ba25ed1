"""Reads a history for dashboards and notebooks: plain rows, and as quick on ten million calls as on a thousand."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

from sqlalchemy import Column, Connection, Executable, Row, Select, and_, func, or_, select

from tale.storage.budget_store import alerts_in
from tale.storage.budget_views import AlertView, Budgets, alert_view, budgets_of
from tale.storage.call_pages import CallFilter, call_page
from tale.storage.engines import file_of, parse_url
from tale.storage.learning_tables import engine_versions, learning_events, predictions, shadows
from tale.storage.monitoring_tables import monitor_samples, target_alerts, target_violations
from tale.storage.prediction_store import answered_by, is_retry, served_by
from tale.storage.reader import Reader, reading
from tale.storage.rollup_rows import MINUTE_S, tallied
from tale.storage.rollups import stragglers, watermark_of
from tale.storage.slow_calls import slowest_calls
from tale.storage.tables import attempts, feedback, model_calls, rollup_minute, tasks
from tale.storage.usage import floored

MINUTE_COLUMNS: Final = tuple(rollup_minute.c.keys())
TASK_COLUMNS: Final = (
    *("id", "text", "status", "created_at", "started_at", "ended_at", "cancel_requested_at"),
    *("attempt", "failures", "model", "role", "route_reason", "error_class", "error"),
)
ATTEMPT_COLUMNS: Final = ("task_id", "number", "started_at", "ended_at", "outcome", "model", "error_class", "error")
FEEDBACK_COLUMNS: Final = ("task_id", "rating", "comment", "created_at", "model", "role")
SAMPLE_COLUMNS: Final = tuple(monitor_samples.c.keys())
VIOLATION_COLUMNS: Final = tuple(target_violations.c.keys())
ALERT_COLUMNS: Final = tuple(target_alerts.c.keys())
OF_PREDICTION: Final = (
    *("task_id", "attempt", "made_at", "ended_at", "version", "kind", "complexity", "output_tokens", "lower_tokens"),
    *("upper_tokens", "coverage", "role", "ux_success", "task_success", "explored", "was_cut", "succeeded", "variant"),
    *("task_output_tokens", "true_output_tokens", "finish_reason"),
)
PREDICTION_COLUMNS: Final = (*OF_PREDICTION, "model", "served_by", "rating", "is_retry")
ANSWER_COLUMNS: Final = ("role", "true_output_tokens", "finish_reason", "upper_tokens")
VERSION_COLUMNS: Final = ("id", "created_at", "state", "rows", "metrics", "reason")  # without what they consist of
EVENT_COLUMNS: Final = tuple(learning_events.c.keys())
SHADOW_COLUMNS: Final = tuple(shadows.c.keys())
OPEN: Final = ("queued", "running")
MOST_TASKS: Final = 100_000  # of one answer; a window with more is told from its newest

Rows = list[tuple[Any, ...]]
FileId = tuple[int, int]
T = TypeVar("T")


class HistoryReader:
    """The database of a SQLAlchemy URL, looked at and never written; where none is yet, there are no rows.

    Rows are tuples in the order of the constant that each method names. Times are Unix seconds, windows are
    [since, until). Connections are kept until `close`. All methods raise DatabaseException, and may be called from
    several threads.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._held = ExitStack()
        self._reader: Reader | None = None
        self._file: FileId | None = None  # that the reader reads
        self._closing = Lock()

    def file_id(self) -> FileId | None:
        """Which file the database is in, by device and number; None where there is none, and for PostgreSQL."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None  # it is not there, or reading it says what is wrong
        return found.st_dev, found.st_ino

    def minutes(self, since: float, until: float) -> Rows:
        """What the whole minutes of the window amount to (MINUTE_COLUMNS), rollups and raw tail, in order of minutes.

        Several rows may be of the same minute, model, role and operation: their sums belong together.
        """
        return self._read(lambda connection: minute_rows(connection, since, until), absent=[])

    def calls(self, wanted: CallFilter) -> Rows:
        """The newest calls that fulfil a filter (CALL_COLUMNS); the last one tells where the next page begins."""
        return self._read(lambda connection: call_page(connection, wanted), absent=[])

    def slowest(self, since: float, until: float, *, model: str | None = None, limit: int = 20) -> Rows:
        """The calls of the window that took longest (CALL_COLUMNS), the longest first."""
        return self._read(
            lambda connection: slowest_calls(connection, since, until, model=model, limit=limit), absent=[]
        )

    def tasks(
        self, since: float, until: float, *, status: str | None = None, limit: int = MOST_TASKS, characters: int = 200
    ) -> Rows:
        """The newest tasks handed in within the window (TASK_COLUMNS), with the first characters of their text."""
        shown = [func.substr(tasks.c.text, 1, characters) if name == "text" else tasks.c[name] for name in TASK_COLUMNS]
        found = select(*shown).where(tasks.c.created_at >= since, tasks.c.created_at < until)
        if status is not None:
            found = found.where(tasks.c.status == status)
        return self._rows(found.order_by(tasks.c.created_at.desc(), tasks.c.id.desc()).limit(limit))

    def task_times(self, since: float, until: float, *, slot_s: int) -> Rows:
        """(created, started, ended, tasks): how many of the tasks that were open in the window have these moments.

        Each is the number of the slot since 1970 in which it lies; None for what has not come yet.
        """
        task = tasks.c
        # One after the other, because SQLite takes no index for alternatives that reach so far.
        came = and_(task.created_at >= since, task.created_at < until)
        before = and_(task.ended_at >= since, task.created_at < since)
        still = and_(task.status.in_(OPEN), task.created_at < since)

        def work(connection: Connection) -> Rows:
            moments = [floored(connection, task[name] / slot_s) for name in ("created_at", "started_at", "ended_at")]
            counted = select(*moments, func.count()).group_by(*moments)
            return [row for part in (came, before, still) for row in plain(connection.execute(counted.where(part)))]

        return self._read(work, absent=[])

    def task_seconds(
        self, since: float, until: float, *, status: str, begin: str, limit: int = MOST_TASKS
    ) -> list[float]:
        """How long tasks that were begun took from one of their moments to the end.

        Of the newest handed in then, newest first.
        """
        task = tasks.c
        found = select(task.ended_at - task[begin]).where(
            *(task.status == status, task.created_at >= since, task.created_at < until),
            *(task.started_at.is_not(None), task[begin].is_not(None), task.ended_at >= task[begin]),
        )
        return [row[0] for row in self._rows(found.order_by(task.created_at.desc()).limit(limit))]

    def under_way(self) -> dict[str, int]:
        """How many tasks are queued and running, and how many calls run, now."""

        def work(connection: Connection) -> dict[str, int]:
            counted = select(tasks.c.status, func.count()).where(tasks.c.status.in_(OPEN)).group_by(tasks.c.status)
            found = {row[0]: row[1] for row in connection.execute(counted)}
            running = select(func.count()).select_from(model_calls).where(model_calls.c.ended_at.is_(None))
            return {**{name: found.get(name, 0) for name in OPEN}, "calls": connection.scalar(running) or 0}

        return self._read(work, absent={**dict.fromkeys(OPEN, 0), "calls": 0})

    def retried(self, since: float, until: float) -> Rows:
        """The attempts (ATTEMPT_COLUMNS) of tasks handed in within the window that needed more than one, in order."""
        again = and_(tasks.c.created_at >= since, tasks.c.created_at < until, tasks.c.attempt > 1)
        found = select(*(attempts.c[name] for name in ATTEMPT_COLUMNS)).join(tasks, tasks.c.id == attempts.c.task_id)
        return self._rows(found.where(again).order_by(attempts.c.task_id, attempts.c.number).limit(MOST_TASKS))

    def feedback(self, since: float, until: float) -> Rows:
        """What people thought of results (FEEDBACK_COLUMNS), oldest first."""
        named = [tasks.c[name] if name in ("model", "role") else feedback.c[name] for name in FEEDBACK_COLUMNS]
        found = select(*named).join(tasks, tasks.c.id == feedback.c.task_id)
        within = and_(feedback.c.created_at >= since, feedback.c.created_at < until)
        return self._rows(found.where(within).order_by(feedback.c.created_at))

    def budgets(self, now: float) -> Budgets:
        """The budgets as they stand, and the latest alerts that nobody has acknowledged."""
        return self._read(lambda connection: budgets_of(connection, now), absent=Budgets([], []))

    def samples(self, since: float, until: float, *, slot_s: int = 1) -> Rows:
        """What the monitor measured of the machine (SAMPLE_COLUMNS), oldest first: the last of each slot and owner.

        Slots are counted from 1970. `cpu_share` is the mean of the slot.
        """
        sample = monitor_samples.c

        def work(connection: Connection) -> Rows:
            last = select(sample.owner, func.max(sample.at).label("at"), func.avg(sample.cpu_share).label("cpu_share"))
            within = last.where(sample.at >= since, sample.at < until)
            slots = within.group_by(sample.owner, floored(connection, sample.at / slot_s)).subquery()
            told = [slots.c[name] if name == "cpu_share" else sample[name] for name in SAMPLE_COLUMNS]
            is_last = and_(sample.at == slots.c.at, sample.owner == slots.c.owner)
            return plain(connection.execute(select(*told).join(slots, is_last).order_by(sample.at)))

        return self._read(work, absent=[])

    def models_bytes(self, since: float, until: float) -> list[int]:
        """The memory that all models took together, of each sample that tells it."""
        sample = monitor_samples.c
        found = select(sample.models_bytes).where(sample.at >= since, sample.at < until)
        return [row[0] for row in self._rows(found.where(sample.models_bytes.is_not(None)))]

    def violations(self, since: float, until: float) -> Rows:
        """Times in which a target was missed (VIOLATION_COLUMNS) and that reach into the window, newest first."""
        began, ended = target_violations.c.began_at, target_violations.c.ended_at
        within = and_(began < until, or_(ended.is_(None), ended >= since))
        return self._rows(select(target_violations).where(within).order_by(began.desc()))

    def budget_alerts(self, *, limit: int) -> list[AlertView]:
        """The latest alerts of budgets, newest first, acknowledged ones too."""
        return self._read(lambda c: [alert_view(alert) for alert in alerts_in(c, limit=limit)], absent=[])

    def target_alerts(self, since: float, until: float, *, limit: int) -> Rows:
        """What was said of targets (ALERT_COLUMNS), newest first."""
        at = target_alerts.c.created_at
        return self._newest(select(target_alerts), at, since, until, limit)

    def predictions(self, since: float, until: float, *, limit: int) -> Rows:
        """What was expected of the attempts that ended last in the window, and came of them (PREDICTION_COLUMNS).

        The newest come first. `model` is the one that made the attempt, `served_by` the role that it fills where a call
        tells it, `rating` a user's word on the task, `is_retry` whether an earlier answer of it failed its check.
        """
        of, made = predictions.c, attempts.c
        held = predictions.outerjoin(attempts, and_(made.task_id == of.task_id, made.number == of.attempt))
        held = held.outerjoin(feedback, feedback.c.task_id == of.task_id)
        told = (made.model, answered_by.label("served_by"), feedback.c.rating, is_retry(of.task_id, of.attempt))
        named = (*(of[name] for name in OF_PREDICTION), *told)
        return self._newest(select(*named).select_from(held), of.ended_at, since, until, limit)

    def earlier_answers(self, before: float, *, limit: int) -> Rows:
        """The answers to predicted attempts that ended last before then (ANSWER_COLUMNS), newest first."""
        of = predictions.c
        named = select(*(of[name] for name in ANSWER_COLUMNS)).where(of.true_output_tokens.is_not(None))
        return self._newest(named, of.ended_at, 0.0, before, limit)

    def models(self) -> list[str]:
        """The models of all whole minutes that were ever rolled up, in the order in which they came."""
        of = rollup_minute.c
        # One step through the index per model: by themselves the databases would read all that is of each.
        first = select(func.min(of.model).label("model")).cte(recursive=True)
        further = select(func.min(of.model)).where(of.model > first.c.model).scalar_subquery()
        every = first.union_all(select(further).where(first.c.model.is_not(None)))
        came = select(func.min(of.minute)).where(of.model == every.c.model).scalar_subquery()
        found = select(every.c.model).where(every.c.model.is_not(None))
        return [row[0] for row in self._rows(found.order_by(came, every.c.model))]

    def role_models(self, *, limit: int) -> dict[str, str]:
        """Which model filled each role last, as far as the latest so many calls tell."""
        call = model_calls.c
        newest = select(served_by, call.model).order_by(call.started_at.desc()).limit(limit)
        return dict(self._rows(newest)[::-1])

    def versions(self, since: float, until: float, *, limit: int) -> Rows:
        """The versions of what was learned (VERSION_COLUMNS), newest first."""
        of = engine_versions.c
        return self._newest(select(*(of[name] for name in VERSION_COLUMNS)), of.created_at, since, until, limit)

    def learning_events(self, since: float, until: float, *, limit: int) -> Rows:
        """What happened to what was learned (EVENT_COLUMNS), newest first."""
        return self._newest(select(learning_events), learning_events.c.created_at, since, until, limit)

    def shadows(self, since: float, until: float, *, limit: int) -> Rows:
        """What tasks cost that were done both ways (SHADOW_COLUMNS), newest first."""
        return self._newest(select(shadows), shadows.c.made_at, since, until, limit)

    def close(self) -> None:
        """Close the connections; the next read opens new ones."""
        self._held.close()
        self._reader = None

    @cached_property
    def _path(self) -> Path | None:
        return file_of(parse_url(self._url))

    def _newest(self, found: Select[Any], at: Column[Any], since: float, until: float, limit: int) -> Rows:
        return self._rows(found.where(at >= since, at < until).order_by(at.desc()).limit(limit))

    def _rows(self, statement: Executable) -> Rows:
        return self._read(lambda connection: plain(connection.execute(statement)), absent=[])

    def _read(self, work: Callable[[Connection], T], *, absent: T) -> T:
        reader = self._opened()
        return absent if reader is None else reader.read(work)

    def _opened(self) -> Reader | None:
        """A reader of the file that is there now: another may have taken the place of the one that was read before."""
        file = self.file_id()
        with self._closing:
            if self._reader is not None and self._file != file:
                self.close()
            reader = self._reader
        if reader is None:
            with ExitStack() as held:
                reader = held.enter_context(reading(self._url))
                if reader is not None:
                    self._held.enter_context(held.pop_all())
                    self._file, self._reader = file, reader
        return reader


def minute_rows(connection: Connection, since: float, until: float) -> Rows:
    """The rollups of the window's minutes, and sums over the calls that are in none yet."""
    begin, end = int(since // MINUTE_S), -int(-until // MINUTE_S)
    watermark = watermark_of(connection) or 0
    minute = rollup_minute.c.minute
    rolled_up = select(rollup_minute).where(minute >= begin, minute < min(end, watermark)).order_by(minute)
    rows = plain(connection.execute(rolled_up))
    edge_s = watermark * MINUTE_S
    late = [each for each in tallied(connection, stragglers(edge_s)) if begin <= each.minute < end]
    began = model_calls.c.started_at
    newest = tallied(connection, began >= max(begin * MINUTE_S, edge_s), began < end * MINUTE_S)
    tail = (each.row() for each in (*late, *newest))
    return rows + [tuple(row[name] for name in MINUTE_COLUMNS) for row in tail]


def plain(found: Any) -> Rows:
    """The rows of a result as bare tuples."""
    rows: list[Row[Any]] = found.all()
    return [tuple(row) for row in rows]
