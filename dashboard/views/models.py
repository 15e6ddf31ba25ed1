"""Models: which are there, what memory they take, when they were loaded, how fast they write."""

from functools import partial

import health_view
import models_view
import polars as pl
import streamlit as st
import widgets

import data
from tale import figures
from tale.monitoring.pages import MOST_READ
from tale.monitoring.targets import limit_of

can_write = widgets.may_write()


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    found = data.health()
    if found is None:
        if not health_view.warn_of_stranger():
            widgets.empty("The service does not run", "tale servers start")
    else:
        st.caption(found.get("backend", {}).get("reason") or "")
        rows = pl.DataFrame(map(models_view.state_row, found.get("models", [])))
        widgets.table(rows, "models", height="content")
    seen, taken_s, at = data.page("Models", widgets.choice())
    theme, window = widgets.theme(seen.models), seen.window
    left, right = st.columns(2)
    settings = data.settings()
    slot_s, limit_bytes = max(window.slot_s, settings.monitor_interval_s), settings.memory_limit_bytes
    memory = partial(figures.model_memory, seen.samples, slot_s=slot_s, limit_bytes=limit_bytes, theme=theme)
    widgets.chart(memory, "models-memory", at, left)
    loads = partial(figures.loads, seen.loads, target=limit_of("model_load", data.targets()), theme=theme)
    widgets.chart(loads, "models-loads", at, right, of=widgets.latest(seen.loads, MOST_READ))
    widgets.chart(lambda: figures.speed(seen.minutes, window=window, theme=theme), "models-speed", at, left)
    rate = partial(figures.distribution, seen.minutes, "decode_rate", theme=theme)
    widgets.chart(rate, "models-rate", at, right)
    machine = partial(figures.machine, seen.samples, slot_s=slot_s, theme=theme)
    widgets.chart(machine, "models-machine", at)
    models_view.show_files(can_write=can_write)
    widgets.footer(int(seen.minutes["calls"].sum()), taken_s, at, widgets.charts_end(window))


show()
