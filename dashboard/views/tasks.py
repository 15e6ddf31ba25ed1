"""Submit & Tasks: hand in work, see beforehand what is known of it, watch it, stop it, read what came of it."""

import polars as pl
import streamlit as st
import task_view
import widgets

import data
from tale.validation import MAX_TASK_CHARACTERS

COLUMNS = ("created_at", "status", "text", "model", "attempt", "took_s", "error")
CONFIG = {
    "created_at": st.column_config.DatetimeColumn("handed in", format="D MMM HH:mm:ss"),
    "text": st.column_config.TextColumn("task", width="large"),
    "took_s": st.column_config.NumberColumn("took", format="%.1f s"),
    "attempt": st.column_config.NumberColumn("attempts"),
}
can_write = widgets.may_write()


def _form() -> None:
    text = st.text_area("Task", placeholder="Write a haiku about rain.", max_chars=MAX_TASK_CHARACTERS, key="text")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        priority = st.number_input("Priority", -100, 100, 0, key="priority", width=130)
        most = st.number_input("Most tokens", 1, value=None, placeholder="default", key="most", width=150)
        given = st.button("Submit", type="primary", disabled=not (can_write and text.strip()), icon=":material/send:")
    if text.strip():
        widgets.guarded(lambda: task_view.show_prediction(text))
    if given:
        stored = data.tool("submit_task", text=text, priority=priority, max_output_tokens=most)
        st.session_state["followed"] = stored["id"]


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """The task that is followed, and the latest ones."""
    widgets.guarded(_shown)


def _shown() -> None:
    if followed := st.session_state.get("followed"):
        task_view.show_task(followed, can_write=can_write)
    found = data.opened().tasks(widgets.choice().hours, limit=100)
    if found.is_empty():
        widgets.empty("No tasks in this time", "tale submit 'Write a haiku'")
        return
    took = (pl.col("ended_at") - pl.col("started_at")).dt.total_milliseconds() / 1_000
    table = widgets.table(found.with_columns(took.alias("took_s")).select(COLUMNS))
    st.subheader("Tasks", anchor=False)
    options = {"column_config": CONFIG, "hide_index": True, "on_select": "rerun", "selection_mode": "single-row"}
    picked = st.dataframe(table, key="tasks", **options)
    for row in picked.selection.rows[:1]:
        if found["id"][row] != followed:
            st.session_state["followed"] = found["id"][row]
            st.rerun(scope="fragment")


widgets.guarded(_form)
show()
