"""Frames with declared schemas: no data gives an empty frame with the same columns. Pure; Polars only.

Times are UTC, to the microsecond. A frame of minutes holds what the calls of a minute, model, role and operation amount
to, with histograms as text (tale.histogram); a frame of calls holds one row a call. `minutes_of` makes the first of the
second, so that every summary and figure takes either.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from tale.histogram import GROWTH, LARGEST, SMALLEST

UTC_TIME: Final = pl.Datetime("us", "UTC")
MINUTE_S: Final = 60
SECOND_US: Final = 1_000_000
CANCELLED: Final = "Cancelled"
Schema = Mapping[str, pl.DataType | type[pl.DataType]]

KEYS: Final = ("at", "model", "role", "operation")
COUNTS: Final = ("calls", "failed", "cancelled", "unreported", "fallbacks")
TOKENS: Final = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
TIMES: Final = ("queue_s", "load_s", "prefill_s", "decode_s", "other_s", "total_s")
HISTOGRAMS: Final = ("first_token_histogram", "total_histogram", "decode_rate_histogram")

MINUTES: Final[Schema] = {
    "at": UTC_TIME,
    **dict.fromkeys(("model", "role", "operation"), pl.String),
    **dict.fromkeys((*COUNTS, *TOKENS), pl.Int64),
    **dict.fromkeys(TIMES, pl.Float64),
    **dict.fromkeys(HISTOGRAMS, pl.String),
}
CALLS: Final[Schema] = {
    "id": pl.String,
    "started_at": UTC_TIME,
    **dict.fromkeys(("role", "operation", "model", "provider"), pl.String),
    "priority": pl.Int64,
    "task_id": pl.String,
    "attempt": pl.Int64,
    **dict.fromkeys(("conversation_id", "trace_id", "requested_model", "route_reason"), pl.String),
    "budget_tokens": pl.Int64,
    **dict.fromkeys(TOKENS, pl.Int64),
    **dict.fromkeys(("queue_s", "load_s", "prefill_s", "decode_s", "other_s"), pl.Float64),
    **dict.fromkeys(("time_to_first_token_s", "total_s"), pl.Float64),
    "ended_at": UTC_TIME,
    **dict.fromkeys(("finish_reason", "error_class", "error", "key_name", "engine", "owner"), pl.String),
}
TASKS: Final[Schema] = {
    **dict.fromkeys(("id", "text", "status"), pl.String),
    **dict.fromkeys(("created_at", "started_at", "ended_at", "cancel_requested_at"), UTC_TIME),
    **dict.fromkeys(("attempt", "failures"), pl.Int64),
    **dict.fromkeys(("model", "role", "route_reason", "error_class", "error"), pl.String),
}
TASK_TIMES: Final[Schema] = {**dict.fromkeys(("created", "started", "ended"), UTC_TIME), "tasks": pl.Int64}  # by slots
ATTEMPTS: Final[Schema] = {
    "task_id": pl.String,
    "number": pl.Int64,
    **dict.fromkeys(("started_at", "ended_at"), UTC_TIME),
    **dict.fromkeys(("outcome", "model", "error_class", "error"), pl.String),
}
FEEDBACK: Final[Schema] = {
    **dict.fromkeys(("task_id", "rating", "comment"), pl.String),
    "created_at": UTC_TIME,
    **dict.fromkeys(("model", "role"), pl.String),
}
SAMPLES: Final[Schema] = {
    "id": pl.String,
    "at": UTC_TIME,
    "owner": pl.String,
    "memory_bytes": pl.Int64,
    "cpu_share": pl.Float64,
    **dict.fromkeys(("free_memory_bytes", "queued", "running", "models_bytes"), pl.Int64),
    "models": pl.String,
}
BUDGETS: Final[Schema] = {
    **dict.fromkeys(("id", "scope", "name", "period", "kind"), pl.String),
    **dict.fromkeys(("limit_tokens", "used_tokens", "assumed_tokens", "reserved_tokens", "left_tokens"), pl.Int64),
    **dict.fromkeys(("unreported", "alert_percent"), pl.Int64),
    "zone": pl.String,
    **dict.fromkeys(("starts_at", "resets_at"), UTC_TIME),
}
ALERTS: Final[Schema] = {
    "id": pl.String,
    "created_at": UTC_TIME,
    **dict.fromkeys(("text", "budget_id"), pl.String),
    **dict.fromkeys(("percent", "used_tokens", "limit_tokens"), pl.Int64),
    **dict.fromkeys(("resets_at", "delivered_at", "acknowledged_at"), UTC_TIME),
}
PREDICTIONS: Final[Schema] = {
    "at": UTC_TIME,
    "model": pl.String,
    **dict.fromkeys(("predicted_tokens", "budget_tokens", "output_tokens"), pl.Float64),  # expected, allowed, written
    "chance": pl.Float64,  # of success at the first answer, as it was predicted; null for what is tried again
    "succeeded": pl.Boolean,  # null where nothing tells
}
LEARNED: Final[Schema] = {
    **PREDICTIONS,  # `at` is when the attempt ended
    **dict.fromkeys(("task_id", "version", "kind", "complexity", "role", "variant"), pl.String),
    "served_by": pl.String,  # the role of the model that answered, which may have stood in for the other
    "tells": pl.Boolean,  # whether the answer tells how its prediction did: not where it was cut before its limit
    "attempt": pl.Int64,
    "made_at": UTC_TIME,
    **dict.fromkeys(("lower_tokens", "coverage"), pl.Float64),
    **dict.fromkeys(("explored", "was_cut"), pl.Boolean),
    "task_tokens": pl.Float64,  # what the task model was expected to write
    "plain_tokens": pl.Float64,  # the median of earlier answers of the role: the simplest guess
}
VERSIONS: Final[Schema] = {
    "id": pl.String,
    "created_at": UTC_TIME,
    "state": pl.String,  # serving, retired, rejected
    "rows": pl.Int64,  # answers it was made of
    **dict.fromkeys(("loss", "serving_loss", "plain_loss"), pl.Float64),  # on the same later answers
    "reason": pl.String,
    "verdict": pl.String,  # promoted, refused, rolled back; null where that is not told any more
}
LEARNING_EVENTS: Final[Schema] = {
    "id": pl.String,
    "created_at": UTC_TIME,
    **dict.fromkeys(("kind", "text", "version"), pl.String),
}
DAYS: Final[Schema] = {
    "target": pl.String,
    "day": pl.Date,
    "values": pl.Int64,
    "measured": pl.Float64,
    "status": pl.String,  # met, missed, unknown
}
VIOLATIONS: Final[Schema] = {
    **dict.fromkeys(("id", "target", "profile"), pl.String),
    **dict.fromkeys(("began_at", "ended_at"), UTC_TIME),
    **dict.fromkeys(("limit_value", "worst"), pl.Float64),
    "measured": pl.Int64,
    "action": pl.String,
}


def frame_of(rows: Sequence[Sequence[Any]], schema: Schema, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """A frame of rows whose columns come in that order (default: the schema's); times are given in Unix seconds.

    The frame has exactly the columns of the schema; others that the rows have are left out. Raises
    polars.exceptions.PolarsError for values of other types.
    """
    names = list(columns or schema)
    values = zip(*rows, strict=True) if rows else [()] * len(names)
    held = {name: each for name, each in zip(names, values, strict=True) if name in schema}
    read = {name: pl.Float64 if schema[name] == UTC_TIME else schema[name] for name in held}
    frame = pl.DataFrame(held, schema=read)
    times = [name for name in held if schema[name] == UTC_TIME]
    return frame.with_columns(time_of(name) for name in times).select(list(schema))


def time_of(name: str) -> pl.Expr:
    """The time that a column tells in Unix seconds."""
    return (pl.col(name) * SECOND_US).round().cast(pl.Int64).cast(UTC_TIME)


def empty(schema: Schema) -> pl.DataFrame:
    """No rows, with all columns."""
    return pl.DataFrame(schema=schema)


def minutes_frame(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> pl.DataFrame:
    """A frame of minutes from rows of storage, in which `minute` is Unix time in minutes."""
    read: Schema = {"minute": pl.Int64, **{name: kind for name, kind in MINUTES.items() if name != "at"}}
    frame = frame_of(rows, read, columns)
    at = (pl.col("minute") * (MINUTE_S * SECOND_US)).cast(UTC_TIME).alias("at")
    return frame.with_columns(at).select(list(MINUTES))


def minutes_of(frame: pl.DataFrame) -> pl.DataFrame:
    """What calls amount to by the minute in which they began; a frame of minutes is given back as it is.

    Calls that still run are left out, as in the rollups of the database.
    """
    if "total_histogram" in frame.columns:
        return frame
    error = pl.col("error_class")
    rate = pl.col("output_tokens") / pl.col("decode_s")
    ended = frame.filter(pl.col("ended_at").is_not_null()).with_columns(
        pl.col("started_at").dt.truncate("1m").alias("at"),
        (error.is_not_null() & (error != CANCELLED)).alias("failed"),
        (error == CANCELLED).fill_null(False).alias("cancelled"),
        (pl.col("input_tokens").is_null() & pl.col("output_tokens").is_null()).alias("unreported"),
        (pl.col("requested_model") != pl.col("model")).fill_null(False).alias("fallbacks"),
        pl.when(pl.col("output_tokens") > 0, pl.col("decode_s") > 0).then(rate).alias("rate"),
    )
    measured = dict(zip(HISTOGRAMS, ("time_to_first_token_s", "total_s", "rate"), strict=True))
    sums = [pl.col("failed", "cancelled", "unreported", "fallbacks").sum().cast(pl.Int64)]
    sums += [pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in (*TOKENS, *TIMES)]
    buckets = [_bucket(column).drop_nulls().value_counts().alias(name) for name, column in measured.items()]
    grouped = ended.group_by(KEYS).agg(pl.len().cast(pl.Int64).alias("calls"), *sums, *buckets).sort(KEYS)
    return grouped.with_columns(_encoded(name) for name in HISTOGRAMS).select(
        pl.col(name).cast(kind) for name, kind in MINUTES.items()
    )


def coarser(minutes: pl.DataFrame, slot_s: int) -> pl.DataFrame:
    """The same sums and histograms by slots of so many seconds, counted from midnight UTC; `at` is their beginning."""
    slots = minutes.with_columns(pl.col("at").dt.truncate(f"{slot_s}s"))
    sums = [pl.col(name).sum() for name in COUNTS]
    sums += [pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in (*TOKENS, *TIMES)]
    whole = slots.group_by(KEYS).agg(sums)
    for name in HISTOGRAMS:
        pairs = pairs_of(slots.select(*KEYS, name), name).group_by(*KEYS, "bucket").agg(pl.col("count").sum())
        texts = pairs.group_by(KEYS).agg(pl.struct("bucket", "count").alias(name)).with_columns(_encoded(name))
        whole = whole.join(texts, on=KEYS, how="left").with_columns(pl.col(name).fill_null(""))
    return whole.select(list(MINUTES)).sort(KEYS)


def pairs_of(minutes: pl.DataFrame, histogram: str) -> pl.DataFrame:
    """The frame with `bucket` and `count` in place of that column: one row for each bucket of each histogram."""
    texts = minutes.with_columns(pl.col(histogram).str.split(" ")).explode(histogram).filter(pl.col(histogram) != "")
    parts = pl.col(histogram).str.split_exact(":", 1)
    bucket, count = (parts.struct.field(f"field_{place}").cast(pl.Int64) for place in (0, 1))
    return texts.with_columns(bucket.alias("bucket"), count.alias("count")).drop(histogram)


def _bucket(column: str) -> pl.Expr:
    bound = pl.col(column).clip(SMALLEST, LARGEST)
    return (bound.log() / math.log(GROWTH)).floor().cast(pl.Int64).alias("bucket")


def _encoded(name: str) -> pl.Expr:
    """A histogram as text, of a list of {bucket, count}."""
    pair = pl.format("{}:{}", pl.element().struct.field("bucket"), pl.element().struct.field("count"))
    return pl.col(name).list.eval(pair.sort_by(pl.element().struct.field("bucket"))).list.join(" ")
