"""What the pages show: frames of the history, read once for all who look, and the answers of the running service."""

import asyncio
import time
from typing import Any, Final, Literal

import polars as pl
import streamlit as st

from tale.analytics import History, open_history
from tale.monitoring.pages import PAGES, Choice
from tale.monitoring.profiles import Profile, profile_of
from tale.monitoring.targets import Target
from tale.orchestration.server_status import ServerStatus, is_meant, look_at, taken
from tale.settings import Settings, load_settings
from tale.storage.call_pages import CallFilter

Role = Literal["gateway", "ux_agent"]

LIVE_S: Final = 1.5  # for which what was read counts for all who look: less than the time between two looks
PATIENCE_S: Final = 2.0


@st.cache_resource
def settings() -> Settings:
    """The user's settings, as of the start of the dashboard."""
    return load_settings()


@st.cache_resource
def history(url: str) -> History:
    """The history of that database, with what it keeps in memory."""
    return open_history(url)


def opened() -> History:
    """The history of the user's database."""
    return history(settings().database)


@st.cache_data(ttl=LIVE_S, max_entries=64, show_spinner=False)
def shown(page: str, choice: Choice, url: str, *further: Any) -> tuple[Any, float, float]:
    """What a page shows, the seconds that reading it took, and when that was (Unix time)."""
    began = time.perf_counter()
    found = PAGES[page](history(url), choice, *further)
    return found, time.perf_counter() - began, time.time()


def page(name: str, choice: Choice, *further: Any) -> tuple[Any, float, float]:
    """The same of the user's database. Raises DatabaseException."""
    return shown(name, choice, settings().database, *further)


@st.cache_data(ttl=LIVE_S, show_spinner=False)
def under_way(url: str) -> dict[str, int]:
    """How many tasks wait and run now."""
    return history(url).reader.under_way()


@st.cache_data(ttl=LIVE_S, show_spinner=False)
def models(url: str) -> list[str]:
    """The models that ever answered, in the order in which they came, but for those of the last minute."""
    return history(url).reader.models()


@st.cache_data(ttl=LIVE_S, max_entries=64, show_spinner=False)
def calls(wanted: CallFilter, url: str) -> pl.DataFrame:
    """A page of calls."""
    return history(url).page(wanted)


@st.cache_data(ttl=LIVE_S, show_spinner=False)
def look(role: Role, url: str) -> ServerStatus:
    """How the server of that role, at that address, looks from outside."""
    return asyncio.run(look_at(settings(), role, patience_s=PATIENCE_S))


def health(role: Role = "gateway") -> dict[str, Any] | None:
    """What the server of that role says of itself; None while it does not answer, or one of another home does."""
    status = look(role, settings().url_of(role))
    return status.health if is_meant(settings(), status) else None


def role_models() -> dict[str, str]:
    """The models that fill the roles, as the service tells or, while it is stopped, as the settings name them."""
    told = {each["role"]: each["name"] for each in (health() or {}).get("models") or ()}
    if told:
        return {"task": next(iter(told.values())), **told}  # one may fill both roles
    named = {"ux": settings().ux_model, "task": settings().task_model}
    return {role: name for role, name in named.items() if name is not None}


def profile() -> Profile:
    """The kind of machine on which the models run; UNKNOWN while the service does not answer."""
    return profile_of(((health() or {}).get("backend") or {}).get("provider"))


def targets() -> tuple[Target, ...]:
    """The targets of that kind of machine, with the user's own limits."""
    return profile().targets(settings().target_limits)


def stranger(role: Role = "gateway") -> str | None:
    """That a tale of another home answers in its place, which is asked nothing; None where none does."""
    status = look(role, settings().url_of(role))
    return taken(status).message if status.home and status.state == "foreign" and health(role) is None else None
