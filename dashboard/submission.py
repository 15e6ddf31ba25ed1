"""Hands in one task: its text with what is known of it as one types, and what else can be asked for."""

import json
import uuid
from collections.abc import Callable
from typing import Any, Final

import streamlit as st
import task_view
import widgets
from service import service
from typing_pause import hand_over_at_pauses

from tale.exceptions import ValidationException
from tale.validation import MAX_TASK_CHARACTERS, TIMEOUT_RANGE_S

PRIORITY: Final = 100  # at most, and as much below zero
CHECKS: Final = ("a regular expression", "a JSON schema", "Python that compiles")


def show_form(on_submit: Callable[[dict[str, Any]], None], *, can_write: bool) -> None:
    """The form; `on_submit` gets the stored task. Raises TaleBaseException."""
    text = st.text_area("Task", placeholder="Write a haiku about rain.", max_chars=MAX_TASK_CHARACTERS, key="text")
    hand_over_at_pauses()
    with st.expander("Options", icon=":material/tune:"):
        given = _options()
    if text.strip():
        widgets.guarded(lambda: task_view.show_prediction(text))
    with st.container(horizontal=True, vertical_alignment="center"):
        is_ready = can_write and bool(text.strip())
        pressed = st.button("Submit", type="primary", disabled=not is_ready, icon=":material/send:")
        if not can_write:
            st.caption("One can only look here: others reach this dashboard, and no key was given.")
    if pressed:
        # Sent again after an answer that was lost, the same text is the same task.
        form: uuid.UUID = st.session_state.setdefault("form-key", uuid.uuid4())
        key = str(uuid.uuid5(form, text))
        stored = service().ask("submit_task", text=text, idempotency_key=key, **_checked(given))
        st.session_state.pop("form-key")
        on_submit(stored)


def _options() -> dict[str, Any]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        given: dict[str, Any] = {
            "priority": st.number_input("Priority", -PRIORITY, PRIORITY, 0, key="priority", width=130),
            "max_output_tokens": _number("Most tokens", 1, None, "most"),
            "timeout_s": _number("Seconds an attempt", *TIMEOUT_RANGE_S, "timeout"),
            "deadline_s": _number("Seconds in all", 1, None, "deadline"),
        }
        check = st.selectbox("The answer must be", CHECKS, index=None, placeholder="anything", key="check", width=190)
    if check in CHECKS[:2]:
        place = {CHECKS[0]: r"^\d+$", CHECKS[1]: '{"type": "object"}'}[check]
        given["rule"] = st.text_input("To match", placeholder=place, key="rule")
    return {**given, "check": check}


def _number(label: str, least: int, most: int | None, key: str) -> int | None:
    return st.number_input(label, least, most, value=None, placeholder="default", key=key, width=150)


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """The options as the tool takes them. Raises ValidationException for a check that is none."""
    check, rule = given.pop("check"), given.pop("rule", "")
    if check is None:
        return given
    if check == CHECKS[2]:
        return {**given, "expect": {"python": True}}
    if not rule:
        raise ValidationException(f"Say in the options what {check} the answer must match.")
    if check == CHECKS[0]:
        return {**given, "expect": {"regex": rule}}
    try:
        return {**given, "expect": {"json_schema": json.loads(rule)}}
    except ValueError as error:
        raise ValidationException(f"The schema is not JSON: {error}.") from error
