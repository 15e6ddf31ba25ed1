"""What calls read and write, and how much of the budgets that is."""

from typing import Final

import plotly.graph_objects as go
import polars as pl

from tale.analytics import summaries
from tale.analytics.frames import minutes_of
from tale.analytics.windows import Window
from tale.figures.theme import LIGHT, LOW, Theme, figure, nothing, reach, times

WHOLE: Final = 100.0
MOST_SHOWN: Final = 150.0  # percent of a budget that a bar tells
NO_BUDGET: Final = "There is no budget.<br>Run: tale budgets set 200k"


def tokens(frame: pl.DataFrame, *, window: Window | None = None, theme: Theme = LIGHT) -> go.Figure:
    """Tokens read and written, by model and slot."""
    title = "Tokens by model"
    if (minutes := minutes_of(frame)).is_empty():
        return nothing(theme, title)
    sums, window = summaries.over_time(minutes, window, by=["model"])
    drawn = figure(theme, title, y_title=f"tokens per {per(window)}", barmode="stack", bargap=0.1)
    for model in sums["model"].unique().sort().to_list():
        own = sums.filter(pl.col("model") == model)
        both = (own["input_tokens"] + own["output_tokens"]).to_list()
        colour = {"color": theme.colour_of(model)}
        drawn.add_bar(x=times(theme, own["slot"]), y=both, name=model, marker=colour, hovertemplate="%{y:,}")
    _fit(drawn, sums, theme)
    return drawn


def token_kinds(frame: pl.DataFrame, *, window: Window | None = None, theme: Theme = LIGHT) -> go.Figure:
    """Tokens by slot: read anew, taken from the cache, written."""
    title = "Tokens read, cached and written"
    if (minutes := minutes_of(frame)).is_empty():
        return nothing(theme, title)
    sums, window = summaries.over_time(minutes, window)
    kinds = kinds_of(sums)
    drawn = figure(theme, title, y_title=f"tokens per {per(window)}", barmode="stack", bargap=0.1)
    styles = {"read": theme.accent, "cached": theme.faint(theme.accent, 0.4), "written": theme.palette[1]}
    moments = times(theme, kinds["slot"])
    for name, colour in styles.items():
        drawn.add_bar(x=moments, y=kinds[name].to_list(), name=name, marker={"color": colour}, hovertemplate="%{y:,}")
    _fit(drawn, sums, theme)
    return drawn


def kinds_of(sums: pl.DataFrame) -> pl.DataFrame:
    """`slot`, `read`, `cached`, `written`: cached tokens are part of those that went in."""
    fresh = pl.col("input_tokens") - pl.col("cached_tokens")
    cached, written = pl.col("cached_tokens").alias("cached"), pl.col("output_tokens").alias("written")
    return sums.select("slot", fresh.alias("read"), cached, written)


def budget_use(budgets: pl.DataFrame, *, theme: Theme = LIGHT) -> go.Figure:
    """How much of each budget is used, and held by calls under way, in the period that runs; of a frame of budgets."""
    title = "Budgets: used in the period that runs"
    if budgets.is_empty():
        return nothing(theme, title, NO_BUDGET, height=LOW)
    points = budget_points(budgets)
    drawn = figure(theme, title, barmode="stack", hovermode="y unified", height=120 + 44 * len(points))
    colours = points["state"].replace_strict({"used up": theme.bad, "alert": theme.warning, "ok": theme.good})
    bar = {"orientation": "h", "y": points["name"].to_list(), "width": 0.5}
    told = points["told"].to_list()
    drawn.add_bar(x=points["shown"].to_list(), name="used", marker={"color": colours.to_list()}, text=told, **bar)
    drawn.add_bar(x=points["held"].to_list(), name="held", marker={"color": theme.muted}, **bar)
    drawn.add_vline(x=WHOLE, line={"dash": "dash", "color": theme.warning})
    drawn.update_xaxes(title_text="% of the budget", range=[0, 1.02 * max(WHOLE, *points["shown"].to_list())])
    drawn.update_yaxes(autorange="reversed")
    drawn.update_layout(showlegend=bool((points["held"] > 0).any()))
    return drawn


def budget_points(budgets: pl.DataFrame) -> pl.DataFrame:
    """`name`, `used`, `held` and `shown` (used, cut off) in percent, `state` and `told` in words of each budget."""
    used, limit = pl.col("used_tokens"), pl.col("limit_tokens")
    share, whose = WHOLE * used / limit, pl.col("name").fill_null("all calls")
    is_alert = share >= pl.col("alert_percent")
    state = pl.when(used >= limit).then(pl.lit("used up")).when(is_alert).then(pl.lit("alert")).otherwise(pl.lit("ok"))
    return budgets.select(
        pl.format("{}, a {} ({})", whose, "period", "kind").alias("name"),
        share.alias("used"),
        share.clip(upper_bound=MOST_SHOWN).alias("shown"),
        (WHOLE * pl.col("reserved_tokens") / limit).alias("held"),
        state.alias("state"),
        pl.format("{} of {} tokens", _thousands(used), _thousands(limit)).alias("told"),
    )


def _thousands(value: pl.Expr) -> pl.Expr:
    """A whole number as people write it."""
    return value.map_elements(lambda number: f"{number:,}", return_dtype=pl.String)


def per(window: Window) -> str:
    """The length of the window's slots in words.

    >>> per(Window(0, 600, 60)), per(Window(0, 7200, 3600)), per(Window(0, 7200, 10800))
    ('minute', 'hour', '3 hours')
    """
    for unit, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if window.slot_s % seconds == 0:
            count = window.slot_s // seconds
            return unit if count == 1 else f"{count} {unit}s"
    return f"{window.slot_s} s"


def _fit(drawn: go.Figure, sums: pl.DataFrame, theme: Theme) -> None:
    drawn.update_yaxes(tickformat="~s")
    reach(drawn, theme, sums["slot"][0], sums["slot"][-1])
