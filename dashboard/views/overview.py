"""Overview: the state of the service at a glance."""

from functools import partial

import alerts_view
import health_view
import streamlit as st
import widgets

import data
from tale import figures
from tale.monitoring.cards import cards_of
from tale.monitoring.pages import Overview, of_chat
from tale.monitoring.targets import limit_of


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    health_view.strip()
    alerts_view.strip()
    seen, taken_s, at = data.page("Overview", widgets.choice())
    under_way = data.under_way(data.settings().database)
    if seen.minutes.is_empty() and not sum(under_way.values()):
        widgets.empty("No calls in this time", "tale submit 'Write a haiku'")
        return
    widgets.cards(cards_of(seen, under_way, data.targets()))
    _charts(seen, at)
    ends = widgets.charts_end(seen.window)
    widgets.footer(int(seen.minutes["calls"].sum()), taken_s, at, "changes are against the time before", ends)


def _charts(seen: Overview, at: float) -> None:
    theme, window, chat = widgets.theme(seen.models), seen.window, of_chat(seen.minutes)
    widgets.chart(lambda: figures.latency(seen.minutes, window=window, theme=theme), "overview-latency", at)
    left, right = st.columns(2)
    limit_s = limit_of("ux_first_token", data.targets())
    first = partial(figures.latency, chat, "first_token", window=window, target=limit_s, theme=theme)
    widgets.chart(first, "overview-first", at, left, of=", in the chat")
    widgets.chart(lambda: figures.outcomes(seen.minutes, window=window, theme=theme), "overview-outcomes", at, right)
    left, right = st.columns(2)
    widgets.chart(lambda: figures.tokens(seen.minutes, window=window, theme=theme), "overview-tokens", at, left)
    queue = partial(figures.queue, seen.task_times, seen.queue_window, theme=theme)
    widgets.chart(queue, "overview-queue", at, right, of=widgets.last_day(window))


show()
