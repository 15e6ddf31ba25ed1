"""Targets: what the service is held against, how it stands, and what to do where it falls short."""

from functools import partial
from typing import Any

import alerts_view
import polars as pl
import streamlit as st
import widgets

import data
from tale import figures
from tale.monitoring.alerts import shown
from tale.monitoring.targets import Standing, limit_of

WORDS = {"met": "✓ met", "missed": "✗ missed", "unknown": "too few values"}


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    profile, targets = data.profile(), data.targets()
    seen, taken_s, at = data.page("Targets", widgets.choice(), targets)
    st.caption(f"Machine profile: **{profile.name}**, {profile.title}. Each target by its own window, a day.")
    if not any(standing.values for standing in seen.standings):
        widgets.empty("Nothing was measured in the last day", "tale submit 'Write a haiku'")
    widgets.table(pl.DataFrame(map(_row, seen.standings)), "targets", height="content")
    for standing in (each for each in seen.standings if each.action):
        st.warning(f"**{standing.target.title}**: {standing.action}", icon=":material/build:")
    widgets.chart(partial(figures.calendar, seen.days, theme=widgets.theme()), "targets-days", at)
    burn = partial(figures.burn_down, window=seen.window, theme=widgets.theme())
    limit_s = limit_of("ux_first_token", targets)
    widgets.chart(lambda: burn(seen.chat, "first_token", limit_s), "targets-burn", at)
    alerts_view.missed(seen.violations, targets)
    alerts_view.table()
    widgets.footer(int(seen.chat["calls"].sum()), taken_s, at)


def _row(standing: Standing) -> dict[str, Any]:
    target = standing.target
    return {
        "target": target.title,
        "stands": WORDS[standing.status] if standing.values else "not measured here",
        "measured": "-" if standing.measured is None else shown(target, standing.measured),
        "should be": f"{target.sense} {shown(target, target.limit)}",
        "own bar": "" if target.bar is None else shown(target, target.bar),
        "values": standing.values,
        "burn rate": "" if standing.burn_rate is None else f"{standing.burn_rate:.2f}",
        "by": target.evidence,
    }


show()
