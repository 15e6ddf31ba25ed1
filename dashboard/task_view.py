"""One task on the page: what is known of it beforehand, how it goes, what came of it, and where its time went."""

import time
from functools import partial
from typing import Any, Final

import streamlit as st
import widgets
import words
from feed import Heard
from service import service

import data
from tale import figures
from tale.monitoring.cards import seconds
from tale.records import TaskStatus
from tale.storage.call_pages import CallFilter

KEPT_S: Final = 30.0
SHOWN_CHARACTERS: Final = 80  # of a text in a line
COLOURS: Final = {"completed": "green", "failed": "red", "cancelled": "gray", "running": "blue", "queued": "orange"}
UNKNOWN: Final = "-"
LIKE_SHOWN: Final = 3
RATINGS: Final = ("bad", "good")  # as the thumbs stand


@st.cache_data(ttl=KEPT_S, max_entries=32, show_spinner=False)
def prediction(text: str, url: str) -> dict[str, Any]:
    """What the gateway at that address knows of a task before it is handed in."""
    return service().ask("predict_task", text=text)


@st.cache_data(ttl=KEPT_S, max_entries=64, show_spinner=False)
def known(task_id: str, state: str, url: str) -> dict[str, Any]:
    """A task as the gateway at that address tells it, asked once for each state that its feed tells."""
    task = service().ask("get_task_status", task_id=task_id)
    is_final = TaskStatus(task["status"]).is_final
    return service().ask("get_task_result", task_id=task_id) if is_final else task


def task_heard(task_id: str) -> tuple[dict[str, Any], Heard]:
    """A task and what its feed has told; without a feed it is asked for at each look. Raises TaleBaseException."""
    heard = service().feeds.follow(task_id)
    state = str(time.time()) if heard.refused else f"{heard.status} {heard.attempt}"
    return known(task_id, state, data.settings().url_of("gateway")), heard


def show_prediction(text: str) -> None:
    """What is known of a task before it is handed in."""
    expected = prediction(text, data.settings().url_of("gateway"))
    lower, upper = expected.get("lower_tokens"), expected.get("upper_tokens")
    shares: dict[str, float] = expected.get("complexity_shares") or {}
    figures_shown = {
        "Complexity": (
            expected["complexity"] or UNKNOWN,
            " · ".join(f"{name} {share:.0%}" for name, share in shares.items()),
        ),
        "Expected length": (
            _count(expected["output_tokens"]),
            f"{lower:,} to {upper:,}" if lower is not None and upper is not None else "",
        ),
        "Budget": (_count(expected["max_output_tokens"]), "tokens at most"),
        "To read": (_count(expected["input_tokens"]), "tokens"),
        "Model": (expected["model"] or UNKNOWN, ""),
    }
    with st.container(border=True):
        grid = st.grid(len(figures_shown), min_column_width=130)
        for label, (value, further) in figures_shown.items():
            with grid.container(gap=None):
                st.caption(label)
                st.markdown(f"**{words.shown(value)}**")
                if further:
                    st.caption(further)
        st.caption(f"Why: {words.shown(expected['reason'])}")
        if like := expected.get("like_texts"):
            st.caption(f"Like: {words.shown('; '.join(like[:LIKE_SHOWN]))}")


def show_task(task_id: str, *, can_write: bool) -> None:
    """How a task goes or went, with its result. Raises TaleBaseException."""
    task, heard = task_heard(task_id)
    with st.container(border=True):
        st.markdown(f"**{words.shown(' '.join(task['text'].split())[:200])}**")
        with st.container(horizontal=True, vertical_alignment="center"):
            show_state(task, heard, can_write=can_write)
        show_course(task, heard)
        if not TaskStatus(task["status"]).is_final:
            return
        show_result(task)
        rate(task_id, can_write=can_write)
        calls = data.calls(CallFilter(task_id=task_id), data.settings().database)
        drawing = partial(figures.waterfall, calls, theme=widgets.theme())
        widgets.chart(drawing, f"waterfall-{task_id}", len(calls))


def show_state(task: dict[str, Any], heard: Heard, *, can_write: bool) -> None:
    """The state of a task with its figures, and what stops it."""
    status = TaskStatus(task["status"])
    st.badge(status.value, color=COLOURS[status.value])
    st.caption(_told(task))
    if heard.is_away:
        st.caption(":material/cloud_off: the gateway does not answer; the feed goes on when it is back")
    if not status.is_final:
        label, key = "Cancel", f"cancel-{task['id']}"
        pressed = st.button(label, key=key, disabled=not can_write, icon=":material/stop:")
        if pressed and widgets.done(lambda: service().ask("cancel_task", task_id=task["id"])):
            known.clear()
            st.rerun(scope="fragment")


def show_course(task: dict[str, Any], heard: Heard) -> None:
    """How far a task has come, with what is written so far; nothing where it has ended."""
    status = TaskStatus(task["status"])
    if status.is_final:
        return
    written = heard.output_tokens or task["usage"]["output_tokens"] or 0
    most = task["max_output_tokens"] or data.settings().max_output_tokens
    waits = "waiting its turn" if status is TaskStatus.QUEUED else "at work"
    tokens = f" · {written:,} tokens so far" if written else ""
    st.progress(min(1.0, written / most), text=f"{heard.message or waits}{tokens}")
    if heard.text:
        with st.expander("What is written so far"):
            st.markdown(words.shown(heard.text))


def show_result(task: dict[str, Any]) -> None:
    """What came of a task that has ended."""
    if task["error"]:
        st.error(words.shown(task["error"]), icon=":material/error:")
    if task["result"]:
        st.markdown(words.shown(task["result"]))


def rate(task_id: str, *, can_write: bool) -> None:
    """Ask what the user thinks of the result; his answer is stored."""
    with st.container(horizontal=True, vertical_alignment="center"):
        thumbs = st.feedback("thumbs", key=f"rating-{task_id}", disabled=not can_write)

        def store() -> None:
            service().ask("record_feedback", task_id=task_id, rating=RATINGS[thumbs])
            st.session_state[f"rated-{task_id}"] = thumbs

        if widgets.is_new(f"pressed-{task_id}", thumbs) and thumbs is not None:
            widgets.done(store)
        if thumbs is None:
            st.caption("Is the result good?")
        elif st.session_state.get(f"rated-{task_id}") == thumbs:
            st.caption(f"Rated {RATINGS[thumbs]}.")


def link(task_id: str, text: str) -> None:
    """A way to the page of a task."""
    line = " ".join(text.split())
    name = words.shown(line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…")
    st.page_link("views/tasks.py", label=name, icon=":material/task_alt:", query_params={"task": task_id})


def _told(task: dict[str, Any]) -> str:
    usage, timings = task["usage"], task["timings"]
    read, written = usage["input_tokens"], usage["output_tokens"]
    first_s = timings["time_to_first_token_s"]
    parts = [
        f"{seconds(task['duration_s'])} at work" if task["duration_s"] is not None else "",
        f"{_count(read)} tokens read, {_count(written)} written" if read is not None else "",
        f"first token after {seconds(first_s)}" if first_s is not None else "",
        task["model"] or "",
    ]
    return " · ".join(part for part in parts if part)


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"
