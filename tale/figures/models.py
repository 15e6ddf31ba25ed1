"""The models: memory they take, when they were loaded, how fast they write under load."""

import json
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from tale.analytics import summaries
from tale.analytics.frames import minutes_of
from tale.analytics.windows import Window
from tale.figures.load import GIB, NO_SAMPLES, gaps
from tale.figures.theme import LIGHT, Theme, figure, nothing, reach, show_target, times
from tale.figures.tokens import per

NO_LOADS: Final = "No call had to wait for a model in this time."


def model_memory(
    samples: pl.DataFrame, *, slot_s: float | None = None, limit_bytes: float | None = None, theme: Theme = LIGHT
) -> go.Figure:
    """The memory of each loaded model over time, against the limit for all together; `slot_s` as in `gaps`."""
    title = "Memory of the models"
    points = memory_points(samples, slot_s)
    if points.is_empty():
        return nothing(theme, title, NO_SAMPLES)
    drawn = figure(theme, title, y_title="GiB")
    for model in points["model"].unique().sort().to_list():
        own = points.filter(pl.col("model") == model)
        colour = theme.colour_of(model)
        drawn.add_scatter(
            x=times(theme, own["at"]),
            y=(own["memory_bytes"] / GIB).to_list(),
            name=model,
            mode="lines",
            stackgroup="models",
            line={"color": colour, "width": 1},
            fillcolor=theme.faint(colour, 0.4),
            hovertemplate="%{y:.2f} GiB",
        )
    reach(drawn, theme, points["at"].min(), points["at"].max())
    if limit_bytes is not None:
        show_target(drawn, theme, limit_bytes / GIB, f"limit<br>{limit_bytes / GIB:.1f} GiB")
    return drawn


def memory_points(samples: pl.DataFrame, slot_s: float | None = None) -> pl.DataFrame:
    """`at`, `model`, `memory_bytes` of each model at each sample of its service, and at both ends of gaps.

    It is 0 where the model takes none, or the sample does not say how much.
    """
    found: list[tuple[Any, str, str, int]] = [
        (at, owner, model["name"], model["memory_bytes"])
        for at, owner, models in samples.select("at", "owner", "models").iter_rows()
        for model in json.loads(models)
        if model.get("memory_bytes") is not None
    ]
    schema = {"at": samples.schema["at"], "owner": pl.String, "model": pl.String, "memory_bytes": pl.Int64}
    told = pl.DataFrame(found, schema=schema, orient="row")
    found_gaps = gaps(samples, slot_s)
    ends = [found_gaps.select("owner", pl.col(name).alias("at")) for name in ("begin", "end")]
    moments = pl.concat([samples.select("owner", "at"), *ends]).join(told.select("owner", "model").unique(), on="owner")
    points = moments.join(told, on=["owner", "at", "model"], how="left").sort("at", "model")
    return points.select("at", "model", pl.col("memory_bytes").fill_null(0))


def loads(calls: pl.DataFrame, *, target: float | None = None, theme: Theme = LIGHT) -> go.Figure:
    """When calls had to wait for a model to be loaded, and for how long; of a frame of calls."""
    title = "Waits for a model to be loaded"
    found = calls.filter(pl.col("load_s") > 0)
    if found.is_empty():
        return nothing(theme, title, NO_LOADS)
    drawn = figure(theme, title, y_title="seconds", hovermode="closest")
    for model in found["model"].unique().sort().to_list():
        own = found.filter(pl.col("model") == model).sort("started_at")
        drawn.add_scatter(
            x=times(theme, own["started_at"]),
            y=own["load_s"].to_list(),
            name=model,
            mode="markers",
            marker={"color": theme.colour_of(model), "size": 8},
            hovertemplate="%{x}<br>%{y:.2f} s",
        )
    reach(drawn, theme, found["started_at"].min(), found["started_at"].max())
    if target is not None:
        show_target(drawn, theme, target, f"target<br>{target:g} s")
    return drawn


def speed(frame: pl.DataFrame, *, window: Window | None = None, theme: Theme = LIGHT) -> go.Figure:
    """Writing speed against the number of calls: a point is a slot of one model."""
    title = "Writing speed against load"
    if (minutes := minutes_of(frame)).is_empty():
        return nothing(theme, title)
    points, window = speed_points(minutes, window)
    if points.is_empty():
        return nothing(theme, title)
    drawn = figure(theme, title, y_title="output tokens a second (median)", hovermode="closest")
    for model in points["model"].unique().sort().to_list():
        own = points.filter(pl.col("model") == model)
        drawn.add_scatter(
            x=own["calls"].to_list(),
            y=own["rate"].to_list(),
            name=model,
            mode="markers",
            marker={"color": theme.colour_of(model), "size": 6, "opacity": 0.6},
            hovertemplate="%{x} calls<br>%{y:.3g} tokens/s",
        )
    drawn.update_xaxes(title_text=f"calls per {per(window)}")
    return drawn


def speed_points(minutes: pl.DataFrame, window: Window | None) -> tuple[pl.DataFrame, Window]:
    """`slot`, `model`, `calls`, `rate` (median tokens a second) of each slot in which a model wrote."""
    within, window = summaries.slotted(minutes, window)
    rates = summaries.percentiles(within, "decode_rate", ["slot", "model"])
    calls = within.group_by("slot", "model").agg(pl.col("calls").sum())
    joined = rates.join(calls, on=["slot", "model"]).sort("slot", "model")
    return joined.select("slot", "model", "calls", pl.col("p50").alias("rate")), window
