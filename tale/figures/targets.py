"""How the service stands against its targets over time: what is left of the allowance, and which days were good."""

from typing import Final

import plotly.graph_objects as go
import polars as pl

from tale.analytics import summaries
from tale.analytics.frames import minutes_of
from tale.analytics.summaries import Measure
from tale.analytics.windows import Window
from tale.figures.theme import LIGHT, Theme, figure, nothing, reach, times

NO_DAYS: Final = "No target was measured yet.<br>Run: tale chat"
STATES: Final = ("unknown", "missed", "met")
ROW_PIXELS: Final = 34
FEWEST_DAYS: Final = 28  # shown, however few were measured


def burn_down(
    frame: pl.DataFrame,
    measure: Measure,
    limit: float,
    *,
    percentile: float = 0.95,
    window: Window | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """What is left of the calls that may lie beyond the limit, over the window; below zero the target is missed.

    The allowance is that share of all the window's calls which the percentile leaves, as error budgets are counted in
    "The Site Reliability Workbook" (2018), chapter 5.
    """
    title = "What is left of the allowance"
    minutes, window = summaries.slotted(minutes_of(frame), window)
    points = left_over(minutes, measure, limit, percentile=percentile)
    if points.is_empty():
        return nothing(theme, title)
    drawn = figure(theme, title, y_title="% of the allowance", showlegend=False)
    drawn.add_scatter(
        x=times(theme, points["slot"]),
        y=points["left"].to_list(),
        name="left",
        mode="lines",
        line={"color": theme.accent, "width": 2.2, "shape": "hv"},
        fill="tozeroy",
        fillcolor=theme.faint(theme.accent, 0.12),
        hovertemplate="%{y:.0f} %",
    )
    drawn.add_hline(y=0, line={"dash": "dash", "color": theme.warning, "width": 1.5})
    drawn.update_yaxes(rangemode="normal")
    reach(drawn, theme, window.begin, window.end)
    return drawn


def left_over(minutes: pl.DataFrame, measure: Measure, limit: float, *, percentile: float) -> pl.DataFrame:
    """`slot`, `left`: the percentage of the allowance that is left after each slot of minutes with slots."""
    counts = summaries.shares_beyond(minutes, measure, limit, by=["slot"])
    allowed = pl.col("count").sum() * (1 - percentile)
    return counts.select("slot", (100 * (1 - pl.col("beyond").cum_sum() / allowed)).alias("left"))


def calendar(days: pl.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """For each target and day whether it was met, missed, or too little was measured; of a frame of days."""
    title = "Which days met the targets"
    if days.is_empty():
        return nothing(theme, title, NO_DAYS)
    targets = days["target"].unique(maintain_order=True).to_list()
    last = pl.col("day").max()
    first = pl.min_horizontal(pl.col("day").min(), last.dt.offset_by(f"-{FEWEST_DAYS - 1}d"))
    dates = days.select(pl.date_range(first, last).alias("day"))["day"].to_list()
    found = {(target, day): (measured, status) for target, day, _, measured, status in days.iter_rows()}
    cells = [[found.get((target, day), (None, "unknown")) for day in dates] for target in targets]
    colours = [theme.grid, theme.bad, theme.good]
    steps = [[edge, colour] for n, colour in enumerate(colours) for edge in (n / 3, (n + 1) / 3)]
    drawn = figure(theme, title, height=120 + ROW_PIXELS * len(targets), hovermode="closest", showlegend=False)
    drawn.add_heatmap(
        x=dates,
        y=targets,
        z=[[STATES.index(status) for _, status in row] for row in cells],
        customdata=[[_told(*cell) for cell in row] for row in cells],
        zmin=0,
        zmax=2,
        colorscale=steps,
        showscale=False,
        xgap=3,
        ygap=3,
        hovertemplate="%{y}, %{x|%d %b}<br>%{customdata}<extra></extra>",
    )
    drawn.update_yaxes(autorange="reversed", title={"text": ""}, showgrid=False)
    drawn.update_xaxes(tickformat="%d %b", title={"text": "day"})
    return drawn


def _told(measured: float | None, status: str) -> str:
    return "too little was measured" if measured is None else f"{status}: {measured:.3g}"
