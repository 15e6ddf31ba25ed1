"""A conversation on the page: what was said, the answers that stream, cards of its tasks, figures and thumbs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
import streamlit as st
import task_view
import widgets
import words
from talk import Said, Talk, Turn

import data
from tale.cli.chat_cards import ENDED
from tale.exceptions import DatabaseException, TaleBaseException
from tale.monitoring.cards import seconds
from tale.records import TaskStatus
from tale.storage.call_pages import CallFilter

STREAM_S: Final = 0.25  # between two looks at an answer that is being written
KEPT_S: Final = 10.0
CALLS: Final = 200  # the latest of a conversation
SUGGESTED: Final = ("Hello, what can you do?", "Write a Python function that reverses a list.", "How are my tasks?")
AVATARS: Final = {"user": ":material/person:", "assistant": ":material/auto_awesome:"}


@dataclass(frozen=True, slots=True)
class Figures:
    """What an answer took: seconds to its first token, tokens written, and by which model; None where it is unknown."""

    first_s: float | None
    tokens: int | None
    model: str | None

    def __str__(self) -> str:
        parts = [
            f"first token {seconds(self.first_s)}" if self.first_s is not None else "",
            f"{self.tokens:,} tokens" if self.tokens is not None else "",
            self.model or "",
        ]
        return " · ".join(part for part in parts if part)


def figures_of(turns: Sequence[Turn], calls: Sequence[dict[str, Any]]) -> dict[int, Figures]:
    """What the answers of a conversation took, by their positions, as the calls of the model tell.

    An answer is kept when its call has ended: its call is the last of kind `chat` that began between the message
    before it and the answer itself. `calls` have `started_at` in Unix seconds.
    """
    found: dict[int, Figures] = {}
    asked_at = 0.0
    for turn in turns:
        if turn["role"] == "user":
            asked_at = turn["created_at"]
        elif turn["kind"] == "chat":
            within = [each for each in calls if asked_at <= each["started_at"] <= turn["created_at"]]
            if within:
                call = max(within, key=lambda each: each["started_at"])
                found[turn["position"]] = Figures(call["time_to_first_token_s"], call["output_tokens"], call["model"])
    return found


def show_past(talk: Talk, *, can_write: bool) -> None:
    """What was said and answered. Raises TaleBaseException."""
    turns, waiting = talk.shown()
    if talk.problem:
        st.warning(talk.problem, icon=":material/cloud_off:")
    if talk.is_read and not turns and not waiting:
        _show_empty(talk, can_write=can_write)
    took = _kept_figures(talk.id, len(turns), data.settings().database, turns)
    for turn in turns:
        with _message(turn["role"]):
            st.markdown(words.shown(turn["content"]))
            if turn["role"] == "assistant":
                _show_foot(talk, turn, took, can_write=can_write)


def show_live(talk: Talk, *, can_write: bool) -> None:
    """What is being answered, and what could not be."""
    for number, said in enumerate(talk.shown()[1]):
        with _message("user"):
            st.markdown(words.shown(said.sent.text))
        with _message("assistant"):
            if said.words:
                st.markdown(words.shown(said.words))
            with st.container(horizontal=True, vertical_alignment="center"):
                st.caption(words.shown(_course(said)))
                if not said.ended:
                    stop = st.button(
                        "Stop", key=f"stop-{number}", disabled=not can_write, icon=":material/stop_circle:"
                    )
                    if stop:
                        talk.stop()


def _message(role: str) -> Any:
    return st.chat_message(role, avatar=AVATARS[role])


def _course(said: Said) -> str:
    """How it goes with an answer, in a line."""
    if said.note:
        return said.note
    if said.words:
        return f"{Figures(said.first_s, None, None)}{'' if said.ended else ' · writing'}"
    waited = f"waiting for the first words, {time.time() - said.sent.sent_at:.0f} s"
    models = (data.health("ux_agent") or {}).get("models") or []
    late = [f"{model['name']}: {model['state']}" for model in models if model["state"] not in ("ready", "unloaded")]
    return " · ".join([waited, *late])


def _show_empty(talk: Talk, *, can_write: bool) -> None:
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown("#### :material/forum: Say something")
        st.caption("The small model answers at once. What asks for more becomes a task; its result is shown here.")
        with st.container(horizontal=True, horizontal_alignment="center"):
            for text in SUGGESTED:
                if st.button(text, key=f"suggested-{text}", disabled=not can_write):
                    st.query_params["conversation"] = talk.id
                    talk.say(text)
                    st.rerun()


def _show_foot(talk: Talk, turn: Turn, took: dict[int, Figures], *, can_write: bool) -> None:
    """The card of a task that was begun, what an answer took, and what the user thinks of it."""
    position, task_id = turn["position"], turn["task_id"]
    if task_id and turn["kind"] == "hand_off":
        widgets.guarded(lambda: _show_card(talk, task_id, can_write=can_write))
        return  # what comes of it is rated
    figures = _told_figures(talk.answers[position]) if position in talk.answers else took.get(position)
    if task_id and turn["kind"] == "result":
        figures = _figures_of_task(task_id)
    with st.container(horizontal=True, vertical_alignment="center"):
        if told := " · ".join(part for part in (str(figures or ""), talk.notes.get(position, "")) if part):
            st.caption(words.shown(told))
        stored = task_view.RATINGS.index(turn["rating"]) if turn["rating"] else None
        thumbs = st.feedback("thumbs", key=f"rate-{talk.id}-{position}", default=stored, disabled=not can_write)
        if widgets.is_new(f"pressed-{talk.id}-{position}", thumbs) and thumbs not in (None, stored):
            widgets.done(lambda: talk.rate(position, task_view.RATINGS[thumbs]))


def _show_card(talk: Talk, task_id: str, *, can_write: bool) -> None:
    """A task of the conversation: live while it is under way, then its figures and the whole of its result."""
    task, heard = task_view.task_heard(task_id)
    card = next((each for each in talk.cards if each["id"] == task_id), None)
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            task_view.link(task_id, f"Task {card['number']}: {card['text']}" if card else task["text"])
            task_view.show_state(task, heard, can_write=can_write)
        task_view.show_course(task, heard)
        if task["status"] in ENDED and task["result"]:
            with st.expander("The whole result", expanded=task["status"] != TaskStatus.COMPLETED.value):
                task_view.show_result(task)


@st.cache_data(ttl=KEPT_S, max_entries=64, show_spinner=False)
def _kept_figures(conversation_id: str, count: int, url: str, _turns: Sequence[Turn]) -> dict[int, Figures]:
    """What the answers took that were given before this page was opened; nothing where the calls are not at hand."""
    if not count:
        return {}
    try:
        calls = data.calls(CallFilter(conversation_id=conversation_id, operation="chat", limit=CALLS), url)
    except DatabaseException:
        return {}  # it is told on the pages that live on it
    at = pl.col("started_at").dt.timestamp("us") / 1_000_000
    return figures_of(_turns, calls.with_columns(at).to_dicts())


def _told_figures(answer: dict[str, Any]) -> Figures:
    return Figures(answer["time_to_first_token_s"], answer["output_tokens"], answer["model"])


def _figures_of_task(task_id: str) -> Figures | None:
    try:
        task, _ = task_view.task_heard(task_id)
    except TaleBaseException:
        return None  # it was pruned, or the gateway is away, which its card says
    return Figures(task["timings"]["time_to_first_token_s"], task["usage"]["output_tokens"], task["model"])
