"""Which model does tasks, and what that choice has cost where it was wrong; of frames of LEARNED."""

from typing import Final

import plotly.graph_objects as go
import polars as pl

from tale.analytics.windows import Window
from tale.figures.learning import NO_PREDICTIONS
from tale.figures.theme import LIGHT, Theme, figure, nothing, reach, show_side, times
from tale.figures.tokens import per

NO_REGRET: Final = "No attempt of the small model had to be made again."
ROUTES: Final = ("small model", "small, tried on purpose", "task model")


def routes(predictions: pl.DataFrame, window: Window, *, theme: Theme = LIGHT) -> go.Figure:
    """The share of attempts that each model was given, slot by slot."""
    title = "Which model does the tasks"
    points = route_points(predictions, window)
    if points.is_empty():
        return nothing(theme, title, NO_PREDICTIONS)
    drawn = figure(theme, title, y_title="share of attempts", barmode="stack", bargap=0.1)
    moments = times(theme, points["slot"])
    for route, colour in zip(ROUTES, (theme.palette[0], theme.palette[4], theme.palette[1]), strict=True):
        shares = (points[route] / points["count"]).to_list()
        drawn.add_bar(
            x=moments,
            y=shares,
            name=route,
            marker={"color": colour},
            customdata=points[route].to_list(),
            hovertemplate="%{y:.0%} (%{customdata})",
        )
    drawn.update_yaxes(tickformat=".0%", range=[0, 1.02])
    reach(drawn, theme, window.begin, window.end)
    return drawn


def route_points(predictions: pl.DataFrame, window: Window) -> pl.DataFrame:
    """`slot`, `count` and how many attempts took each of ROUTES."""
    is_small = pl.col("role") == "ux"
    counts = (is_small & ~pl.col("explored"), is_small & pl.col("explored"), ~is_small)
    sums = [each.sum().cast(pl.Int64).alias(name) for name, each in zip(ROUTES, counts, strict=True)]
    return _slotted(predictions, window).group_by("slot").agg(pl.len().alias("count"), *sums).sort("slot")


def regret(predictions: pl.DataFrame, window: Window, *, small_cost: float, theme: Theme = LIGHT) -> go.Figure:
    """The regret of routing that can be seen: what the small model wrote in vain, an attempt, and all together.

    Its tokens count `small_cost` of the task model's. What it would have done with the other tasks is not known.
    """
    title = "Regret of routing: what the small model wrote in vain"
    points = regret_points(predictions, window, small_cost=small_cost)
    if points.is_empty():
        return nothing(theme, title, NO_PREDICTIONS)
    if not points["all"][-1]:
        return nothing(theme, title, NO_REGRET)
    drawn = figure(theme, title, y_title=f"tokens an attempt, per {per(window)}", bargap=0.1)
    moments = times(theme, points["slot"])
    bars = {"name": "an attempt", "marker": {"color": theme.warning}, "hovertemplate": "%{y:.1f} tokens"}
    drawn.add_bar(x=moments, y=points["mean"].to_list(), **bars)
    line = {"color": theme.bad, "width": 2, "shape": "hv"}
    whole = {"name": "all together", "mode": "lines", "line": line, "yaxis": "y2", "hovertemplate": "%{y:,.0f} tokens"}
    drawn.add_scatter(x=moments, y=points["all"].to_list(), **whole)
    show_side(drawn, theme, "tokens, all together")
    reach(drawn, theme, window.begin, window.end)
    return drawn


def regret_points(predictions: pl.DataFrame, window: Window, *, small_cost: float) -> pl.DataFrame:
    """`slot`, `mean` (weighed tokens in vain, an attempt) and `all` (of this and all earlier slots)."""
    in_vain = (pl.col("role") == "ux") & pl.col("succeeded").not_().fill_null(False)
    tokens = pl.when(in_vain).then(pl.col("output_tokens")).otherwise(0).fill_null(0) * small_cost
    slots = _slotted(predictions, window).group_by("slot").agg(tokens.mean().alias("mean"), tokens.sum().alias("sum"))
    return slots.sort("slot").select("slot", "mean", pl.col("sum").cum_sum().alias("all"))


def _slotted(predictions: pl.DataFrame, window: Window) -> pl.DataFrame:
    within = predictions.filter(pl.col("at") >= window.begin, pl.col("at") < window.end)
    return within.with_columns(pl.col("at").dt.truncate(f"{window.slot_s}s").alias("slot"))
