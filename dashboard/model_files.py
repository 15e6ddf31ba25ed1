"""The files of models: which are here, which could be fetched, and what is being fetched now, one for all who look."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import streamlit as st

import data
from tale.exceptions import ModelException, TaleBaseException
from tale.records import ModelInfo, PullProgress

if TYPE_CHECKING:
    from tale.models.backend import Backend

KEPT_S: Final = 30.0  # for which the list is not asked for anew
IN_USE: Final = ("ready", "loading")

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Fetching:
    """A download: how far it is, and why it broke off."""

    name: str
    done_bytes: int = 0
    total_bytes: int | None = None
    error: str | None = None
    is_over: bool = False

    @property
    def share(self) -> float:
        """How much is there."""
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else 0.0


@st.cache_resource
def fetched() -> dict[str, Fetching]:
    """The downloads of this dashboard by the names of models."""
    return {}


@st.cache_data(ttl=KEPT_S, show_spinner=False)
def known(database: str) -> list[ModelInfo]:
    """The models of the engine of the settings, which that database stands for. Raises TaleBaseException."""
    return asked(lambda backend: backend.list_models())


def asked(work: "Callable[[Backend], Awaitable[T]]") -> T:
    """What the engine answers. Raises TaleBaseException."""
    from tale.models.choice import choose_backend  # the engines' clients take 60 MB, which other pages do without

    async def answer() -> T:
        choice = await choose_backend(data.settings())
        try:
            return await work(choice.backend)
        finally:
            await choice.backend.close()

    return asyncio.run(answer())


def fetch(name: str) -> Fetching:
    """Begin to fetch a model in the background, unless that is being done; what has arrived of it is kept."""
    held = fetched()
    if (before := held.get(name)) is not None and not before.is_over:
        return before
    begun = held[name] = Fetching(name)

    def listen(report: PullProgress) -> None:
        begun.done_bytes, begun.total_bytes = report.done_bytes, report.total_bytes

    def run() -> None:
        try:
            asked(lambda backend: backend.pull(name, listen))
        except TaleBaseException as error:
            begun.error = error.message
        except Exception:  # the edge of a thread, of which nobody would hear
            logger.exception("%s could not be fetched", name)
            begun.error = f"{name} could not be fetched; the log of the dashboard tells why."
        finally:
            begun.is_over = True
            known.clear()

    threading.Thread(target=run, name=f"fetch {name}", daemon=True).start()
    return begun


def remove(name: str) -> None:
    """Delete a model's files. Raises ModelException for one that is in use, and TaleBaseException."""
    running = (data.health() or {}).get("models", [])
    if any(model["name"] == name and model["state"] in IN_USE for model in running):
        raise ModelException(f"{name} is in use; `tale servers stop` first.")
    asked(lambda backend: backend.remove(name))
    known.clear()
