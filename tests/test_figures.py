"""Figures draw the values of their frames, in colours that stay, and say what to run where there are none."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import plotly.graph_objects as go
import polars as pl
import pytest
from fakes.sample_history import LARGE, NOW, SMALL, seeded

from tale import analytics, figures
from tale.analytics import frames, summaries
from tale.analytics.windows import Window
from tale.figures.theme import Theme
from tale.histogram import ERROR

Frames = dict[str, Any]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """The frames of a history of three hours."""
    path = tmp_path_factory.mktemp("history") / "tale.db"
    seeded(f"sqlite:///{path}")
    with analytics.open_history(path, clock=lambda: NOW) as history:
        window = history.window(3)
        return {
            "window": window,
            "minutes": history.minutes(window=window),
            "calls": history.calls(window=window),
            "times": history.task_times(window),
            "budgets": history.budgets(),
            "attempts": history.attempts(window=window),
        }


def by_name(drawn: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in drawn.data}


def words(drawn: go.Figure) -> str:
    return " ".join(note.text for note in drawn.layout.annotations)


def test_two_lines_give_a_plot_from_minutes_and_from_calls(seen: Frames):
    both = (figures.latency(seen[name], window=seen["window"]) for name in ("minutes", "calls"))
    first, second = (by_name(drawn)["p95"] for drawn in both)
    assert list(first.x) == list(second.x)
    assert list(first.y) == list(second.y)


def test_latency_draws_the_percentiles_of_each_slot_with_p95_in_bold(seen: Frames):
    drawn = figures.latency(seen["minutes"], window=seen["window"], target=2.0)
    points = summaries.percentiles_over_time(seen["minutes"], "total", window=seen["window"])
    lines = by_name(drawn)
    for name in ("median", "p95", "p99"):
        assert list(lines[name].y) == points[name.replace("median", "p50")].to_list()
    assert lines["p95"].line.width > 2 * lines["median"].line.width
    assert drawn.layout.yaxis.title.text == "seconds"
    assert "p95 target<br>2 s" in words(drawn)
    assert [shape.y0 for shape in drawn.layout.shapes] == [2.0]


def test_times_are_those_of_the_zone(seen: Frames):
    utc, berlin = (figures.latency(seen["minutes"], theme=figures.LIGHT.knowing([], zone)) for zone in ("UTC", None))
    assert list(utc.data[0].x) == list(berlin.data[0].x)
    berlin = figures.latency(seen["minutes"], theme=figures.LIGHT.knowing([], "Europe/Berlin"))
    assert (berlin.data[0].x[0] - utc.data[0].x[0]).total_seconds() == 3_600
    assert berlin.layout.xaxis.title.text == "time (Europe/Berlin)"


def test_stacked_figures_add_up_to_the_sums_of_the_frame(seen: Frames):
    minutes, window = seen["minutes"], seen["window"]
    written = minutes["input_tokens"].sum() + minutes["output_tokens"].sum()
    assert sum(sum(trace.y) for trace in figures.tokens(minutes, window=window).data) == written
    assert sum(sum(trace.y) for trace in figures.token_kinds(minutes, window=window).data) == written
    outcomes = by_name(figures.outcomes(minutes, window=window))
    assert sum(sum(trace.y) for trace in outcomes.values()) == minutes["calls"].sum()
    assert sum(outcomes["failed"].y) == minutes["failed"].sum() > 0


def test_the_parts_of_the_time_are_means_by_call(seen: Frames):
    drawn = by_name(figures.parts_of_time(seen["minutes"], window=seen["window"]))
    sums, _ = summaries.over_time(seen["minutes"], seen["window"])
    rows = zip(drawn["writing"].y, sums["decode_s"], sums["calls"], strict=True)
    assert all(mean is None if not calls else mean == pytest.approx(whole / calls) for mean, whole, calls in rows)


def test_every_call_is_in_one_cell_of_the_heatmap(seen: Frames):
    (cells,) = figures.heatmap(seen["minutes"], window=seen["window"]).data
    assert sum(count or 0 for row in cells.z for count in row) == seen["minutes"]["calls"].sum()
    assert [float(edge) for edge in cells.y] == sorted(float(edge) for edge in cells.y)


def test_the_distribution_rises_to_all_calls_of_each_model(seen: Frames):
    lines = by_name(figures.distribution(seen["minutes"], target=2.0))
    assert set(lines) == {LARGE, SMALL}
    for line in lines.values():
        assert list(line.y) == sorted(line.y)
        assert line.y[-1] == pytest.approx(1.0)


def test_the_queue_is_drawn_from_the_tasks(seen: Frames):
    lines = by_name(figures.queue(seen["times"], seen["window"]))
    points = summaries.queue_over_time(seen["times"], seen["window"])
    assert list(lines["running"].y) == points["running"].to_list()
    assert list(lines["waiting"].y) == points["queued"].to_list()


def test_budgets_tell_how_much_is_used_and_cut_off_what_is_far_beyond(seen: Frames):
    used = by_name(figures.budget_use(seen["budgets"]))["used"]
    assert list(used.y) == ["all calls, a day (hard)", f"{LARGE}, a week (soft)"]
    row = seen["budgets"].row(0, named=True)
    assert used.x[0] == pytest.approx(100 * row["used_tokens"] / row["limit_tokens"])
    assert (used.x[1], used.marker.color[1]) == (150.0, figures.LIGHT.bad)


def test_what_failed_is_counted_by_its_kind(seen: Frames):
    drawn = figures.error_classes(seen["calls"])
    failed = seen["calls"].filter(error_class="ModelException")
    assert sum(sum(trace.x) for trace in drawn.data) == len(failed) > 0
    assert {kind for trace in drawn.data for kind in trace.y} == {"ModelException"}


def test_tasks_that_were_tried_again_are_told_by_their_end(seen: Frames):
    drawn = by_name(figures.recoveries(seen["attempts"]))
    assert sum(sum(trace.y) for trace in drawn.values()) == seen["attempts"]["task_id"].n_unique()
    assert "completed" in drawn


def test_loads_are_the_calls_that_waited_for_a_model(seen: Frames):
    drawn = figures.loads(seen["calls"], target=10.0)
    waited = seen["calls"].filter(pl.col("load_s") > 0)
    assert sorted(y for trace in drawn.data for y in trace.y) == sorted(waited["load_s"])


def test_speed_is_the_median_of_a_slot_against_its_calls(seen: Frames):
    window = seen["window"]
    drawn = by_name(figures.speed(seen["minutes"], window=window))
    assert set(drawn) == {SMALL, LARGE}
    slot = pl.col("started_at").dt.truncate(f"{window.slot_s}s").alias("slot")
    ended = seen["calls"].filter(pl.col("total_s").is_not_null())
    rate = (pl.col("output_tokens") / pl.col("decode_s")).quantile(0.5, "lower").alias("rate")
    points = ended.group_by("model", slot).agg(pl.len().alias("calls"), rate).drop_nulls("rate").sort("slot")
    for model, trace in drawn.items():
        own = points.filter(model=model)
        assert list(trace.x) == own["calls"].to_list()
        assert list(trace.y) == pytest.approx(own["rate"].to_list(), rel=ERROR)


def test_the_allowance_ends_where_the_share_of_slow_calls_says(seen: Frames):
    minutes, window = seen["minutes"], seen["window"]
    drawn = figures.burn_down(minutes, "total", 2.0, window=window)
    count, beyond = summaries.shares_beyond(minutes, "total", 2.0).row(0)
    assert drawn.data[0].y[-1] == pytest.approx(100 * (1 - beyond / (count * 0.05)))


def test_the_calendar_shows_each_day_and_four_weeks_at_least():
    rows = [("First words", date(2026, 1, 30), 40, 0.5, "met"), ("First words", date(2026, 1, 31), 40, 1.5, "missed")]
    (cells,) = figures.calendar(pl.DataFrame(rows, schema=dict(frames.DAYS), orient="row")).data
    assert len(cells.x) == 28
    assert (cells.x[-1], list(cells.z[0][-3:])) == (date(2026, 1, 31), [0, 2, 1])


def test_memory_is_drawn_for_each_model_that_tells_it():
    models = '[{"name": "a", "memory_bytes": 1073741824}, {"name": "b", "memory_bytes": null}]'
    rows = [
        ("1", NOW, "here", 2**30, 0.5, 2**33, 1, 0, 2**30, models),
        ("2", NOW + 10, "here", 2**31, 1.0, 2**33, 0, 0, 2**30, models),
    ]
    samples = frames.frame_of(rows, frames.SAMPLES)
    (trace,) = figures.model_memory(samples, limit_bytes=2**31).data
    assert (trace.name, list(trace.y)) == ("a", [1.0, 1.0])
    lines = by_name(figures.machine(samples))
    assert (list(lines["service"].y), list(lines["processor"].y)) == ([1.0, 2.0], [0.5, 1.0])


def test_nothing_is_drawn_of_a_time_in_which_the_machine_was_not_watched():
    """Nine hours; of two services, the other one holds no models, and is always there."""
    loaded, unloaded = (json.dumps([{"name": "a", "memory_bytes": each}]) for each in (2**30, None))
    minutes = [*range(0, 60, 10), *range(600, 660, 10)]
    held = [(minute, "here", unloaded if minute == 20 else loaded) for minute in minutes]
    told = sorted([*held, *((minute + 5, "there", "[]") for minute in range(0, 660, 10))])
    rows = [(f"{n}", NOW + 60 * at, who, 2**30, 0.5, None, 0, 0, 2**30, of) for n, (at, who, of) in enumerate(told)]
    samples = frames.frame_of(rows, frames.SAMPLES)
    (trace,) = figures.model_memory(samples).data
    assert list(trace.y) == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0] + 6 * [1.0]
    assert (trace.x[7] - trace.x[6]) / timedelta(hours=1) == pytest.approx(550 / 60)
    own = samples.filter(owner="here")
    for line in figures.machine(own).data:
        assert [place for place, value in enumerate(line.y) if value is None] == [6]
        assert line.x[6] - line.x[5] == timedelta(microseconds=1)


def test_a_machine_that_is_watched_once_a_day_is_drawn_as_such():
    """Ten days, each sample that of a slot of six hours."""
    models = json.dumps([{"name": "a", "memory_bytes": 2**30}])
    rows = [(f"{day}", NOW + 86_400 * day, "here", 2**30, 0.5, None, 0, 0, 2**30, models) for day in range(10)]
    samples = frames.frame_of(rows, frames.SAMPLES)
    for line in figures.machine(samples, slot_s=21_600).data:
        assert list(line.y).count(None) == 9
    (trace,) = figures.model_memory(samples, slot_s=21_600).data
    assert list(trace.y) == [1.0] + 9 * [0.0, 0.0, 1.0]


def test_the_waterfall_puts_the_calls_of_a_task_after_each_other(seen: Frames):
    first, second = (seen["calls"].sort("started_at").filter(pl.col("total_s").is_not_null())[n] for n in (0, 1))
    drawn = figures.waterfall(pl.concat([second, first]))
    gap = (second["started_at"][0] - first["started_at"][0]).total_seconds()
    assert list(drawn.data[0].x) == [0.0, pytest.approx(gap)]
    assert list(by_name(drawn)["writing"].x) == [first["decode_s"][0], second["decode_s"][0]]


def predictions() -> pl.DataFrame:
    """Four tasks of the large model; one of them has not ended."""
    rows = [
        (NOW, LARGE, 100.0, 150.0, 110.0, 0.92, True),
        (NOW + 1, LARGE, 100.0, 150.0, 170.0, 0.96, False),
        (NOW + 2, LARGE, 50.0, 80.0, None, 0.1, None),
        (NOW + 70, LARGE, 10.0, 20.0, 10.0, 0.15, False),
    ]
    return frames.frame_of(rows, frames.PREDICTIONS)


def test_predictions_are_held_against_what_came_of_them():
    window = Window(NOW - 30, NOW + 90, 60)
    assert list(figures.prediction_error(predictions(), window).data[0].y) == [40.0, 0.0]
    covered = figures.budget_coverage(predictions(), window)
    assert (list(covered.data[0].y), covered.layout.shapes[0].y0) == ([0.5, 1.0], 0.95)
    ideal, large = figures.reliability_diagram(predictions()).data
    assert list(ideal.x) == list(ideal.y) == [0, 1]
    assert (list(large.x), list(large.y)) == ([0.15, pytest.approx(0.94)], [0.0, 0.5])


AN_HOUR = Window(0, 3_600, 60)
EMPTY: dict[str, Callable[[Theme], go.Figure]] = {
    "latency": lambda theme: figures.latency(frames.empty(frames.MINUTES), theme=theme),
    "latency of calls": lambda theme: figures.latency(frames.empty(frames.CALLS), theme=theme),
    "heatmap": lambda theme: figures.heatmap(frames.empty(frames.MINUTES), theme=theme),
    "distribution": lambda theme: figures.distribution(frames.empty(frames.MINUTES), theme=theme),
    "parts": lambda theme: figures.parts_of_time(frames.empty(frames.MINUTES), theme=theme),
    "tokens": lambda theme: figures.tokens(frames.empty(frames.MINUTES), theme=theme),
    "kinds": lambda theme: figures.token_kinds(frames.empty(frames.MINUTES), theme=theme),
    "budgets": lambda theme: figures.budget_use(frames.empty(frames.BUDGETS), theme=theme),
    "outcomes": lambda theme: figures.outcomes(frames.empty(frames.MINUTES), theme=theme),
    "rate": lambda theme: figures.error_rate(frames.empty(frames.MINUTES), theme=theme),
    "classes": lambda theme: figures.error_classes(frames.empty(frames.CALLS), theme=theme),
    "recoveries": lambda theme: figures.recoveries(frames.empty(frames.ATTEMPTS), theme=theme),
    "queue": lambda theme: figures.queue(frames.empty(frames.TASK_TIMES), AN_HOUR, theme=theme),
    "machine": lambda theme: figures.machine(frames.empty(frames.SAMPLES), theme=theme),
    "memory": lambda theme: figures.model_memory(frames.empty(frames.SAMPLES), theme=theme),
    "loads": lambda theme: figures.loads(frames.empty(frames.CALLS), theme=theme),
    "speed": lambda theme: figures.speed(frames.empty(frames.MINUTES), theme=theme),
    "burn-down": lambda theme: figures.burn_down(frames.empty(frames.MINUTES), "total", 1.0, theme=theme),
    "calendar": lambda theme: figures.calendar(frames.empty(frames.DAYS), theme=theme),
    "error": lambda theme: figures.prediction_error(frames.empty(frames.PREDICTIONS), AN_HOUR, theme=theme),
    "coverage": lambda theme: figures.budget_coverage(
        frames.empty(frames.PREDICTIONS), Window(0, 600, 60), theme=theme
    ),
    "diagram": lambda theme: figures.reliability_diagram(frames.empty(frames.PREDICTIONS), theme=theme),
    "waterfall": lambda theme: figures.waterfall(frames.empty(frames.CALLS), theme=theme),
}


@pytest.mark.parametrize("name", EMPTY)
def test_without_data_a_figure_says_so_in_a_sentence(name: str):
    drawn = EMPTY[name](figures.DARK)
    assert list(drawn.data) == []
    assert words(drawn).strip()
    assert drawn.layout.font.color == figures.DARK.text


def test_a_model_keeps_its_colour_whatever_else_is_shown():
    names = [f"model-{number}" for number in range(6)]
    theme = figures.LIGHT.knowing(names)
    colours = [theme.colour_of(name) for name in names]
    assert len(set(colours)) == len(names)
    assert set(colours) <= set(theme.palette)
    before = figures.LIGHT.knowing(names[:3])  # before the others came
    assert [before.colour_of(name) for name in names[:3]] == colours[:3]
    assert figures.LIGHT.colour_of("alone") == figures.LIGHT.colour_of("alone")


def test_more_models_than_colours_still_have_one():
    theme = figures.DARK.knowing([f"model-{number}" for number in range(30)])
    assert all(theme.colour_of(name) in theme.palette for name in theme.models)
