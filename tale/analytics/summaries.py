"""What frames amount to: percentiles, rates, shares and sums. Pure functions of frames; nothing is read or written.

Each takes a frame of minutes or of calls (see frames), and gives one row a group with the columns it names. Percentiles
are those of merged histograms, by nearest rank, and less than 2 % off (tale.histogram).
"""

from collections.abc import Sequence
from typing import Final, Literal

import polars as pl

from tale.analytics.frames import COUNTS, HISTOGRAMS, TIMES, TOKENS, minutes_of, pairs_of
from tale.analytics.windows import Window, window_of
from tale.histogram import GROWTH, ROUNDING, bucket_of

Measure = Literal["first_token", "total", "decode_rate"]
PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
FASTEST: Final = 1e5  # tokens a second: what is told to be faster wrote a token or two in no time that a clock sees


def of(
    frame: pl.DataFrame, *, model: str | None = None, role: str | None = None, operation: str | None = None
) -> pl.DataFrame:
    """The rows of one model, role or operation."""
    wanted = {"model": model, "role": role, "operation": operation}
    limits = [pl.col(name) == value for name, value in wanted.items() if value is not None]
    return frame.filter(limits) if limits else frame


def slotted(frame: pl.DataFrame, window: Window | None = None) -> tuple[pl.DataFrame, Window]:
    """The minutes of a window (default: all of them) with a column `slot`, the beginning of each one's slot."""
    minutes = minutes_of(frame)
    window = window or window_of(minutes)
    within = minutes.filter(pl.col("at") >= window.begin, pl.col("at") < window.end)
    offset = f"{int(window.since % window.slot_s)}s"
    return within.with_columns(pl.col("at").dt.truncate(f"{window.slot_s}s").dt.offset_by(offset).alias("slot")), window


def buckets(frame: pl.DataFrame, measure: Measure, by: Sequence[str] = ()) -> pl.DataFrame:
    """The merged histogram of each group: `by`, `bucket`, `count`; in order."""
    text = f"{measure}_histogram"
    minutes = minutes_of(frame) if text not in frame.columns else frame
    values = pairs_of(minutes.select(*by, text), text)
    if measure == "decode_rate":
        values = values.filter(pl.col("bucket") < bucket_of(FASTEST))
    return values.group_by(*by, "bucket").agg(pl.col("count").sum()).sort(*by, "bucket")


def percentiles(frame: pl.DataFrame, measure: Measure, by: Sequence[str] = ()) -> pl.DataFrame:
    """`by`, `count`, `p50`, `p95`, `p99` of a measure, in seconds (tokens a second for decode_rate)."""
    found = buckets(frame, measure, by)
    reached, total = pl.col("count").cum_sum(), pl.col("count").sum()
    named = [
        (GROWTH ** (pl.col("bucket").filter(reached >= (total * share - ROUNDING).ceil().clip(1)).first() + 0.5))
        .cast(pl.Float64)
        .alias(name)
        for name, share in PERCENTILES.items()
    ]
    if by:
        return found.group_by(by, maintain_order=True).agg(total.alias("count"), *named).sort(by)
    return found.select(total.alias("count"), *named)


def shares_beyond(
    frame: pl.DataFrame, measure: Measure, limit: float, *, at_least: bool = False, by: Sequence[str] = ()
) -> pl.DataFrame:
    """`by`, `count`, `beyond`: how many values lie beyond a limit, above it, or below where it is a least one.

    Values within the bucket of the limit, less than 4 % away from it, count as within.
    """
    edge = bucket_of(limit)
    is_beyond = pl.col("bucket") < edge if at_least else pl.col("bucket") > edge
    sums = pl.col("count").sum(), pl.col("count").filter(is_beyond).sum().alias("beyond")
    found = buckets(frame, measure, by)
    return found.group_by(by, maintain_order=True).agg(*sums).sort(by) if by else found.select(*sums)


def cumulative(frame: pl.DataFrame, measure: Measure, by: Sequence[str] = ()) -> pl.DataFrame:
    """The empirical distribution: `by`, `value` (upper bound of a bucket), `share` of the values at or below."""
    found = buckets(frame, measure, by)
    reached, total = pl.col("count").cum_sum(), pl.col("count").sum()
    share = reached / total if not by else reached.over(by) / total.over(by)
    return found.select(*by, (GROWTH ** (pl.col("bucket") + 1.0)).alias("value"), share.alias("share"))


def totals(frame: pl.DataFrame, by: Sequence[str] = ()) -> pl.DataFrame:
    """`by` and the sums of all counts, tokens and seconds; a sum is null where nothing was reported."""
    minutes = minutes_of(frame) if HISTOGRAMS[0] not in frame.columns else frame
    sums = [pl.col(name).sum() for name in COUNTS]
    sums += [pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in (*TOKENS, *TIMES)]
    return minutes.group_by(by).agg(sums).sort(by) if by else minutes.select(sums)


def over_time(
    frame: pl.DataFrame, window: Window | None = None, *, by: Sequence[str] = ()
) -> tuple[pl.DataFrame, Window]:
    """The totals of each slot (`slot`, `by`, sums); slots without calls have counts of 0 and sums of 0.

    The groups are those of the frame: one that has no calls within the window is there, too.
    """
    minutes = minutes_of(frame)
    within, window = slotted(minutes, window)
    found = totals(within, ["slot", *by])
    grid = _grid(minutes, window, by)
    whole = grid.join(found, on=["slot", *by], how="left").sort("slot", *by)
    return whole.select(found.columns).with_columns(pl.col(*COUNTS, *TOKENS, *TIMES).fill_null(0)), window


def percentiles_over_time(
    frame: pl.DataFrame, measure: Measure, *, window: Window | None = None, by: Sequence[str] = ()
) -> pl.DataFrame:
    """`slot`, `by`, `count`, `p50`, `p95`, `p99` of each slot; null where no call has the measure."""
    minutes = minutes_of(frame)
    within, window = slotted(minutes, window)
    found = percentiles(within, measure, ["slot", *by])
    grid = _grid(minutes, window, by)
    return grid.join(found, on=["slot", *by], how="left").sort("slot", *by).select(found.columns)


def queue_over_time(task_times: pl.DataFrame, window: Window) -> pl.DataFrame:
    """`slot`, `queued`, `running`: the tasks that waited and ran at the end of each slot (of frames.TASK_TIMES)."""
    never = task_times.filter(pl.col("started").is_null())
    came, began, ended = (_reached(task_times, name, window) for name in ("created", "started", "ended"))
    gone = _reached(never, "ended", window)
    return pl.DataFrame([window.slots, (came - began - gone).alias("queued"), (began + gone - ended).alias("running")])


def _grid(minutes: pl.DataFrame, window: Window, by: Sequence[str]) -> pl.DataFrame:
    """Each slot of the window with each group of the minutes."""
    groups = minutes.select(by).unique(maintain_order=True) if by else pl.DataFrame({"": [0]})
    return window.slots.to_frame().join(groups, how="cross")


def _reached(task_times: pl.DataFrame, column: str, window: Window) -> pl.Series:
    """How many of the moments lie before the end of each slot."""
    counts = task_times.drop_nulls(column).group_by(slot=column).agg(pl.col("tasks").sum()).sort("slot")
    reached = counts.select("slot", pl.col("tasks").cum_sum())
    slots = window.slots.to_frame()
    return slots.join_asof(reached, on="slot", strategy="backward")["tasks"].fill_null(0)
