"""One task: what its calls did, one after the other."""

from typing import Final

import plotly.graph_objects as go
import polars as pl

from tale.figures.theme import LIGHT, LOW, Theme, figure, nothing

NO_CALLS: Final = "No call was made for it yet."
PARTS: Final = (("queue_s", "waiting"), ("load_s", "loading"), ("prefill_s", "reading"), ("decode_s", "writing"))
ROW_PIXELS: Final = 40
LEGEND_PIXELS: Final = 76


def waterfall(calls: pl.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """The calls of a task on a common axis of seconds, each divided into what it did; of a frame of calls."""
    title = "What its calls did"
    points = waterfall_points(calls)
    if points.is_empty():
        return nothing(theme, title, NO_CALLS, height=LOW)
    height = 164 + ROW_PIXELS * len(points)
    drawn = figure(theme, title, barmode="stack", hovermode="y unified", height=height)
    names = points["name"].to_list()
    clear = {"color": "rgba(0,0,0,0)"}
    bar = {"orientation": "h", "y": names, "width": 0.6}
    drawn.add_bar(x=points["after_s"].to_list(), marker=clear, hoverinfo="skip", showlegend=False, **bar)
    colours = (theme.muted, theme.warning, theme.palette[4], theme.accent)
    for (part, name), colour in zip(PARTS, colours, strict=True):
        values = points[part].to_list()
        drawn.add_bar(x=values, name=name, marker={"color": colour}, hovertemplate="%{x:.3g} s", **bar)
    below = {"xref": "container", "yref": "container", "y": 0, "yanchor": "bottom"}  # on a phone it takes two lines
    drawn.update_layout(legend=below, margin={"b": LEGEND_PIXELS})
    drawn.update_yaxes(autorange="reversed", title={"text": ""}, showgrid=False)
    drawn.update_xaxes(title={"text": "seconds"}, showgrid=True, gridcolor=theme.grid)
    return drawn


def waterfall_points(calls: pl.DataFrame) -> pl.DataFrame:
    """`name`, `after_s` (since the first call began) and the seconds of each part, in order of time."""
    ordered = calls.sort("started_at", "id").with_row_index("number", offset=1)
    after_s = (pl.col("started_at") - pl.col("started_at").min()).dt.total_microseconds() / 1e6
    name = pl.format("{}. {}<br>{}", "number", "operation", "model")
    return ordered.select(name.alias("name"), after_s.alias("after_s"), *(pl.col(part) for part, _ in PARTS))
