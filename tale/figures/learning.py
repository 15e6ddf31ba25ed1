"""How good predictions are: their error over time, the budgets they set, and whether chances are what they say."""

from typing import Final

import plotly.graph_objects as go
import polars as pl

from tale.analytics.windows import Window
from tale.figures.theme import LIGHT, Theme, figure, nothing, reach, show_target, times

NO_PREDICTIONS: Final = "No predicted task has ended in this time.<br>Run: tale submit 'Write a haiku'"
NO_OUTCOMES: Final = "Of no predicted task it is known whether it succeeded.<br>Run: tale submit 'Write a haiku'"
BINS: Final = 10
NOMINAL: Final = 0.95  # share of answers that a budget is to cover


def prediction_error(predictions: pl.DataFrame, window: Window, *, theme: Theme = LIGHT) -> go.Figure:
    """The mean error of predicted lengths, slot by slot; of a frame of predictions."""
    title = "Error of predicted lengths"
    points = error_points(predictions, window)
    if points.is_empty():
        return nothing(theme, title, NO_PREDICTIONS)
    drawn = figure(theme, title, y_title="tokens, mean absolute error", showlegend=False)
    moments = times(theme, points["slot"])
    line = {"color": theme.accent, "width": 2.2}
    drawn.add_scatter(x=moments, y=points["error"].to_list(), name="error", mode="lines+markers", line=line)
    reach(drawn, theme, window.begin, window.end)
    return drawn


def budget_coverage(
    predictions: pl.DataFrame, window: Window, *, nominal: float = NOMINAL, theme: Theme = LIGHT
) -> go.Figure:
    """The share of answers that fitted into the budget that was predicted for them, against what was promised."""
    title = "Answers within their predicted budget"
    points = error_points(predictions, window)
    if points.is_empty():
        return nothing(theme, title, NO_PREDICTIONS)
    drawn = figure(theme, title, y_title="share of answers", showlegend=False)
    moments = times(theme, points["slot"])
    line = {"color": theme.accent, "width": 2.2}
    drawn.add_scatter(x=moments, y=points["covered"].to_list(), name="within", mode="lines+markers", line=line)
    drawn.update_yaxes(tickformat=".0%", range=[0, 1.02])
    reach(drawn, theme, window.begin, window.end)
    show_target(drawn, theme, nominal, f"promised<br>{nominal:.0%}")
    return drawn


def error_points(predictions: pl.DataFrame, window: Window) -> pl.DataFrame:
    """`slot`, `error` (mean absolute, in tokens), `covered` (share within the budget) and `count` of ended tasks."""
    ended = predictions.filter(
        pl.col("output_tokens").is_not_null(), pl.col("at") >= window.begin, pl.col("at") < window.end
    )
    slot = pl.col("at").dt.truncate(f"{window.slot_s}s").alias("slot")
    error = (pl.col("predicted_tokens") - pl.col("output_tokens")).abs().mean()
    covered = (pl.col("output_tokens") <= pl.col("budget_tokens")).mean()
    sums = ended.group_by(slot).agg(error.alias("error"), covered.alias("covered"), pl.len().alias("count"))
    return sums.sort("slot")


def reliability_diagram(predictions: pl.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """The share of tasks that succeeded against the chance that was predicted; on the diagonal both agree."""
    title = "Predicted and real success"
    points = reliability_points(predictions)
    if points.is_empty():
        return nothing(theme, title, NO_OUTCOMES)
    drawn = figure(theme, title, y_title="share that succeeded", hovermode="closest")
    ideal = {"color": theme.muted, "dash": "dash", "width": 1.2}
    drawn.add_scatter(x=[0, 1], y=[0, 1], name="ideal", mode="lines", line=ideal, hoverinfo="skip")
    for model in points["model"].unique().sort().to_list():
        own = points.filter(pl.col("model") == model)
        drawn.add_scatter(
            x=own["chance"].to_list(),
            y=own["share"].to_list(),
            name=model,
            mode="lines+markers",
            line={"color": theme.colour_of(model), "width": 2},
            customdata=own["count"].to_list(),
            hovertemplate="predicted %{x:.0%}<br>succeeded %{y:.0%}<br>%{customdata} tasks",
        )
    drawn.update_xaxes(tickformat=".0%", range=[0, 1.02], title={"text": "predicted chance"})
    drawn.update_yaxes(tickformat=".0%", range=[0, 1.02])
    return drawn


def reliability_points(predictions: pl.DataFrame) -> pl.DataFrame:
    """`model`, `bin`, `chance` and `share` (means) and `count`, of the tasks of which it is known how they ended."""
    known = predictions.drop_nulls(["chance", "succeeded"])
    place = (pl.col("chance") * BINS).floor().clip(0, BINS - 1).cast(pl.Int64).alias("bin")
    means = pl.col("chance").mean(), pl.col("succeeded").mean().alias("share"), pl.len().alias("count")
    return known.group_by("model", place).agg(means).sort("model", "bin")
