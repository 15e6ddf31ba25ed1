"""How calls and tasks end: what fails, what is tried again, and what becomes of it."""

from typing import Final

import plotly.graph_objects as go
import polars as pl

from tale.analytics import summaries
from tale.analytics.frames import minutes_of
from tale.analytics.windows import Window
from tale.figures.theme import LIGHT, Theme, figure, nothing, reach, show_target, times
from tale.figures.tokens import per

NO_FAILURE: Final = "Nothing failed in this time."
NO_RETRY: Final = "No task had to be tried again in this time."
SHOWN: Final = 8  # classes of errors
BAR: Final = 0.35  # of the room that a bar has


def outcomes(frame: pl.DataFrame, *, window: Window | None = None, theme: Theme = LIGHT) -> go.Figure:
    """Calls by slot and how they ended."""
    title = "Calls by outcome"
    if (minutes := minutes_of(frame)).is_empty():
        return nothing(theme, title)
    sums, window = summaries.over_time(minutes, window)
    drawn = figure(theme, title, y_title=f"calls per {per(window)}", barmode="stack", bargap=0.1)
    completed = (sums["calls"] - sums["failed"] - sums["cancelled"]).to_list()
    moments = times(theme, sums["slot"])
    styles = (
        ("completed", completed, theme.accent),
        ("cancelled", sums["cancelled"].to_list(), theme.muted),
        ("failed", sums["failed"].to_list(), theme.bad),
    )
    for name, counts, colour in styles:
        drawn.add_bar(x=moments, y=counts, name=name, marker={"color": colour}, hovertemplate="%{y:,}")
    reach(drawn, theme, sums["slot"][0], sums["slot"][-1])
    return drawn


def error_rate(
    frame: pl.DataFrame, *, window: Window | None = None, target: float | None = None, theme: Theme = LIGHT
) -> go.Figure:
    """The share of each model's calls that failed, by slot; cancelled ones are nobody's fault."""
    title = "Failed calls"
    if (minutes := minutes_of(frame)).is_empty():
        return nothing(theme, title)
    sums, window = summaries.over_time(minutes, window, by=["model"])
    share = pl.when(pl.col("calls") > 0).then(pl.col("failed") / pl.col("calls"))
    points = sums.select("slot", "model", share.alias("share"))
    drawn = figure(theme, title, y_title="share of calls")
    for model in points["model"].unique().sort().to_list():
        own = points.filter(pl.col("model") == model)
        line = {"color": theme.colour_of(model), "width": 1.8}
        drawn.add_scatter(
            x=times(theme, own["slot"]),
            y=own["share"].to_list(),
            name=model,
            mode="lines+markers",
            marker={"size": 3},
            line=line,
            hovertemplate="%{y:.1%}",
        )
    drawn.update_yaxes(tickformat=".0%")
    reach(drawn, theme, points["slot"][0], points["slot"][-1])
    if target is not None:
        show_target(drawn, theme, target, f"target<br>{target:.0%}")
    return drawn


def error_classes(calls: pl.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """What calls failed of: the commonest classes of errors, by model; of a frame of calls."""
    title = "Why calls failed"
    found = calls.filter(pl.col("error_class").is_not_null(), pl.col("error_class") != "Cancelled")
    if found.is_empty():
        return nothing(theme, title, NO_FAILURE)
    counts = found.group_by("error_class", "model").len("count").sort("count", "error_class", "model", descending=True)
    order = counts.group_by("error_class").agg(pl.col("count").sum()).sort("count", "error_class").tail(SHOWN)
    drawn = figure(theme, title, barmode="stack", hovermode="y unified")
    for model in counts["model"].unique().sort().to_list():
        own = counts.filter(pl.col("model") == model)
        drawn.add_bar(
            orientation="h",
            width=BAR,
            x=own["count"].to_list(),
            y=own["error_class"].to_list(),
            name=model,
            marker={"color": theme.colour_of(model)},
            hovertemplate="%{x:,}",
        )
    drawn.update_yaxes(categoryorder="array", categoryarray=order["error_class"].to_list(), title={"text": ""})
    drawn.update_xaxes(title={"text": "failed calls"}, rangemode="tozero")
    return drawn


def recoveries(attempts: pl.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """What became of tasks whose first attempt did not succeed, by how many attempts they took."""
    title = "Tasks that were tried again"
    ends = recovered(attempts)
    if ends.is_empty():
        return nothing(theme, title, NO_RETRY)
    drawn = figure(theme, title, y_title="tasks", barmode="stack")
    colours = {"completed": theme.good, "failed": theme.bad, "cancelled": theme.muted}
    for outcome in ends["outcome"].unique().sort().to_list():
        own = ends.filter(pl.col("outcome") == outcome)
        colour = {"color": colours.get(outcome, theme.warning)}
        drawn.add_bar(x=own["attempts"].to_list(), y=own["tasks"].to_list(), name=outcome, marker=colour, width=BAR)
    drawn.update_xaxes(title={"text": "attempts made"}, dtick=1)
    return drawn


def recovered(attempts: pl.DataFrame) -> pl.DataFrame:
    """`attempts`, `outcome`, `tasks`: how many tasks ended so with their last attempt; "running" where it runs."""
    last = attempts.sort("task_id", "number").group_by("task_id", maintain_order=True).last()
    named = last.select(pl.col("number").alias("attempts"), pl.col("outcome").fill_null("running"))
    return named.group_by("attempts", "outcome").len("tasks").sort("attempts", "outcome")
