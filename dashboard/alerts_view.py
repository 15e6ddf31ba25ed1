"""Alerts on the page: those that are open as a strip, and all of the latest as a table."""

from typing import Final

import polars as pl
import streamlit as st
import widgets

import data
from tale.analytics.alerts import told_alerts

FRESH_S: Final = 10.0
SHOWN: Final = 3
CONFIG: Final = {
    "at": st.column_config.DatetimeColumn("said", format="D MMM HH:mm"),
    "text": st.column_config.TextColumn("what", width="large"),
    "action": st.column_config.TextColumn("what to do", width="large"),
    "is_open": st.column_config.CheckboxColumn("open"),
}


@st.cache_data(ttl=FRESH_S, show_spinner=False)
def alerts(url: str) -> pl.DataFrame:
    """The latest alerts (tale.analytics.alerts.TOLD). Raises DatabaseException."""
    return told_alerts(data.history(url))


def strip() -> None:
    """The open alerts, each with what to do first; nothing where there are none."""
    found = alerts(data.settings().database).filter("is_open")
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
    shown = found.select("at", "is_open", "of", "kind", "text", "action")
    widgets.table(shown, "alerts", column_config=CONFIG)
