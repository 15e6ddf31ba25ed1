"""Chat: talk with the small model, have the larger one work, and hear of it when it is done."""

import uuid

import chat_view
import streamlit as st
import widgets
from service import is_running, service, show_absence

from tale.validation import MAX_TASK_CHARACTERS

can_write = widgets.may_write()


def _talk() -> None:
    wanted = st.query_params.get("conversation") or st.session_state.setdefault("new-talk", str(uuid.uuid4()))
    talk = service().talk(wanted)
    waiting = talk.waiting()

    @st.fragment(run_every=widgets.pace())
    def past() -> None:
        talk.look()
        widgets.guarded(lambda: chat_view.show_past(talk, can_write=can_write))

    @st.fragment(run_every=chat_view.STREAM_S if talk.is_answering else widgets.pace())
    def live() -> None:
        if talk.waiting() != waiting:
            st.rerun()  # what waited for its answer takes its place among the messages
        widgets.guarded(lambda: chat_view.show_live(talk, can_write=can_write))

    past()
    live()
    text = st.chat_input("Your message", max_chars=MAX_TASK_CHARACTERS, disabled=not can_write, key="said")
    if text and text.strip():
        st.query_params["conversation"] = talk.id
        talk.say(text.strip())
        st.rerun()


if not is_running("ux_agent"):
    show_absence("ux_agent")
else:
    widgets.keep_in_address("conversation")
    if st.button("New conversation", icon=":material/add_comment:", disabled="conversation" not in st.query_params):
        widgets.drop_from_address("conversation")
        st.session_state.pop("new-talk", None)
        st.rerun()
    _talk()
