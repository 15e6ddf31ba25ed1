"""What the service carries: the queue of tasks, and the machine under it."""

from datetime import timedelta
from typing import Final

import plotly.graph_objects as go
import polars as pl

from tale.analytics.frames import SECOND_US
from tale.analytics.summaries import queue_over_time
from tale.analytics.windows import Window
from tale.constants import MONITOR_INTERVAL
from tale.figures.theme import LIGHT, LOW, Theme, figure, nothing, reach, show_side, times

GIB: Final = 2**30
FAR: Final = 3  # times as long as usual
FEW: Final = 8  # tasks, counted one by one at the axis
INSTANT: Final = timedelta(microseconds=1)
NO_TASKS: Final = "No tasks in this time.<br>Run: tale submit 'Write a haiku'"
NO_SAMPLES: Final = "The machine was not watched in this time.<br>Run: tale servers start"


def queue(task_times: pl.DataFrame, window: Window, *, theme: Theme = LIGHT) -> go.Figure:
    """The tasks that waited and ran, slot by slot."""
    title = "Tasks waiting and running"
    if task_times.is_empty():
        return nothing(theme, title, NO_TASKS)
    points = queue_over_time(task_times, window)
    drawn = figure(theme, title, y_title="tasks")
    moments = times(theme, points["slot"])
    for name, words, colour in (("running", "running", theme.accent), ("queued", "waiting", theme.warning)):
        line = {"color": colour, "width": 1.4, "shape": "hv"}
        drawn.add_scatter(
            x=moments,
            y=points[name].to_list(),
            name=words,
            mode="lines",
            stackgroup="tasks",
            line=line,
            fillcolor=theme.faint(colour, 0.35),
            hovertemplate="%{y:,}",
        )
    if points.select(pl.sum_horizontal("queued", "running").max()).item() < FEW:
        drawn.update_yaxes(dtick=1)  # no fractions of tasks
    reach(drawn, theme, points["slot"][0], points["slot"][-1])
    return drawn


def machine(samples: pl.DataFrame, *, slot_s: float | None = None, theme: Theme = LIGHT) -> go.Figure:
    """Memory of the service and of its models, and the cores that it keeps busy; `slot_s` as in `gaps`."""
    title = "Memory and processor"
    if samples.is_empty():
        return nothing(theme, title, NO_SAMPLES, height=LOW)
    samples = _with_gaps(samples, slot_s)
    drawn = figure(theme, title, y_title="GiB")
    moments = times(theme, samples["at"])
    memory = (("models", "models_bytes", theme.palette[3]), ("service", "memory_bytes", theme.accent))
    for name, column, colour in memory:
        values = (samples[column] / GIB).to_list()
        line = {"color": colour, "width": 1.6}
        drawn.add_scatter(x=moments, y=values, name=name, mode="lines", line=line, hovertemplate="%{y:.2f} GiB")
    drawn.add_scatter(
        x=moments,
        y=samples["cpu_share"].to_list(),
        name="processor",
        mode="lines",
        yaxis="y2",
        line={"color": theme.warning, "width": 1.2, "dash": "dot"},
        hovertemplate="%{y:.2f} cores",
    )
    show_side(drawn, theme, "cores")
    reach(drawn, theme, samples["at"][0], samples["at"][-1])
    return drawn


def gaps(samples: pl.DataFrame, slot_s: float | None) -> pl.DataFrame:
    """`owner`, `begin`, `end` of each time in which a service was not watched, just after and before a sample.

    Of samples in order of time, such are far longer apart than the slots of which each is; where `slot_s` is None, than
    two of that service usually are.
    """
    at, passed = pl.col("at"), pl.col("passed")
    told = samples.select("owner", at.shift().over("owner").alias("begin"), at.alias("end"))
    told = told.with_columns((pl.col("end") - pl.col("begin")).dt.total_microseconds().alias("passed"))
    usual = passed.quantile(0.5, "lower").over("owner") if slot_s is None else pl.lit(slot_s * SECOND_US)
    found = told.filter(passed > FAR * usual, passed > FAR * MONITOR_INTERVAL * SECOND_US)
    return found.select("owner", pl.col("begin") + INSTANT, pl.col("end") - INSTANT)


def _with_gaps(samples: pl.DataFrame, slot_s: float | None) -> pl.DataFrame:
    """The samples, and one that says nothing at the beginning of each gap, where lines then end."""
    begins = gaps(samples, slot_s).select("owner", pl.col("begin").alias("at"))
    return pl.concat([samples, begins], how="diagonal").sort("at")
