"""How long calls take: percentiles over time, their distribution, where the time goes."""

import math
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from tale.analytics import summaries
from tale.analytics.frames import minutes_of
from tale.analytics.summaries import Measure
from tale.analytics.windows import Window
from tale.figures.theme import LIGHT, Theme, figure, nothing, reach, show_target, times
from tale.histogram import GROWTH

TITLES: Final[dict[Measure, tuple[str, str]]] = {
    "first_token": ("Time to first token", "seconds"),
    "total": ("Time of a call, whole", "seconds"),
    "decode_rate": ("Writing speed", "output tokens a second"),
}
PARTS: Final = ("queue_s", "load_s", "prefill_s", "decode_s", "other_s")
PART_NAMES: Final = ("waiting", "loading", "reading", "writing", "other")
MANY_DECADES: Final = 2.5
FEW: Final = 60  # points, below which each is marked: lines alone do not show those that stand alone
BUCKETS_A_ROW: Final = 8  # of a heatmap: each row is 37 % higher than the one below


def latency(
    frame: pl.DataFrame,
    measure: Measure = "total",
    *,
    window: Window | None = None,
    target: float | None = None,
    theme: Theme = LIGHT,
) -> go.Figure:
    """One bold line of p95 between thin ones of p50 and p99, with the target; of a frame of minutes or calls."""
    title, unit = TITLES[measure]
    if (minutes := minutes_of(frame)).is_empty():
        return nothing(theme, title)
    points = summaries.percentiles_over_time(minutes, measure, window=window)
    return _draw_percentiles(points, f"{title}: median, p95, p99", unit, target, theme)


def _draw_percentiles(points: pl.DataFrame, title: str, unit: str, target: float | None, theme: Theme) -> go.Figure:
    drawn = figure(theme, title, y_title=unit)
    if points.is_empty():
        return nothing(theme, title)
    moments = times(theme, points["slot"])
    is_sparse = points["count"].count() < FEW
    styles = {"p50": (theme.muted, 1.2), "p95": (theme.accent, 2.6), "p99": (theme.palette[3], 1.2)}
    for name, (colour, width) in styles.items():
        mode = "lines+markers" if is_sparse else "lines"
        drawn.add_scatter(
            x=moments,
            y=points[name].to_list(),
            name={"p50": "median"}.get(name, name),
            mode=mode,
            line={"color": colour, "width": width},
            marker={"size": 4},
            hovertemplate="%{y:.3g}",
        )
    reach(drawn, theme, points["slot"][0], points["slot"][-1])
    if target is not None:
        show_target(drawn, theme, target, f"p95 target<br>{target:g} {'s' if unit == 'seconds' else unit}")
    return drawn


def heatmap(
    frame: pl.DataFrame, measure: Measure = "total", *, window: Window | None = None, theme: Theme = LIGHT
) -> go.Figure:
    """How many calls took how long, slot by slot; from transparent to the accent, so that it glares in no theme."""
    title, unit = TITLES[measure]
    minutes, window = summaries.slotted(frame, window)
    cells = heatmap_cells(minutes, measure)
    if cells.is_empty():
        return nothing(theme, f"{title}: how often")
    return _draw_heatmap(cells, window, f"{title}: how many calls", unit, theme)


