"""The figures of minutes as dashboards read them, with what is in no rollup yet: for comparison with the calls."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection

from tale.histogram import decoded, merged_histogram
from tale.storage.history_reader import MINUTE_COLUMNS, minute_rows
from tale.storage.rollup_rows import COUNTS, HISTOGRAMS, Rollup
from tale.storage.usage import TIMES, TOKENS


def rolled_up(connection: Connection, since: float, until: float) -> list[Rollup]:
    """One value for each minute, model, role and operation of [since, until), ordered by them."""
    found = [_rollup(dict(zip(MINUTE_COLUMNS, row, strict=True))) for row in minute_rows(connection, since, until)]
    groups = groupby(sorted(found, key=lambda each: each.key), key=lambda each: each.key)
    return [_merged(list(group)) for _, group in groups]


def _rollup(row: dict[str, Any]) -> Rollup:
    return Rollup(**{**row, **{name: decoded(row[name]) for name in HISTOGRAMS}})


def _merged(group: Sequence[Rollup]) -> Rollup:
    sums: dict[str, Any] = {}
    for each in group:
        for name in (*COUNTS, *TOKENS, *TIMES):
            if (value := getattr(each, name)) is not None:
                sums[name] = sums.get(name, 0) + value
    for name in HISTOGRAMS:
        sums[name] = merged_histogram(getattr(each, name) for each in group)
    return Rollup(*group[0].key, **sums)
