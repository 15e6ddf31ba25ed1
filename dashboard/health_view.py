"""How the service stands, on the page: its models, that it is stopped, or that another tale answers in its place."""

from typing import Final

import streamlit as st

import data
from data import Role

COLOURS: Final = {"ok": "green", "ready": "green", "degraded": "orange", "starting": "blue", "loading": "blue"}


def warn_of_stranger(role: Role = "gateway") -> bool:
    """Say it where a tale of another home answers, which is asked nothing; whether one does."""
    told = data.stranger(role)
    if told:
        st.warning(told, icon=":material/warning:")
    return told is not None


def strip() -> None:
    """The state of the service and of each model in a word."""
    if warn_of_stranger():
        return
    found = data.health()
    with st.container(horizontal=True, gap="small"):
        if found is None:
            st.badge("service stopped: tale servers start", icon=":material/power_off:", color="gray")
            return
        st.badge(f"service {found['status']}", icon=":material/dns:", color=COLOURS.get(found["status"], "red"))
        for model in found.get("models", []):
            colour = COLOURS.get(model["state"], "gray")
            st.badge(f"{model['name']} {model['state']}", icon=":material/memory:", color=colour)
