"""The tasks that wait and run now, each with what its feed tells and a way to stop it."""

from typing import Any, Final

import streamlit as st
import task_view
from service import service

import data

SHOWN: Final = 20
LISTED_S: Final = 4.0  # for which a list counts


@st.cache_data(ttl=LISTED_S, show_spinner=False)
def under_way(url: str) -> list[dict[str, Any]]:
    """The tasks that run and the newest that wait, as the gateway at that address lists them."""
    found = [service().ask("list_tasks", status=status, limit=SHOWN)["tasks"] for status in ("running", "queued")]
    return [task for part in found for task in part][:SHOWN]


def show_queue(*, beside: str | None, can_write: bool) -> None:
    """A line for each but the one that is shown anyway. Raises TaleBaseException."""
    listed = under_way(data.settings().url_of("gateway"))
    known = [task_view.task_heard(task["id"]) for task in listed if task["id"] != beside]
    st.subheader("Under way", anchor=False)
    shown = 0
    for task, heard in known:
        if task["ended_at"] is not None:
            continue  # the list is some seconds old, the feed is not
        shown += 1
        with st.container(border=True, gap="small"):
            with st.container(horizontal=True, vertical_alignment="center"):
                task_view.link(task["id"], task["text"])
                task_view.show_state(task, heard, can_write=can_write)
            task_view.show_course(task, heard)
    if not shown:
        st.caption("No other task waits or runs." if beside else "No task waits or runs.")
