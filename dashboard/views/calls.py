"""Calls: every call one by one, newest first, however many there are; and all that is known of one."""

import time
from dataclasses import replace

import polars as pl
import streamlit as st
import widgets

import data
from tale.storage.call_pages import CallFilter

OUTCOMES = ("completed", "failed", "cancelled", "running")
COLUMNS = ("started_at", "model", "role", "operation", "outcome", "total_s", "input_tokens", "output_tokens", "error")
CONFIG = {
    "started_at": st.column_config.DatetimeColumn("began", format="D MMM HH:mm:ss"),
    "total_s": st.column_config.NumberColumn("whole", format="%.2f s"),
    "input_tokens": st.column_config.NumberColumn("tokens read", format="localized"),
    "output_tokens": st.column_config.NumberColumn("written", format="localized"),
}
cursors: list[str] = st.session_state.setdefault("cursors", [])


def _wanted() -> CallFilter:
    chosen = widgets.choice()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        outcome = st.selectbox("Outcome", OUTCOMES, index=None, placeholder="Any", key="outcome", bind="query-params")
        role = st.selectbox("Role", ("ux", "task"), index=None, placeholder="Any", key="role", bind="query-params")
        task = st.text_input("Task", placeholder="Id of a task", key="task", bind="query-params")
    since = (time.time() - chosen.hours * 3_600) // 60 * 60
    return CallFilter(since, None, model=chosen.model, role=role, outcome=outcome, task_id=task.strip() or None)


def _show() -> None:
    wanted = _wanted()
    if st.session_state.get("cursors_of") != replace(wanted, since=0.0):
        st.session_state["cursors_of"] = replace(wanted, since=0.0)
        cursors.clear()
    found = data.calls(replace(wanted, before=cursors[-1] if cursors else None), data.settings().database)
    if found.is_empty():
        widgets.empty("No such calls in this time", "tale submit 'Write a haiku'")
    ended = pl.when(pl.col("ended_at").is_null()).then(pl.lit("running")).otherwise(pl.lit("completed"))
    error = pl.when(pl.col("error_class") == "Cancelled").then(pl.lit("cancelled")).otherwise(pl.lit("failed"))
    outcome = pl.when(pl.col("error_class").is_null()).then(ended).otherwise(error)
    table = found.with_columns(outcome.alias("outcome")).select(COLUMNS)
    options = {"column_config": CONFIG, "on_select": "rerun", "selection_mode": "single-row"}
    picked = widgets.table(table, "calls", height=560, **options)
    with st.container(horizontal=True):
        if st.button("Newest", disabled=not cursors, icon=":material/first_page:"):
            cursors.clear()
            st.rerun()
        if st.button("Older", disabled=len(found) < wanted.limit, icon=":material/chevron_right:"):
            cursors.append(found["id"][-1])
            st.rerun()
    for row in picked.selection.rows[:1]:
        st.subheader("The call", anchor=False)
        st.json({name: value for name, value in found.row(row, named=True).items() if value is not None})


widgets.guarded(_show)
