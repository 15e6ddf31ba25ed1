"""What the pages show: frames of the history, read once for all who look, and the answers of the running service."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import polars as pl
import streamlit as st

from tale.analytics import History, open_history
from tale.exceptions import NetworkException
from tale.mcp.plain_question import health_at
from tale.monitoring.pages import PAGES, Choice
from tale.orchestration.home_key import own_key
from tale.settings import Settings, load_settings
from tale.storage.call_pages import CallFilter

if TYPE_CHECKING:
    from tale.mcp.http_client import HTTPMCPClient

FRESH_S: Final = 10.0  # what is read from the calls of closed minutes is not read again for so long
LIVE_S: Final = 1.5  # less than the time between two looks
PATIENCE_S: Final = 2.0

T = TypeVar("T")


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


@st.cache_data(ttl=FRESH_S, max_entries=64, show_spinner=False)
def shown(page: str, choice: Choice, url: str) -> tuple[Any, float, float]:
    """What a page shows, the seconds that reading it took, and when that was (Unix time)."""
    began = time.perf_counter()
    found = PAGES[page](history(url), choice)
    return found, time.perf_counter() - began, time.time()


def page(name: str, choice: Choice) -> tuple[Any, float, float]:
    """The same of the user's database. Raises DatabaseException."""
    return shown(name, choice, settings().database)


@st.cache_data(ttl=LIVE_S, show_spinner=False)
def under_way(url: str) -> dict[str, int]:
    """How many tasks wait and run now."""
    return history(url).reader.under_way()


@st.cache_data(ttl=LIVE_S, max_entries=64, show_spinner=False)
def calls(wanted: CallFilter, url: str) -> pl.DataFrame:
    """A page of calls."""
    return history(url).page(wanted)


@st.cache_data(ttl=LIVE_S, show_spinner=False)
def health(url: str) -> dict[str, Any] | None:
    """What the gateway says of itself; None while it does not answer."""
    try:
        found = health_at(url, timeout_s=PATIENCE_S)
        return found if found is not None else asked(lambda client: client.health())
    except NetworkException:
        return None


def asked(work: "Callable[[HTTPMCPClient], Awaitable[T]]") -> T:
    """What the gateway answers to one question. Raises TaleBaseException."""
    from tale.mcp.http_client import HTTPMCPClient  # with aiohttp; most pages ask nothing of this kind

    told = settings()
    key = own_key(told, "gateway")

    async def answer() -> T:
        async with HTTPMCPClient(told.url_of("gateway"), api_key=key) as client:
            return await work(client)

    return asyncio.run(answer())


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    """The structured result of one of the gateway's tools. Raises TaleBaseException."""
    return asked(lambda client: client.call_tool(name, arguments))
