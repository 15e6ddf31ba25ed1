"""Finds the slowest calls of a window by the histograms of its minutes, without a look at the others."""

from heapq import nlargest
from typing import Any, Final

from sqlalchemy import Connection, select

from tale.storage.call_pages import CALL_COLUMNS
from tale.storage.rollup_rows import MINUTE_S
from tale.storage.rollups import pruned_before, stragglers, watermark_of
from tale.storage.tables import model_calls, rollup_minute

TOTAL: Final = CALL_COLUMNS.index("total_s")


def slowest_calls(
    connection: Connection, since: float, until: float, *, model: str | None = None, limit: int = 20
) -> list[tuple[Any, ...]]:
    """The calls of the window that took longest (CALL_COLUMNS), the longest first."""
    call = model_calls.c
    edge = watermark_of(connection) or 0
    edge_s, whole_s = edge * MINUTE_S, min(pruned_before(connection), edge) * MINUTE_S
    known = [call.total_s.is_not(None)] if model is None else [call.total_s.is_not(None), call.model == model]

    def longest(*conditions: Any) -> list[tuple[Any, ...]]:
        found = select(model_calls).where(*conditions, *known).order_by(call.total_s.desc()).limit(limit)
        return [tuple(row) for row in connection.execute(found)]

    def begun(begin: float, end: float) -> tuple[Any, Any]:
        return call.started_at >= max(begin, since), call.started_at < min(end, until)

    rows = longest(*begun(edge_s, until))
    rows += longest(stragglers(edge_s), call.started_at + 0 >= since, call.started_at + 0 < until)
    rows += longest(*begun(since, whole_s), call.ended_at + 0 < edge_s)  # what a prune has left
    for minute in _slow_minutes(connection, max(since, whole_s), min(until, edge_s), model, limit):
        rows += longest(*begun(minute * MINUTE_S, (minute + 1) * MINUTE_S), call.ended_at < edge_s)
    return nlargest(limit, rows, key=lambda row: row[TOTAL])


def _slow_minutes(connection: Connection, since: float, until: float, model: str | None, limit: int) -> set[int]:
    """The minutes in which the longest calls are: of as many sums as calls are wanted, those with the highest bucket.

    Each of them holds one such call at least, so that no call elsewhere can be among the longest, but for those that
    are in the same bucket as the last of them, less than 4 % away.
    """
    sums = rollup_minute.c
    minutes = select(sums.minute, sums.total_histogram).where(
        sums.minute >= int(since // MINUTE_S), sums.minute < -int(-until // MINUTE_S), sums.total_histogram != ""
    )
    if model is not None:
        minutes = minutes.where(sums.model == model)
    tops = ((int(text[text.rfind(" ") + 1 :].partition(":")[0]), at) for at, text in connection.execute(minutes))
    return {minute for _, minute in nlargest(limit, tops)}
