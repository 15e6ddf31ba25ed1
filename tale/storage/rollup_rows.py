"""What the calls of a minute amount to: one value for each minute, model, role and operation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, select

from tale.histogram import Histogram, bucket_of, decoded, encoded
from tale.storage.tables import model_calls
from tale.storage.usage import CANCELLED, TIMES, TOKENS

MINUTE_S: Final = 60
ROWS_HELD: Final = 1_000
COUNTS: Final = ("calls", "failed", "cancelled", "unreported", "fallbacks")
HISTOGRAMS: Final = ("first_token_histogram", "total_histogram", "decode_rate_histogram")
NEEDED: Final = (
    *("started_at", "ended_at", "model", "role", "operation", "requested_model", "error_class"),
    *("time_to_first_token_s", *TOKENS, *TIMES),
)

RollupKey = tuple[int, str, str, str]


@dataclass(frozen=True, slots=True)
class Rollup:
    """Counts, sums and histograms over the ended calls that began in a minute; a sum is None where none was reported.

    The histograms are of the time to first token and the total time, in seconds, and of output tokens a second.
    """

    minute: int  # Unix time in minutes
    model: str
    role: str
    operation: str
    calls: int = 0
    failed: int = 0
    cancelled: int = 0
    unreported: int = 0
    fallbacks: int = 0  # another model answered than the one that was asked
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    queue_s: float | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    other_s: float | None = None
    total_s: float | None = None
    first_token_histogram: Histogram = field(default_factory=dict[int, int])
    total_histogram: Histogram = field(default_factory=dict[int, int])
    decode_rate_histogram: Histogram = field(default_factory=dict[int, int])

    @property
    def key(self) -> RollupKey:
        """What it is of."""
        return self.minute, self.model, self.role, self.operation

    def row(self) -> dict[str, Any]:
        """The row of its table."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, **{name: encoded(values[name]) for name in HISTOGRAMS}}


def rollup_of(row: RowMapping) -> Rollup:
    """What a row of the table tells."""
    values: dict[str, Any] = dict(row)
    for name in HISTOGRAMS:
        values[name] = decoded(values[name])
    return Rollup(**values)


class Tally:
    """Adds up ended calls by minute, model, role and operation."""

    def __init__(self) -> None:
        self._sums: dict[RollupKey, dict[str, Any]] = {}

    def add(self, call: Mapping[str, Any]) -> None:
        """Count one call, of which the columns `NEEDED` are given."""
        key = (int(call["started_at"] // MINUTE_S), call["model"], call["role"], call["operation"])
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = {**dict.fromkeys(COUNTS, 0), **{name: {} for name in HISTOGRAMS}}
        sums["calls"] += 1
        if (error := call["error_class"]) is not None:
            sums["cancelled" if error == CANCELLED else "failed"] += 1
        sums["unreported"] += call["input_tokens"] is None and call["output_tokens"] is None
        sums["fallbacks"] += call["requested_model"] not in (None, call["model"])
        for name in (*TOKENS, *TIMES):
            if (value := call[name]) is not None:
                sums[name] = sums.get(name, 0) + value
        for name, value in zip(HISTOGRAMS, _measured(call), strict=True):
            if value is not None:
                bucket = bucket_of(value)
                sums[name][bucket] = sums[name].get(bucket, 0) + 1

    def rollups(self) -> list[Rollup]:
        """The sums, ordered by what they are of."""
        return [Rollup(*key, **self._sums[key]) for key in sorted(self._sums)]


def tallied(connection: Connection, *conditions: Any) -> list[Rollup]:
    """The sums over the ended calls that fulfil the conditions, read one by one."""
    tally = Tally()
    wanted = select(*(model_calls.c[name] for name in NEEDED)).where(model_calls.c.ended_at.is_not(None), *conditions)
    with connection.execute(wanted, execution_options={"yield_per": ROWS_HELD}) as rows:
        for row in rows:
            tally.add(dict(zip(NEEDED, row, strict=True)))
    return tally.rollups()


def _measured(call: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    rate = call["output_tokens"] / call["decode_s"] if call["output_tokens"] and call["decode_s"] else None
    return call["time_to_first_token_s"], call["total_s"], rate
