"""Overview: the state of the service at a glance."""

from functools import partial

import alerts_view
import streamlit as st
import widgets

import data
from tale import figures
from tale.monitoring.cards import FIRST_WORDS_S, cards_of
from tale.monitoring.pages import Overview

COLOURS = {"ok": "green", "ready": "green", "degraded": "orange", "starting": "blue", "loading": "blue"}


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    _health()
    alerts_view.strip()
    seen, taken_s, at = data.page("Overview", widgets.choice())
    under_way = data.under_way(data.settings().database)
    if seen.minutes.is_empty() and not sum(under_way.values()):
        widgets.empty("No calls in this time", "tale submit 'Write a haiku'")
        return
    widgets.cards(cards_of(seen, under_way))
    _charts(seen, at)
    widgets.footer(int(seen.minutes["calls"].sum()), taken_s, at, "changes are against the time before")


def _charts(seen: Overview, at: float) -> None:
    theme, window, chat = widgets.theme(seen.models), seen.window, seen.minutes.filter(role="ux")
    widgets.chart(lambda: figures.latency(seen.minutes, window=window, theme=theme), "overview-latency", at)
    left, right = st.columns(2)
    first = partial(figures.latency, chat, "first_token", window=window, target=FIRST_WORDS_S, theme=theme)
    widgets.chart(first, "overview-first", at, left)
    widgets.chart(lambda: figures.outcomes(seen.minutes, window=window, theme=theme), "overview-outcomes", at, right)
    left, right = st.columns(2)
    widgets.chart(lambda: figures.tokens(seen.minutes, window=window, theme=theme), "overview-tokens", at, left)
    widgets.chart(lambda: figures.queue(seen.task_times, seen.queue_window, theme=theme), "overview-queue", at, right)


def _health() -> None:
    found = data.health(data.settings().url_of("gateway"))
    with st.container(horizontal=True, gap="small"):
        if found is None:
            st.badge("service stopped: tale servers start", icon=":material/power_off:", color="gray")
            return
        st.badge(f"service {found['status']}", icon=":material/dns:", color=COLOURS.get(found["status"], "red"))
        for model in found.get("models", []):
            colour = COLOURS.get(model["state"], "gray")
            st.badge(f"{model['name']} {model['state']}", icon=":material/memory:", color=colour)


show()
