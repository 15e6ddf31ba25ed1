"""Alerts on the page: those that are open as a strip, all of the latest as a table, and what was missed when."""

from collections.abc import Sequence
from typing import Any, Final

import polars as pl
import streamlit as st
import widgets

import data
from tale.analytics.alerts import told_alerts
from tale.monitoring.alerts import shown
from tale.monitoring.targets import Target

SHOWN: Final = 3
EVERY_KIND: Final = ("target", "budget")
CONFIG: Final = {
    "at": st.column_config.DatetimeColumn("said", format="D MMM HH:mm"),
    "text": st.column_config.TextColumn("what", width="large"),
    "action": st.column_config.TextColumn("what to do", width="large"),
    "is_open": st.column_config.CheckboxColumn("open"),
}
MISSED: Final = {
    "began_at": st.column_config.DatetimeColumn("began", format="D MMM HH:mm"),
    "ended_at": st.column_config.DatetimeColumn("ended", format="D MMM HH:mm"),
    "action": st.column_config.TextColumn("what to do", width="large"),
}


@st.cache_data(ttl=data.LIVE_S, show_spinner=False)
def alerts(url: str) -> pl.DataFrame:
    """The latest alerts (tale.analytics.alerts.TOLD). Raises DatabaseException."""
    return told_alerts(data.history(url))


def strip(of: Sequence[str] = EVERY_KIND) -> None:
    """The open alerts of these kinds, each with what to do first; nothing where there are none."""
    found = alerts(data.settings().database).filter(pl.col("is_open"), pl.col("of").is_in(of))
    for text, action in found.head(SHOWN).select("text", "action").iter_rows():
        st.warning(f"{text} **{action}**" if action else text, icon=":material/notifications_active:")
    if (more := len(found) - SHOWN) > 0:
        st.caption(f"And {more} more: see Targets.")


def table() -> None:
    """The alerts of the latest thirty days; nothing where there are none."""
    found = alerts(data.settings().database)
    if found.is_empty():
        return
    st.subheader("Alerts", anchor=False)
    widgets.table(found.select("at", "is_open", "of", "kind", "text", "action"), "alerts", column_config=CONFIG)


def missed(violations: pl.DataFrame, targets: Sequence[Target]) -> None:
    """The times in which targets were missed (frames.VIOLATIONS), values with their units; nothing for none."""
    if violations.is_empty():
        return
    st.subheader("Times in which targets were missed", anchor=False)
    known = {target.name: target for target in targets}
    told = [_missed(known.get(row["target"]), row) for row in violations.iter_rows(named=True)]
    further = violations.select("began_at", "ended_at", pl.col("measured").alias("values"), "profile", "action")
    widgets.table(pl.concat([pl.DataFrame(told), further], how="horizontal"), "violations", column_config=MISSED)


def _missed(target: Target | None, row: dict[str, Any]) -> dict[str, str]:
    if target is None:  # of a tale that had others
        return {"target": row["target"], "should be": f"{row['limit_value']:g}", "worst": f"{row['worst']:g}"}
    limit, worst = shown(target, row["limit_value"]), shown(target, row["worst"])
    return {"target": target.title, "should be": f"{target.sense} {limit}", "worst": worst}
