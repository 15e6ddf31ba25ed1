"""Models: which are there, what memory they take, when they were loaded, how fast they write."""

from functools import partial

import models_view
import polars as pl
import streamlit as st
import widgets

import data
from tale import figures
from tale.monitoring.targets import TARGETS

can_write = widgets.may_write()
LOAD_S = next(target.limit for target in TARGETS if target.name == "model_load")


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    found = data.health(data.settings().url_of("gateway"))
    if found is None:
        widgets.empty("The service does not run", "tale servers start")
    else:
        st.caption(found.get("backend", {}).get("reason") or "")
        rows = pl.DataFrame(map(models_view.state_row, found.get("models", [])))
        widgets.table(rows, "models", height="content")
    seen, taken_s, at = data.page("Models", widgets.choice())
    theme, window = widgets.theme(seen.models), seen.window
    left, right = st.columns(2)
    memory = partial(figures.model_memory, seen.samples, limit_bytes=data.settings().memory_limit_bytes, theme=theme)
    widgets.chart(memory, "models-memory", at, left)
    widgets.chart(lambda: figures.loads(seen.loads, target=LOAD_S, theme=theme), "models-loads", at, right)
    widgets.chart(lambda: figures.speed(seen.minutes, window=window, theme=theme), "models-speed", at, left)
    rate = partial(figures.distribution, seen.minutes, "decode_rate", theme=theme)
    widgets.chart(rate, "models-rate", at, right)
    widgets.chart(lambda: figures.machine(seen.samples, theme=theme), "models-machine", at)
    models_view.show_files(can_write=can_write)
    widgets.footer(int(seen.minutes["calls"].sum()), taken_s, at)


show()
