"""Frames and summaries tell what the rows hold, whatever is in the rollups already; nothing where there is nothing."""

import asyncio
import gc
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import GeneratorType

import polars as pl
import pytest
from fakes.sample_history import LARGE, NOW, SMALL, Sample, call, keep, sample, seeded, watch
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from sqlalchemy import Engine, event

from tale import analytics
from tale.analytics import frames, summaries
from tale.analytics.history import History
from tale.analytics.kept_minutes import MOST_KEPT
from tale.analytics.windows import Window, last_hours, window_of
from tale.exceptions import DatabaseException
from tale.histogram import ERROR
from tale.records import Task, TaskStatus
from tale.storage.call_pages import CallFilter, call_page
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.history_reader import MINUTE_COLUMNS
from tale.storage.retention import prune
from tale.storage.rollups import Rollups
from tale.storage.slow_calls import slowest_calls
from tale.storage.task_store import TaskStore

HOURS = 3.0


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sample]:
    path = tmp_path_factory.mktemp("history") / "tale.db"
    return path, seeded(f"sqlite:///{path}")


@pytest.fixture(scope="module", params=[0, 3_600])
def lagging(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, Sample]:
    """A history of which the last so many seconds are not rolled up yet."""
    path, made = tmp_path_factory.mktemp("history") / "tale.db", sample(seed=3, count=200)
    asyncio.run(keep(f"sqlite:///{path}", made, now=NOW - request.param))
    return path, made


@pytest.fixture
def history(kept: tuple[Path, Sample]) -> Iterator[History]:
    with analytics.open_history(kept[0], clock=lambda: NOW) as opened:
        yield opened


