"""Latency: how long calls take, where the time goes, and which took longest."""

from functools import partial

import streamlit as st
import widgets

import data
from tale import figures
from tale.monitoring.pages import Latency, of_chat
from tale.monitoring.targets import limit_of

SLOWEST = ("started_at", "model", "operation", "total_s", "time_to_first_token_s", "output_tokens", "task_id")
CONFIG = {
    "started_at": st.column_config.DatetimeColumn("began", format="D MMM HH:mm:ss"),
    "total_s": st.column_config.NumberColumn("whole", format="%.2f s"),
    "time_to_first_token_s": st.column_config.NumberColumn("first token", format="%.2f s"),
    "output_tokens": st.column_config.NumberColumn("tokens written", format="localized"),
    "task_id": st.column_config.TextColumn("task"),
}


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    seen, taken_s, at = data.page("Latency", widgets.choice())
    if seen.minutes.is_empty():
        widgets.empty("No calls in this time", "tale submit 'Write a haiku'")
        return
    _charts(seen, at)
    st.subheader(f"Slowest calls{widgets.last_day(seen.window)}", anchor=False)
    widgets.table(seen.slowest.select(SLOWEST), "slowest", column_config=CONFIG)
    widgets.footer(int(seen.minutes["calls"].sum()), taken_s, at, widgets.charts_end(seen.window))


def _charts(seen: Latency, at: float) -> None:
    theme, window, minutes = widgets.theme(seen.models), seen.window, seen.minutes
    left, right = st.columns(2)
    chat, limit = of_chat(minutes), limit_of("ux_first_token", data.targets())
    first = partial(figures.latency, chat, "first_token", window=window, target=limit, theme=theme)
    widgets.chart(first, "latency-first", at, left, of=", in the chat")
    rate = partial(figures.latency, minutes, "decode_rate", window=window, theme=theme)
    widgets.chart(rate, "latency-rate", at, right)
    widgets.chart(lambda: figures.latency(minutes, window=window, theme=theme), "latency-whole", at)
    left, right = st.columns(2)
    widgets.chart(lambda: figures.heatmap(minutes, window=window, theme=theme), "latency-heat", at, left)
    widgets.chart(lambda: figures.parts_of_time(minutes, window=window, theme=theme), "latency-parts", at, right)
    left, right = st.columns(2)
    first = partial(figures.distribution, chat, "first_token", target=limit, theme=theme)
    widgets.chart(first, "latency-ecdf-first", at, left, of=", in the chat")
    widgets.chart(lambda: figures.distribution(minutes, theme=theme), "latency-ecdf", at, right)


show()
