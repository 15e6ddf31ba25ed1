"""Tasks: the latest ones, and one of them with its course, its result and where its time went."""

import polars as pl
import streamlit as st
import task_view
import widgets
from service import asked

import data

COLUMNS = ("created_at", "status", "text", "model", "attempt", "took_s", "error")
CONFIG = {
    "created_at": st.column_config.DatetimeColumn("handed in", format="D MMM HH:mm:ss"),
    "text": st.column_config.TextColumn("task", width="large"),
    "took_s": st.column_config.NumberColumn("took", format="%.1f s"),
    "attempt": st.column_config.NumberColumn("attempts"),
}
can_write = widgets.may_write()


def _follow(task_id: str) -> None:
    st.query_params["task"] = task_id


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """The task that the address names, and the latest ones."""
    widgets.guarded(_shown)


def _shown() -> None:
    if followed := st.query_params.get("task"):
        if st.button("Close", key="close-task", icon=":material/close:"):
            st.query_params.pop("task", None)
            st.rerun(scope="fragment")
        asked(lambda: task_view.show_task(followed, can_write=can_write))
    found = data.opened().tasks(widgets.choice().hours, limit=100)
    if found.is_empty():
        widgets.empty("No tasks in this time", "tale submit 'Write a haiku'")
        return
    took = (pl.col("ended_at") - pl.col("started_at")).dt.total_milliseconds() / 1_000
    table = found.with_columns(took.alias("took_s")).select(COLUMNS)
    if followed:
        st.subheader("The latest", anchor=False)
    widgets.pick(table, f"tasks-{followed}", found["id"].to_list(), _follow, column_config=CONFIG)


show()
