"""Reliability: what failed and why, what was tried again, and where another model had to answer."""

from functools import partial

import streamlit as st
import widgets

import data
from tale import figures
from tale.monitoring.pages import LISTED, MOST_READ

FAILED = ("started_at", "model", "operation", "error_class", "error", "task_id")
FALLBACKS = ("started_at", "requested_model", "model", "route_reason", "task_id")
CONFIG = {
    "started_at": st.column_config.DatetimeColumn("began", format="D MMM HH:mm:ss"),
    "error_class": st.column_config.TextColumn("kind"),
    "error": st.column_config.TextColumn("what was wrong", width="large"),
    "requested_model": st.column_config.TextColumn("asked"),
    "model": st.column_config.TextColumn("model"),
    "route_reason": st.column_config.TextColumn("why", width="large"),
    "task_id": st.column_config.TextColumn("task"),
}


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    seen, taken_s, at = data.page("Reliability", widgets.choice())
    if seen.minutes.is_empty():
        widgets.empty("No calls in this time", "tale submit 'Write a haiku'")
        return
    theme, window = widgets.theme(seen.models), seen.window
    left, right = st.columns(2)
    widgets.chart(lambda: figures.outcomes(seen.minutes, window=window, theme=theme), "reliability-outcomes", at, left)
    widgets.chart(lambda: figures.error_rate(seen.minutes, window=window, theme=theme), "reliability-rate", at, right)
    left, right = st.columns(2)
    classes = partial(figures.error_classes, seen.failed, theme=theme)
    widgets.chart(classes, "reliability-classes", at, left, of=widgets.latest(seen.failed, MOST_READ))
    widgets.chart(lambda: figures.recoveries(seen.attempts, theme=theme), "reliability-again", at, right)
    others = widgets.latest(seen.fallbacks, LISTED)
    for title, key, frame, columns in (
        ("Latest failed calls", "failed-calls", seen.failed, FAILED),
        (f"Calls that another model answered{others}", "fallbacks", seen.fallbacks, FALLBACKS),
    ):
        if not frame.is_empty():
            st.subheader(title, anchor=False)
            widgets.table(frame.select(columns).head(LISTED), key, column_config=CONFIG)
    widgets.footer(int(seen.minutes["calls"].sum()), taken_s, at, widgets.charts_end(window))


show()
