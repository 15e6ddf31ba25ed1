"""How good predictions are: their error over time, the budgets they set, and whether chances are what they say."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from tale.analytics.windows import Window
from tale.figures.theme import LIGHT, LOW, Theme, figure, nothing, reach, show_target, times

NO_PREDICTIONS: Final = "No predicted task has ended in this time.<br>Run: tale submit 'Write a haiku'"
NO_OUTCOMES: Final = "Of no predicted task it is known whether it succeeded.<br>Run: tale submit 'Write a haiku'"
NO_VERSIONS: Final = (
    "No version yet; the first is made in a minute, unless learning is off.<br>Run: tale learn --report"
)
PLAIN: Final = "median of earlier answers"
ROLLING: Final = 50  # answers, over which errors are averaged
ROW_PIXELS: Final = 30
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
    if "plain" in points.columns:
        plain = {"color": theme.muted, "width": 1.2, "dash": "dash"}
        drawn.add_scatter(x=moments, y=points["plain"].to_list(), name=PLAIN, mode="lines+markers", line=plain)
        drawn.update_layout(showlegend=True)
    drawn.add_scatter(x=moments, y=points["error"].to_list(), name="error", mode="lines+markers", line=line)
    drawn.update_traces(hovertemplate="%{y:.1f} tokens")
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
    """`slot`, `error` (mean absolute, in tokens), `covered` (share within the budget) and `count` of ended tasks.

    Of a frame of LEARNED only answers count that tell how their predictions did, and `plain` is the error of the
    simplest guess.
    """
    ended = _telling(predictions).filter(pl.col("at") >= window.begin, pl.col("at") < window.end)
    slot = pl.col("at").dt.truncate(f"{window.slot_s}s").alias("slot")
    error = (pl.col("predicted_tokens") - pl.col("output_tokens")).abs().mean()
    covered = (pl.col("output_tokens") <= pl.col("budget_tokens")).mean()
    sums = [error.alias("error"), covered.alias("covered"), pl.len().alias("count")]
    if "plain_tokens" in ended.columns:
        sums.append((pl.col("plain_tokens") - pl.col("output_tokens")).abs().mean().alias("plain"))
    return ended.group_by(slot).agg(sums).sort("slot")


def learning_curve(predictions: pl.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """The error of the latest answers against how many there were, beside that of the simplest guess.

    Each was predicted before it was there (prequential, Dawid 1984); of a frame of LEARNED, in order of time. A dotted
    line stands where another version took over.
    """
    title = f"Learning curve: mean error of {ROLLING} answers"
    points = curve_points(predictions)
    if points.is_empty():
        return nothing(theme, "Learning curve", f"It takes {ROLLING} predicted answers.")
    drawn = figure(theme, title, y_title="tokens, mean absolute error")
    styles = {"plain": (PLAIN, theme.muted, 1.2, "dash"), "error": ("error", theme.accent, 2.2, "solid")}
    for name, (words, colour, width, dash) in styles.items():
        drawn.add_scatter(
            x=points["answers"].to_list(),
            y=points[name].to_list(),
            name=words,
            mode="lines",
            line={"color": colour, "width": width, "dash": dash},
            hovertemplate="%{y:.1f} tokens",
        )
    style = {"dash": "dot", "color": theme.good, "width": 1.2}
    upright = {"type": "line", "y0": 0, "y1": 1, "yref": "y domain", "line": style}
    changes = points.filter(pl.col("is_new"))["answers"].to_list()
    drawn.update_layout(shapes=[{**upright, "x0": at, "x1": at} for at in changes])  # one by one, fifty take seconds
    drawn.update_xaxes(title_text="answers of this time; dotted: a new version served")
    return drawn


def curve_points(predictions: pl.DataFrame) -> pl.DataFrame:
    """`answers`, `error` and `plain` (means of the latest ones), `is_new` where another version had predicted."""
    known = _telling(predictions).with_row_index("answers", offset=1)

    def rolling(column: str) -> pl.Expr:
        return (pl.col(column) - pl.col("output_tokens")).abs().rolling_mean(ROLLING, min_samples=ROLLING // 2)

    is_new = (pl.col("version") != pl.col("version").shift(1)).fill_null(False)
    points = known.select(
        "answers",
        rolling("predicted_tokens").alias("error"),
        rolling("plain_tokens").alias("plain"),
        is_new.alias("is_new"),
    )
    return points.filter(pl.col("answers") >= ROLLING)


def _telling(predictions: pl.DataFrame) -> pl.DataFrame:
    """The answers that tell how their predictions did; all, where the frame does not say."""
    return predictions.filter("tells" if "tells" in predictions.columns else pl.col("output_tokens").is_not_null())


def version_losses(versions: pl.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """How each version did on answers that none had seen, against the one that served and the simplest guess.

    The loss is the pinball loss of log tokens at the median and the budget; of a frame of VERSIONS.
    """
    title = "Versions: loss on later answers"
    points = versions.drop_nulls("loss").sort("created_at")
    if points.is_empty():
        return nothing(theme, title, NO_VERSIONS)
    drawn = figure(theme, title, y_title="loss, less is better", hovermode="closest")
    moments = times(theme, points["created_at"])
    for name, words in (("plain_loss", "plain quantiles"), ("serving_loss", "the one that served")):
        line = {"color": theme.muted, "width": 1.2, "dash": "dash" if name == "plain_loss" else "dot"}
        drawn.add_scatter(x=moments, y=points[name].to_list(), name=words, mode="lines+markers", line=line)
    colours = {"promoted": theme.good, "refused": theme.warning, "rolled back": theme.bad, "not told": theme.muted}
    for verdict, colour in colours.items():
        own = points.filter(pl.col("verdict").fill_null("not told") == verdict)
        if not own.is_empty():
            marker = {"color": colour, "size": 11, "symbol": "circle" if verdict == "promoted" else "x"}
            drawn.add_scatter(
                x=times(theme, own["created_at"]),
                y=own["loss"].to_list(),
                name=verdict,
                mode="markers",
                marker=marker,
                cliponaxis=False,
                customdata=own["rows"].to_list(),
                hovertemplate="%{x}<br>loss %{y:.3f}<br>of %{customdata:,} answers",
            )
    reach(drawn, theme, points["created_at"][0], points["created_at"][-1])
    return drawn


def what_mattered(parts: Sequence[Mapping[str, Any]], *, theme: Theme = LIGHT) -> go.Figure:
    """The parts of a task that make its answer longer or shorter than others: `name` and `factor` of each."""
    title = "What matters for its length"
    if not parts:
        return nothing(theme, title, "Nothing stands out in this task.", height=LOW)
    ordered = sorted(parts, key=lambda part: abs(math.log(part["factor"])))
    colours = [theme.accent if part["factor"] >= 1 else theme.palette[1] for part in ordered]
    drawn = figure(theme, title, hovermode="closest", showlegend=False, height=110 + ROW_PIXELS * len(ordered))
    drawn.add_bar(
        x=[math.log2(part["factor"]) for part in ordered],
        y=[part["name"] for part in ordered],
        orientation="h",
        width=0.6,
        marker={"color": colours},
        text=[f"x {part['factor']:.2f}" for part in ordered],
        hoverinfo="skip",
    )
    drawn.update_xaxes(title={"text": "shorter  <  >  longer"}, showticklabels=False, zeroline=True, rangemode="normal")
    drawn.update_yaxes(title={"text": ""}, showgrid=False, rangemode="normal")
    return drawn


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
    drawn.update_xaxes(tickformat=".0%", range=[0, 1.02], title_text="predicted chance")
    drawn.update_yaxes(tickformat=".0%", range=[0, 1.02])
    return drawn


def reliability_points(predictions: pl.DataFrame) -> pl.DataFrame:
    """`model`, `bin`, `chance` and `share` (means) and `count`, of tasks of which it is known who did them, and how."""
    known = predictions.drop_nulls(["model", "chance", "succeeded"])
    place = (pl.col("chance") * BINS).floor().clip(0, BINS - 1).cast(pl.Int64).alias("bin")
    means = pl.col("chance").mean(), pl.col("succeeded").mean().alias("share"), pl.len().alias("count")
    return known.group_by("model", place).agg(means).sort("model", "bin")