def heatmap_cells(minutes: pl.DataFrame, measure: Measure) -> pl.DataFrame:
    """`slot`, `row`, `count` of minutes with slots; a row is that many buckets of the histogram."""
    found = summaries.buckets(minutes, measure, ["slot"])
    row = (pl.col("bucket") // BUCKETS_A_ROW).alias("row")
    return found.group_by("slot", row).agg(pl.col("count").sum()).sort("slot", "row")


def _draw_heatmap(cells: pl.DataFrame, window: Window, title: str, unit: str, theme: Theme) -> go.Figure:
    rows = range(int(cells["row"].min() or 0), int(cells["row"].max() or 0) + 1)  # pyright: ignore[reportArgumentType]  # whole numbers
    slots = window.slots
    place = {slot: number for number, slot in enumerate(slots.to_list())}
    counts: list[list[int | None]] = [[None] * len(slots) for _ in rows]
    for slot, row, count in cells.iter_rows():
        counts[row - rows.start][place[slot]] = count
    drawn = figure(theme, title, y_title=unit, hovermode="closest")
    scale = [[0, theme.faint(theme.accent, 0.08)], [1, theme.accent]]
    edges = [GROWTH ** (row * BUCKETS_A_ROW) for row in rows]
    drawn.add_heatmap(
        x=times(theme, slots),
        y=[f"{edge:.2g}" for edge in edges],
        z=counts,
        colorscale=scale,
        showscale=False,
        hoverongaps=False,
        hovertemplate="from %{y} " + unit + "<br>%{x}<br>%{z} calls<extra></extra>",
    )
    reach(drawn, theme, slots[0], slots[-1])
    drawn.update_yaxes(type="category", title={"text": f"{unit}, at least"})
    return drawn


def distribution(
    frame: pl.DataFrame, measure: Measure = "total", *, target: float | None = None, theme: Theme = LIGHT
) -> go.Figure:
    """The share of each model's calls that take no longer than a time (ECDF), against the target."""
    title, unit = TITLES[measure]
    minutes = minutes_of(frame)
    points = summaries.cumulative(minutes, measure, ["model"])
    if points.is_empty():
        return nothing(theme, f"{title}: distribution")
    drawn = figure(theme, f"{title}: distribution", y_title="share of calls at or below")
    for model in points["model"].unique().sort().to_list():
        own = points.filter(pl.col("model") == model)
        drawn.add_scatter(
            x=own["value"].to_list(),
            y=own["share"].to_list(),
            name=model,
            mode="lines",
            line={"color": theme.colour_of(model), "width": 2, "shape": "hv"},
            hovertemplate="%{y:.1%}",
        )
    drawn.update_xaxes(type="log", title_text=f"{unit} (log)", **_decades(points["value"]))
    drawn.update_yaxes(tickformat=".0%", range=[0, 1.02])
    if target is not None:
        drawn.add_vline(x=target, line={"dash": "dash", "color": theme.warning, "width": 1.5})
        drawn.add_annotation(
            text=f"target {target:g} s",
            x=math.log10(target),
            xanchor="left",
            y=0.02,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
            font={"color": theme.warning, "size": 11},
        )
    return drawn


def _decades(values: pl.Series) -> dict[str, Any]:
    """Ticks at the powers of ten that are reached, and at 2 and 5 of each where there is room."""
    low, high = math.log10(float(values.min() or 1)), math.log10(float(values.max() or 1))  # pyright: ignore[reportArgumentType]  # numbers
    powers = range(int(low) - 1, int(high) + 2)
    steps = (1, 2, 5) if high - low < MANY_DECADES else (1,)
    return {"tickvals": [step * 10.0**power for power in powers for step in steps], "tickformat": "~g"}


def parts_of_time(frame: pl.DataFrame, *, window: Window | None = None, theme: Theme = LIGHT) -> go.Figure:
    """Of an average call, the seconds it waits, loads, reads its prompt and writes, slot by slot."""
    title = "Where the time of a call goes"
    if (minutes := minutes_of(frame)).is_empty():
        return nothing(theme, title)
    points = parts_points(minutes, window)
    drawn = figure(theme, title, y_title="seconds a call", barmode="stack", bargap=0.1)
    colours = (theme.muted, theme.warning, theme.palette[4], theme.accent, theme.grid)
    moments = times(theme, points["slot"])
    for part, name, colour in zip(PARTS, PART_NAMES, colours, strict=True):
        values = points[part].to_list()
        drawn.add_bar(x=moments, y=values, name=name, marker={"color": colour}, hovertemplate="%{y:.3g} s")
    reach(drawn, theme, points["slot"][0], points["slot"][-1])
    return drawn


def parts_points(minutes: pl.DataFrame, window: Window | None) -> pl.DataFrame:
    """`slot` and the mean seconds of each part; null in slots without calls."""
    sums, _ = summaries.over_time(minutes, window)
    calls = pl.when(pl.col("calls") > 0).then(pl.col("calls"))
    return sums.select("slot", *(pl.col(part) / calls for part in PARTS))
