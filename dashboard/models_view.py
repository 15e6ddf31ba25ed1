"""The files of models on the page: fetch one, watch it come, delete one after a second thought."""

from typing import Any

import model_files
import streamlit as st
import widgets
from model_files import Fetching

import data
from tale.cli.formatting import size
from tale.monitoring.targets import GIB
from tale.records import ModelInfo


def show_files(*, can_write: bool) -> None:
    """The models of the engine with what can be done about each. Raises TaleBaseException."""
    st.subheader("Files", anchor=False)
    told = data.settings()
    if told.gateway_url is not None:
        st.caption(f"The models are those of another machine ({told.gateway_url}): `tale models` there.")
        return
    if not can_write:
        st.caption("Models are fetched and deleted on the machine itself, or with the key (in the sidebar).")
    found = model_files.known(told.database)
    for info in sorted(found, key=lambda each: (not each.available, each.name)):
        _show(info, model_files.fetched().get(info.name), can_write=can_write)


def _show(info: ModelInfo, fetching: Fetching | None, *, can_write: bool) -> None:
    with st.container(border=True, horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        facts = (size(info.size_bytes), info.licence, "here" if info.available else "not fetched")
        st.markdown(f"**{info.name}**  \n:gray[{' · '.join(fact for fact in facts if fact and fact != '-')}]")
        if fetching is not None and not fetching.is_over:
            so_far = f"{size(fetching.done_bytes)} of {size(fetching.total_bytes or info.size_bytes)}"
            st.progress(fetching.share, text=so_far)
        else:
            _offer(info, can_write=can_write)
    if fetching is not None and fetching.error:
        st.error(f"{fetching.error} What has arrived is kept; Fetch goes on from there.", icon=":material/error:")


def _offer(info: ModelInfo, *, can_write: bool) -> None:
    """Fetch or delete it, after a second look at what that means."""
    verb, icon = ("Delete", ":material/delete:") if info.available else ("Fetch", ":material/download:")
    with st.popover(verb, disabled=not can_write, icon=icon, key=f"{verb}-{info.name}"):
        st.markdown(f"**{info.name}**, {size(info.size_bytes)}, licence: {info.licence or 'not known'}")
        if info.available:
            st.caption(f"`tale models pull {info.name}` brings it back.")
        if st.button(f"{verb} it", type="primary", key=f"{verb}-now-{info.name}", disabled=not can_write):
            work = model_files.remove if info.available else model_files.fetch
            if widgets.done(lambda: work(info.name)):
                st.rerun(scope="fragment")


def state_row(model: dict[str, Any]) -> dict[str, Any]:
    """A model of the service as a row of the table."""
    memory, size = model.get("memory_bytes"), model.get("size_bytes")
    return {
        "model": model["name"],
        "role": model["role"],
        "state": model["state"],
        "memory": "-" if memory is None else f"{memory / GIB:.2f} GiB",
        "file": "-" if size is None else f"{size / GIB:.2f} GiB",
        "calls running": model.get("running"),
        "calls waiting": model.get("waiting"),
        "error": model.get("error") or "",
    }
