"""Hands in the tasks of a file: checked line by line before, counted to the last end afterwards."""

import uuid
from typing import Final

import polars as pl
import streamlit as st
import widgets
from batch import Batch
from service import service

import data
from tale.cli.task_file import NAMES, Fault, Line, TaskFile

HIDDEN: Final = ("idempotency_key", "attachments")
CONFIG: Final = {"line": st.column_config.NumberColumn("line", width="small")}
ENDINGS: Final = ("jsonl", "ndjson", "json", "txt")
SHOWN: Final = 200  # lines of a file, or faults
FORGOTTEN: Final = (
    "The dashboard began anew, and does not know how this file stands. Its tasks go on, below and under Tasks. Hand "
    "the same file in again to follow it: nothing is done twice, and what is missing is taken up."
)
EXAMPLE: Final = '{"text": "Write a haiku about rain", "priority": 5}\n{"text": "Name three rivers of Peru"}'


def show_upload(*, can_write: bool) -> None:
    """A file of tasks, what is wrong with it, and what becomes of it."""
    given = st.file_uploader("A file with one JSON object a line", ENDINGS, key="file", disabled=not can_write)
    if given is None:
        st.caption("Each line is a task with the options of `tale submit --file`, such as:")
        st.code(EXAMPLE, language="json")
        return
    anew = st.checkbox("Hand in again what was handed in before", key="anew", help="Else a line is one task for ever.")
    try:
        text = given.getvalue().decode("utf-8")
    except UnicodeDecodeError as error:
        st.error(f"The file is no UTF-8 text (byte {error.start + 1}); convert it.", icon=":material/error:")
        return
    salt = f"{given.file_id}" if anew else ""
    lines, faults = _read(text, salt, str(data.settings().home))
    if _is_wanted(lines, faults):
        batch_id = str(uuid.uuid4())
        service().hand_in(batch_id, lines)
        st.query_params["batch"] = batch_id
        st.rerun()


@st.fragment(run_every=widgets.pace())
def show_batch() -> None:
    """How the tasks of the file stand that was handed in last."""
    batch_id = st.query_params.get("batch")
    if not batch_id:
        return
    with st.container(border=True):
        if batch := service().batch(batch_id):
            widgets.guarded(lambda: _course(batch))
        else:
            st.caption(":material/info: " + FORGOTTEN)
            _show_close()


@st.cache_data(max_entries=8, show_spinner="Reading the file")
def _read(text: str, salt: str, home: str) -> tuple[list[Line], list[Fault]]:
    return TaskFile(data.settings(), {}, salt=salt).read(text)


def _is_wanted(lines: list[Line], faults: list[Fault]) -> bool:
    """Show what the file holds; whether it is to be handed in."""
    if lines:
        rows = [_told(line) for line in lines[:SHOWN]]
        told = pl.DataFrame(rows, infer_schema_length=None)
        widgets.table(told, "lines", column_config=CONFIG, height=min(260, 38 + 35 * len(told)))
    leave_out = False
    if faults:
        st.error(f"{len(faults)} of {len(lines) + len(faults)} lines cannot be used.", icon=":material/error:")
        reasons = pl.DataFrame([{"line": each.number, "reason": each.reason} for each in faults[:SHOWN]])
        widgets.table(reasons, "faults", column_config=CONFIG)
        leave_out = bool(lines) and st.checkbox(f"Leave them out and hand in the other {len(lines)}", key="leave-out")
    if not lines and not faults:
        st.warning("The file holds no tasks.")
    may = bool(lines) and (not faults or leave_out)
    return st.button(f"Submit {len(lines)} tasks", type="primary", disabled=not may, icon=":material/send:")


def _told(line: Line) -> dict[str, str | int]:
    """What was asked for, in a row."""
    names = [name for name in NAMES if name not in HIDDEN and name in line.request]
    return {"line": line.number, **{name: str(line.request[name]) for name in names}}


def _course(batch: Batch) -> None:
    whole, ended = len(batch.lines), batch.ended_as.total()
    counts = ", ".join(f"{count} {name}" for name, count in sorted(batch.ended_as.items()))
    st.progress(ended / whole, text=f"**{ended:,} of {whole:,} tasks have ended** {counts and f'· {counts}'}")
    if batch.note:
        st.caption(batch.note)
    if batch.problem:
        st.error(batch.problem, icon=":material/error:")
    if batch.failed:
        widgets.table(pl.DataFrame(batch.failed).sort("line").head(SHOWN), "failed", column_config=CONFIG)
    if batch.is_over:
        _show_close()


def _show_close() -> None:
    if st.button("Close", key="close-batch", icon=":material/close:"):
        widgets.drop_from_address("batch")
        st.rerun()
