"""The line to the servers: a loop in a thread of its own, where questions, answers and feeds live on between looks."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import aiohttp
import streamlit as st
import widgets
from batch import Batch
from feed import Feeds
from health_view import warn_of_stranger
from talk import Talk

import data
from data import Role
from tale.cli.gateway import client_of
from tale.cli.task_file import Line
from tale.exceptions import TaleBaseException
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.home_key import own_key
from tale.orchestration.server_status import is_meant, look_at, taken
from tale.settings import Settings

T = TypeVar("T")

AWAY_S: Final = 2.0  # between two looks whether a server is there

logger = logging.getLogger(__name__)


class Service:
    """What a dashboard has to do with one service; its methods may be called by the script of any page."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="service", daemon=True)
        self._known_until: dict[Role, float] = {}
        self._clients: dict[Role, tuple[str | None, HTTPMCPClient]] = {}
        self._talks: dict[str, Talk] = {}
        self._batches: dict[str, Batch] = {}
        self.feeds = Feeds(self)
        self._thread.start()

    def ask(self, tool: str, role: Role = "gateway", **arguments: Any) -> dict[str, Any]:
        """The structured result of a tool that may be called twice. Raises TaleBaseException."""

        async def answer() -> dict[str, Any]:
            return await (await self.client(role)).call_tool(tool, arguments, idempotent=True)

        return self.begin(answer()).result()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start something in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Start something in the loop whose end nobody waits for; what breaks it off is logged."""
        self.begin(work).add_done_callback(_logged)

    def call(self, work: Callable[[], object]) -> None:
        """Have a function called in the loop."""
        self._loop.call_soon_threadsafe(work)

    def talk(self, conversation_id: str) -> Talk:
        """A conversation, which is followed from now on as long as somebody looks."""
        if conversation_id not in self._talks:
            self._talks = {name: talk for name, talk in self._talks.items() if talk.is_wanted}
            self._talks[conversation_id] = Talk(self, conversation_id)
        talk = self._talks[conversation_id]
        talk.look()
        return talk

    def hand_in(self, batch_id: str, lines: list[Line]) -> Batch:
        """Hand in the tasks of a file, and follow them to their ends; a batch that is known is not handed in again."""
        if batch_id not in self._batches:
            self._batches = {name: batch for name, batch in self._batches.items() if not batch.is_over}
            self._batches[batch_id] = Batch(lines)
            self.start(self._batches[batch_id].run(self))
        return self._batches[batch_id]

    def batch(self, batch_id: str) -> Batch | None:
        """A batch that was handed in here."""
        return self._batches.get(batch_id)

    async def client(self, role: Role = "gateway") -> HTTPMCPClient:
        """A client with the key that commands use, too; to be used in the loop.

        Raises ServerException where a tale of another home answers.
        """
        await self._refuse_stranger(role)
        key = own_key(self.settings, role)
        held = self._clients.get(role)
        if held is None or held[0] != key:  # the first start of the servers makes the key
            if held:
                await held[1].close()
            held = self._clients[role] = (key, client_of(self.settings, role))
        return held[1]

    async def http(self) -> aiohttp.ClientSession:
        """Connections to the gateway of a kind of their own, for streams; to be closed in the loop. Raises likewise."""
        await self._refuse_stranger("gateway")
        key = own_key(self.settings, "gateway")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return aiohttp.ClientSession(headers=headers, read_bufsize=2**20)

    def close(self) -> None:
        """Break off what is under way, and end the thread."""
        self.begin(self._close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _refuse_stranger(self, role: Role) -> None:
        """Raise ServerException where a tale of another home answers; it is looked every other second."""
        now = time.monotonic()
        if now < self._known_until.get(role, 0.0):
            return
        status = await look_at(self.settings, role)
        if status.home and status.state == "foreign" and not is_meant(self.settings, status):
            raise taken(status)
        self._known_until[role] = now + AWAY_S

    async def _close(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for _, client in self._clients.values():
            await client.close()


@st.cache_resource(on_release=Service.close, show_spinner=False)
def _opened(_settings: Settings, home: str) -> Service:
    return Service(_settings)


def service() -> Service:
    """The one of the user's settings."""
    settings = data.settings()
    return _opened(settings, str(settings.home))


def is_running(role: Role = "gateway") -> bool:
    """Whether that server answers."""
    return data.health(role) is not None


def is_absent(role: Role = "gateway") -> bool:
    """Say what to run where that server does not answer; whether it does not."""
    if is_running(role):
        return False
    if not warn_of_stranger(role):
        widgets.empty("The service is not running", "tale servers start")
    return True


@st.fragment(run_every=AWAY_S)
def show_absence(role: Role = "gateway") -> None:
    """The same for a whole page, which comes by itself when the server answers."""
    if not is_absent(role):
        st.rerun()


def asked(show: Callable[[], None]) -> None:
    """Show something that the gateway tells, or say what to run, or in a sentence why it cannot be shown."""
    try:
        show()
    except TaleBaseException as error:
        if not is_absent():
            widgets.refused(error)


def _logged(done: Future[object]) -> None:
    if not done.cancelled() and (error := done.exception()):
        logger.error("Something broke off that the dashboard does beside its pages.", exc_info=error)
