"""The calls one by one, on the page: which are wanted, a page of them, and all that is known of one."""

import time
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import polars as pl
import streamlit as st
import widgets

from tale.storage.call_pages import CallFilter

OUTCOMES: Final = ("completed", "failed", "cancelled", "running")
COLUMNS: Final = (
    *("started_at", "model", "role", "operation", "outcome", "total_s"),
    *("input_tokens", "output_tokens", "error"),
)
CONFIG: Final = {
    "started_at": st.column_config.DatetimeColumn("began", format="D MMM HH:mm:ss"),
    "total_s": st.column_config.NumberColumn("whole", format="%.2f s"),
    "input_tokens": st.column_config.NumberColumn("tokens read", format="localized"),
    "output_tokens": st.column_config.NumberColumn("written", format="localized"),
}


def wanted() -> CallFilter:
    """What people chose, page by page: a filter that changes begins with the newest again."""
    chosen = widgets.choice()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        outcome = st.selectbox("Outcome", OUTCOMES, index=None, placeholder="Any", key="outcome", bind="query-params")
        role = st.selectbox("Role", ("ux", "task"), index=None, placeholder="Any", key="role", bind="query-params")
        task = st.text_input("Task", placeholder="Id of a task", key="task", bind="query-params")
    made = CallFilter(model=chosen.model, role=role, outcome=outcome, task_id=task.strip() or None)
    if st.session_state.get("calls-of") != (made, chosen.hours):
        st.session_state["calls-of"] = (made, chosen.hours)
        st.session_state["cursors"] = []
        st.session_state.pop("call", None)
    since = (time.time() - chosen.hours * 3_600) // 60 * 60
    return replace(made, since=since, before=next(reversed(_cursors()), None))


def show(found: pl.DataFrame, limit: int) -> None:
    """A page of calls, the ways to the others, and the call that was picked."""
    held: dict[str, Any] | None = st.session_state.get("call")
    picked = None if held is None else held["id"]
    rows = {row["id"]: row for row in found.iter_rows(named=True)}

    def take(call_id: str) -> None:
        st.session_state["call"] = rows[call_id]

    key = f"calls-{next(reversed(_cursors()), None)}-{picked}"
    widgets.pick(_told(found), key, list(rows), take, column_config=CONFIG, height=560)
    with st.container(horizontal=True):
        if st.button("Newest", disabled=not _cursors(), icon=":material/first_page:"):
            _turn([])
        if st.button("Older", disabled=len(found) < limit, icon=":material/chevron_right:"):
            _turn([*_cursors(), found["id"][-1]])
    if held is not None:
        _show_call(rows.get(held["id"], held))


def _show_call(call: dict[str, Any]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("The call", anchor=False)
        if st.button("Close", icon=":material/close:"):
            st.session_state.pop("call", None)
            st.rerun()
    st.json({name: _told_value(value) for name, value in call.items() if value is not None})


def _told_value(value: Any) -> Any:
    """A value as JSON can hold it: times in the browser's zone."""
    if not isinstance(value, datetime):
        return value
    return value.astimezone(ZoneInfo(st.context.timezone or "UTC")).isoformat(" ", "milliseconds")


def _told(found: pl.DataFrame) -> pl.DataFrame:
    """The columns that are shown, with how each call ended."""
    ended = pl.when(pl.col("ended_at").is_null()).then(pl.lit("running")).otherwise(pl.lit("completed"))
    error = pl.when(pl.col("error_class") == "Cancelled").then(pl.lit("cancelled")).otherwise(pl.lit("failed"))
    outcome = pl.when(pl.col("error_class").is_null()).then(ended).otherwise(error)
    return found.with_columns(outcome.alias("outcome")).select(COLUMNS)


def _cursors() -> list[str]:
    """The last calls of the pages before this one."""
    return st.session_state.setdefault("cursors", [])


def _turn(cursors: list[str]) -> None:
    st.session_state["cursors"] = cursors
    st.session_state.pop("call", None)
    st.rerun()