def exact(values: list[float], share: float) -> float:
    """The percentile by nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-round(share * len(ordered) * 1_000) // 1_000) - 1)]


def test_minutes_from_the_rollups_are_those_of_the_calls_themselves(history: History):
    window = history.window(HOURS)
    minutes = history.minutes(window=window)
    calls = history.calls(window=window)
    assert minutes["calls"].sum() == calls["ended_at"].count() > 500
    both = (frames.minutes_of(each).sort(frames.KEYS) for each in (minutes, calls))
    assert_frame_equal(*both, rel_tol=1e-9)


async def test_calls_that_are_in_no_rollup_yet_are_added_to_those_that_are(tmp_path: Path):
    """The watermark stands an hour back; what ended since then is told from the rows."""
    url, made = f"sqlite:///{tmp_path}/tale.db", sample(count=300)
    await keep(url, made, now=NOW - 3_600)
    with analytics.open_history(url, clock=lambda: NOW) as history:
        window = history.window(HOURS)
        minutes, calls = history.minutes(window=window), history.calls(window=window)
    assert summaries.totals(minutes)["total_s"].item() == pytest.approx(calls["total_s"].sum())
    assert_frame_equal(
        summaries.percentiles(minutes, "total", ["model"]), summaries.percentiles(calls, "total", ["model"])
    )


def test_percentiles_are_off_by_no_more_than_the_histogram_says(history: History):
    calls = history.calls(window=history.window(HOURS))
    found = summaries.percentiles(history.minutes(HOURS), "first_token", ["model"])
    assert found["model"].to_list() == [LARGE, SMALL]
    for model, count, *told in found.iter_rows():
        values = calls.filter(model=model)["time_to_first_token_s"].drop_nulls().to_list()
        assert count == len(values)
        for share, value in zip((0.5, 0.95, 0.99), told, strict=True):
            assert value == pytest.approx(exact(values, share), rel=ERROR * 1.01)


@settings(max_examples=30)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60), st.floats(1e-3, 1e3))
def test_values_beyond_a_limit_are_counted_to_within_a_bucket(values: list[float], limit: float):
    chance = random.Random(1)
    made = [replace(call(chance, NOW - 9_000, NOW), total_s=value) for value in values]
    rows = [tuple(getattr(each, name) for name in frames.CALLS) for each in made]
    found = summaries.shares_beyond(frames.frame_of(rows, frames.CALLS), "total", limit).row(0)
    assert found[0] == len(values)
    assert sum(value > limit * 1.04 for value in values) <= found[1] <= sum(value > limit / 1.04 for value in values)


def test_slots_without_calls_are_there_with_counts_of_nothing_and_unknown_percentiles(history: History):
    window = Window(NOW // 60 * 60 - 86_400, NOW // 60 * 60, 600)
    minutes = history.minutes(window=window)
    sums, _ = summaries.over_time(minutes, window)
    assert len(sums) == 144
    assert sums["calls"].head(100).to_list() == [0] * 100
    points = summaries.percentiles_over_time(minutes, "total", window=window)
    assert points["slot"].to_list() == sums["slot"].to_list()
    assert points["p95"].head(100).null_count() == 100
    assert points["count"].sum() == sums["calls"].sum()


def test_long_windows_are_told_in_coarse_slots_with_the_same_sums_and_percentiles(history: History):
    long, minutes = history.minutes(30 * 24), history.minutes(window=Window(NOW - 30 - 86_400, NOW - 30, 60))
    assert long["at"].n_unique() < minutes["at"].n_unique() / 10
    assert_frame_equal(history.minutes(30 * 24), long)  # days that were kept
    both = (summaries.totals(each.filter(pl.col("at") < long["at"].max()), ["model"]) for each in (long, minutes))
    assert_frame_equal(*both)
    before = minutes.filter(pl.col("at") < long["at"].max())
    told = summaries.percentiles(long.filter(pl.col("at") < long["at"].max()), "total", ["model"])
    assert_frame_equal(told, summaries.percentiles(before, "total", ["model"]))


def test_more_hours_than_are_kept_are_told_none_the_less(history: History):
    """As the calendar of targets reads them; each hour that is read lets go of the oldest one."""
    window = Window(NOW - 30 - (MOST_KEPT + 100) * 3_600, NOW - 30, 60)
    assert history.minutes(window=window)["calls"].sum() == history.minutes(HOURS)["calls"].sum()


def test_a_window_ends_before_the_minute_that_is_not_over(history: History):
    window = history.window(1)
    assert (window.since, window.until) == (NOW - 30 - 3_600, NOW - 30)
    assert history.minutes(1)["at"].max() == datetime.fromtimestamp(NOW - 90, UTC)


async def test_the_queue_is_told_by_when_tasks_came_began_and_ended(tmp_path: Path):
    """One task is older than the window, one never begins, one is cancelled before it could."""
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    moments = [(-99.0, -50.0, 90.0), (0.0, 30.0, 90.0), (10.0, None, None), (20.0, None, 70.0), (-9.0, None, None)]
    for created, started, ended in moments:
        status = TaskStatus.CANCELLED if ended and not started else TaskStatus.COMPLETED if ended else TaskStatus.QUEUED
        at = {"created_at": NOW + created, "started_at": started and NOW + started, "ended_at": ended and NOW + ended}
        await TaskStore(database).insert(Task(str(uuid.uuid4()), "Work.", status, **at))
    await database.close()
    window = Window(NOW, NOW + 180, 30)
    with analytics.open_history(tmp_path / "tale.db") as history:
        found = summaries.queue_over_time(history.task_times(window), window)
        assert history.reader.under_way() == {"queued": 2, "running": 0, "calls": 0}
    assert found["slot"].to_list() == window.slots.to_list()
    assert found.select("queued", "running").rows() == [(4, 1), (3, 2), (2, 2), (2, 0), (2, 0), (2, 0)]


def brute(made: Sample, wanted: CallFilter) -> list[str]:
    """The ids that a filter leaves, by looking at every call."""

    def fits(each: object) -> bool:
        held = all(
            getattr(each, name) == value
            for name in ("model", "role", "operation")
            if (value := getattr(wanted, name)) is not None
        )
        error, ended = each.error_class, each.ended_at
        outcome = {
            None: True,
            "completed": ended is not None and error is None,
            "failed": error not in (None, "Cancelled"),
            "cancelled": error == "Cancelled",
            "running": ended is None,
        }[wanted.outcome]
        asked, load_s = each.requested_model, each.load_s
        kind = {None: True, "load": (load_s or 0) > 0, "fallback": asked not in (None, each.model)}
        return held and outcome and kind[wanted.kind]

    return [each.id for each in sorted(made.calls, key=lambda each: (-each.started_at, each.id)) if fits(each)]


@pytest.mark.parametrize(
    "wanted",
    [
        CallFilter(),
        CallFilter(model=LARGE),
        CallFilter(role="ux", operation="chat"),
        CallFilter(outcome="failed"),
        CallFilter(outcome="cancelled"),
        CallFilter(outcome="running"),
        CallFilter(outcome="completed", model=SMALL, role="task"),
        CallFilter(kind="load"),
        CallFilter(kind="fallback", outcome="completed"),
        CallFilter(model="unknown"),
    ],
)
def test_pages_of_calls_are_all_that_a_filter_leaves_each_once(lagging: tuple[Path, Sample], wanted: CallFilter):
    path, made = lagging
    found: list[str] = []
    with analytics.open_history(path) as history:
        page = history.page(replace(wanted, limit=7))
        while not page.is_empty():
            found += page["id"].to_list()
            page = history.page(replace(wanted, limit=7, before=found[-1]))
    assert found == brute(made, wanted)


async def test_a_call_under_way_is_on_the_page_of_its_model_however_long_it_runs(tmp_path: Path):
    database, chance = Database.open(f"sqlite:///{tmp_path}/tale.db"), random.Random(1)
    running = call(chance, NOW - 600, NOW - 600, model=LARGE)
    done = [call(chance, NOW - seconds, NOW, model=LARGE) for seconds in (300, 700)]
    await CallStore(database).open_call(running)
    for each in done:
        await CallStore(database).close_call(each)
    await Rollups(database).catch_up(NOW)
    for wanted in (CallFilter(model=LARGE), CallFilter(operation="chat", since=NOW - 900)):
        page = await database.read(lambda connection, wanted=wanted: call_page(connection, wanted))
        assert [row[0] for row in page] == [done[0].id, running.id, done[1].id]
    await database.close()


def test_the_slowest_calls_are_found_without_a_look_at_the_others(history: History, kept: tuple[Path, Sample]):
    window = history.window(HOURS)
    for model in (None, LARGE):
        within = [
            each.total_s
            for each in kept[1].calls
            if each.total_s and window.since <= each.started_at < window.until and model in (None, each.model)
        ]
        found = history.slowest(window, model=model, limit=10)["total_s"].to_list()
        assert found == sorted(found, reverse=True)
        assert found == pytest.approx(sorted(within, reverse=True)[:10], rel=0.04)


async def test_what_a_prune_has_left_is_found_beside_what_came_since(tmp_path: Path):
    """A hundred minutes of slow calls were pruned, but for one whose task is open; faster ones came after them."""
    chance, asked = random.Random(1), str(uuid.uuid4())
    old = [replace(call(chance, NOW - 60 * n, NOW), total_s=100.0, model=LARGE) for n in range(100, 200)]
    old[50] = left = replace(old[50], task_id=asked)
    new = [replace(call(chance, NOW - 60 * n, NOW), total_s=1.05**n, model=LARGE) for n in range(20, 50)]
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    await TaskStore(database).insert(Task(asked, "Work.", TaskStatus.QUEUED, NOW - 9_000))
    for each in old + new:
        await CallStore(database).close_call(each)
    await Rollups(database).catch_up(NOW)
    assert (await prune(database, NOW - 5_000)).model_calls == 99
    wanted, sent = CallFilter(since=NOW - 20_000, model=LARGE), list[str]()
    event.listen(Engine, "before_cursor_execute", note := lambda *given: sent.append(given[2]))
    page = await database.read(lambda connection: call_page(connection, wanted))
    event.remove(Engine, "before_cursor_execute", note)
    slowest = await database.read(lambda connection: slowest_calls(connection, NOW - 20_000, NOW, limit=5))
    await database.close()
    assert [row[0] for row in page] == [each.id for each in (*new, left)]
    assert len(sent) < 50
    assert [row[0] for row in slowest] == [each.id for each in (left, *new[:-5:-1])]


def test_tasks_attempts_feedback_and_budgets_are_told(history: History, kept: tuple[Path, Sample]):
    made = kept[1]
    assert set(history.tasks(HOURS)["id"]) == {task.id for task in made.tasks}
    assert history.tasks(HOURS, status="cancelled")["cancel_requested_at"].null_count() == 0
    again = {task.id for task in made.tasks if task.attempt > 1}
    assert set(history.attempts(HOURS)["task_id"]) == again != set()
    assert history.feedback(HOURS)["rating"].value_counts().sort("rating")["rating"].to_list() == ["bad", "good"]
    assert history.budgets()["limit_tokens"].to_list() == [200_000, 50_000]
    assert history.alerts()["percent"].sort().to_list() == [80, 100]


async def test_of_the_samples_of_a_slot_the_last_is_told_with_the_mean_of_the_processor(tmp_path: Path):
    """Two services, each seen every ten minutes for three days."""
    url, moments = f"sqlite:///{tmp_path}/tale.db", [NOW - 600.0 * number for number in range(3 * 144)][::-1]
    for owner in ("here", "there"):
        await watch(url, moments, owner=owner)
    with analytics.open_history(url, clock=lambda: NOW) as history:
        for hours in (6, 24, 7 * 24, 30 * 24):
            window = replace(history.window(hours), until=NOW)
            slots: dict[int, list[int]] = {}
            for number, at in enumerate(moments):
                if window.since <= at < window.until:
                    slots.setdefault(int(at // window.slot_s), []).append(number)
            found = history.samples(window=window)
            for owner in ("here", "there"):
                own = found.filter(owner=owner)
                assert own["models_bytes"].to_list() == [held[-1] for held in slots.values()]
                assert own["cpu_share"].to_list() == [sum(held) / len(held) for held in slots.values()]
                assert own["at"].is_sorted()


async def test_samples_that_come_while_days_are_looked_at_are_seen(tmp_path: Path):
    url, now = f"sqlite:///{tmp_path}/tale.db", [NOW]
    await watch(url, [NOW - 9 * 86_400, NOW - 60])
    with analytics.open_history(url, clock=lambda: now[0]) as history:
        assert len(history.samples(30 * 24)) == 2
        now[0] += 600
        await watch(url, [NOW + 300], owner="there")
        assert history.samples(30 * 24)["owner"].to_list() == ["here", "here", "there"]


@pytest.mark.parametrize("is_there", [True, False])
async def test_where_there_is_nothing_every_frame_has_its_columns(tmp_path: Path, is_there: bool):
    if is_there:
        await Database.open(f"sqlite:///{tmp_path}/tale.db").close()
    with analytics.open_history(tmp_path / "tale.db") as history:
        window = history.window()
        told = {
            "MINUTES": history.minutes(),
            "CALLS": history.calls(),
            "TASKS": history.tasks(),
            "TASK_TIMES": history.task_times(window),
            "ATTEMPTS": history.attempts(),
            "FEEDBACK": history.feedback(),
            "BUDGETS": history.budgets(),
            "ALERTS": history.alerts(),
            "SAMPLES": history.samples(),
            "VIOLATIONS": history.violations(),
        }
        assert history.slowest(window).is_empty()
    for name, frame in told.items():
        assert frame.schema == pl.Schema(getattr(frames, name))
        assert frame.is_empty()
    minutes = told["MINUTES"]
    assert_frame_equal(frames.minutes_of(told["CALLS"]), minutes)
    assert summaries.totals(minutes, ["model"]).is_empty()
    assert summaries.percentiles(minutes, "total").row(0) == (0, None, None, None)
    assert summaries.percentiles_over_time(minutes, "total")["count"].to_list() == [None]


def test_a_file_that_is_no_database_is_refused_in_a_sentence(tmp_path: Path):
    (tmp_path / "tale.db").write_text("not a database, by far " * 100)
    with analytics.open_history(tmp_path / "tale.db") as history, pytest.raises(DatabaseException):
        history.minutes()


def test_a_database_that_is_not_there_yet_leaves_nothing_behind_at_each_look(tmp_path: Path):
    def kept() -> int:
        return sum(isinstance(each, GeneratorType) for each in gc.get_objects())

    with analytics.open_history(tmp_path / "tale.db", clock=lambda: NOW) as history:
        before = kept()
        for _ in range(20):
            assert history.calls().is_empty()
        assert kept() < before + 10
        seeded(f"sqlite:///{tmp_path}/tale.db", count=20)
        assert not history.calls().is_empty()


def test_the_history_is_that_of_the_settings_unless_another_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = seeded(f"sqlite:///{tmp_path}/tale.db", count=20)
    monkeypatch.setenv("TALE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with analytics.open_history(clock=lambda: NOW) as history:
        assert len(history.calls(HOURS)) == len(made.calls)


def test_columns_are_those_of_the_tables():
    assert {name for name in frames.MINUTES if name != "at"} == set(MINUTE_COLUMNS) - {"minute"}


def test_a_chart_is_divided_so_that_few_slots_fill_it():
    for hours in (0.25, 1, 6, 24, 7 * 24, 30 * 24):
        window = last_hours(hours, NOW)
        assert 10 <= len(window.slots) <= 150
        assert (window.until - window.since) % window.slot_s == 0


def test_the_window_of_a_frame_is_what_its_minutes_fill(history: History):
    window = window_of(history.minutes(HOURS))
    assert window.until - window.since == pytest.approx(HOURS * 3_600, abs=2 * window.slot_s)


def test_importing_tale_brings_neither_polars_nor_plotly_along():
    probe = "import sys, tale; assert not {'polars', 'plotly', 'sqlalchemy'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_the_monitor_of_a_service_needs_neither_polars_nor_plotly():
    probe = (
        "import sys, tale.monitoring.performance_monitor, tale.storage.monitoring_store;"
        "assert not {'polars', 'plotly'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
