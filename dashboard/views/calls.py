"""Calls: every call one by one, newest first, however many there are; and all that is known of one."""

import calls_view
import streamlit as st
import widgets

import data


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    wanted = calls_view.wanted()
    found = data.calls(wanted, data.settings().database)
    if found.is_empty():
        widgets.empty("No such calls in this time", "tale submit 'Write a haiku'")
    calls_view.show(found, wanted.limit)


show()
