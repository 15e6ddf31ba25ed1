"""Submit: hand in a task or a file of them, see beforehand what is known of it, watch what is under way."""

from typing import Any

import batch_view
import queue_view
import streamlit as st
import submission
import task_view
import widgets
from service import asked, is_running, show_absence

can_write = widgets.may_write()


def _handed_in(stored: dict[str, Any]) -> None:
    st.session_state["handed-in"] = stored["id"]
    queue_view.under_way.clear()
    st.rerun()  # what shows it is another fragment, which does not look by itself while the page is paused


@st.fragment
def _form() -> None:
    widgets.guarded(lambda: submission.show_form(_handed_in, can_write=can_write))


@st.fragment(run_every=widgets.pace())
def _course() -> None:
    asked(_under_way)


def _under_way() -> None:
    task_id = st.session_state.get("handed-in")
    if task_id:
        task_view.show_task(task_id, can_write=can_write)
        task_view.link(task_id, "Open its page")
    queue_view.show_queue(beside=task_id, can_write=can_write)


if not is_running():
    show_absence()
else:
    widgets.keep_in_address("batch")
    one, many = st.tabs(["One task", "A file of tasks"])
    with one:
        _form()
    with many:
        widgets.guarded(lambda: batch_view.show_upload(can_write=can_write))
        batch_view.show_batch()
    _course()
