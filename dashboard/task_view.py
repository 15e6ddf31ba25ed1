"""One task on the page: what is known of it beforehand, how it goes, what came of it, and where its time went."""

from functools import partial
from typing import Any, Final

import streamlit as st
import widgets

import data
from tale import figures
from tale.monitoring.cards import seconds
from tale.records import TaskStatus
from tale.storage.call_pages import CallFilter

KEPT_S: Final = 30.0
COLOURS: Final = {"completed": "green", "failed": "red", "cancelled": "gray", "running": "blue", "queued": "orange"}
UNKNOWN: Final = "-"


@st.cache_data(ttl=KEPT_S, max_entries=32, show_spinner=False)
def prediction(text: str, url: str) -> dict[str, Any]:
    """What the gateway at that address knows of a task before it is handed in."""
    return data.tool("predict_task", text=text)


def show_prediction(text: str) -> None:
    """What is known of a task before it is handed in."""
    known = prediction(text, data.settings().url_of("gateway"))
    figures_shown = {
        "Complexity": known["complexity"] or UNKNOWN,
        "Tokens to read": _count(known["input_tokens"]),
        "Tokens to write": _count(known["output_tokens"]),
        "At most": _count(known["max_output_tokens"]),
        "Model": known["model"] or UNKNOWN,
    }
    with st.container(border=True):
        grid = st.grid(len(figures_shown), min_column_width=110)
        for label, value in figures_shown.items():
            with grid.container(gap=None):
                st.caption(label)
                st.markdown(f"**{value}**")
        st.caption(known["reason"])


def show_task(task_id: str, *, can_write: bool) -> None:
    """How a task goes or went, with its result. Raises TaleBaseException."""
    task = data.tool("get_task_status", task_id=task_id)
    status = TaskStatus(task["status"])
    with st.container(border=True):
        st.markdown(f"**{task['text'][:200]}**")
        with st.container(horizontal=True, vertical_alignment="center"):
            st.badge(status.value, color=COLOURS[status.value])
            st.caption(_told(task))
            if not status.is_final and st.button("Cancel", disabled=not can_write, icon=":material/stop:"):
                data.tool("cancel_task", task_id=task_id)
                st.rerun(scope="fragment")
            if status.is_final and st.button("Close", icon=":material/close:"):
                st.session_state.pop("followed", None)
                st.rerun(scope="fragment")
        if not status.is_final:
            written, most = task["usage"]["output_tokens"] or 0, task["max_output_tokens"] or 1
            st.progress(min(1.0, written / most), text="waiting" if status is TaskStatus.QUEUED else "at work")
            return
        result = data.tool("get_task_result", task_id=task_id)
        if result["error"]:
            st.error(result["error"], icon=":material/error:")
        if result["result"]:
            st.markdown(result["result"])
        calls = data.calls(CallFilter(task_id=task_id), data.settings().database)
        drawing = partial(figures.waterfall, calls, theme=widgets.theme())
        widgets.chart(drawing, f"waterfall-{task_id}", len(calls))


def _told(task: dict[str, Any]) -> str:
    usage, timings = task["usage"], task["timings"]
    parts = [
        f"{seconds(task['duration_s'])} at work",
        f"{_count(usage['input_tokens'])} tokens read, {_count(usage['output_tokens'])} written",
        f"first token after {seconds(timings['time_to_first_token_s'])}",
        task["model"] or "",
    ]
    return " · ".join(part for part in parts if part)


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"
