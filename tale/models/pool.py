"""The host's one pool as every role sees it: held in the same process, or reached through the model server."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tale.models.backend import ChatStream
from tale.models.engine import EngineState
from tale.records import CallContext, ChatRequest, Reply, Role, Vectors

Beside = Callable[[], Awaitable[None]]
State = Literal["missing", "downloading", "downloaded", "loading", "ready", "failed", "unloaded"]


@dataclass(frozen=True, slots=True)
class ModelState:
    """How one model of the pool stands; unknown values are None."""

    name: str
    role: Role
    state: State
    memory_bytes: int | None = None
    size_bytes: int | None = None
    done_bytes: int | None = None  # while it is being fetched
    total_bytes: int | None = None
    source: str | None = None
    licence: str | None = None
    error: str | None = None
    waiting: int = 0
    running: int = 0
    load_s: float | None = None
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Which engine the pool stands on and why, and how its models stand; `engines` only where there are several."""

    provider: str
    reason: str
    url: str | None
    models: tuple[ModelState, ...]
    engines: tuple[EngineState, ...] = ()


class Pool(Protocol):
    """Where every model call of every role goes; queued by priority, measured and recorded there."""

    def chat(self, request: ChatRequest, context: CallContext, *, beside: Beside | None = None) -> ChatStream:
        """Stream a generation, Dispatched first and Reply last; an empty request.model means the context's role.

        `beside` is called as the call's row is completed, so that what it hands to the database goes into the same
        commit, and what it returns is awaited.
        """
        ...

    async def complete(self, request: ChatRequest, context: CallContext) -> Reply:
        """Generate without streaming."""
        ...

    async def count_tokens(self, request: ChatRequest, context: CallContext) -> int | None:
        """Input tokens of the request; None where the engine cannot tell."""
        ...

    async def embed(self, model: str, texts: Sequence[str], context: CallContext) -> Vectors:
        """One vector a text."""
        ...

    async def status(self) -> PoolStatus:
        """How the models stand now."""
        ...

    async def start(self) -> None:
        """Begin to load what is always loaded; returns at once."""
        ...

    async def close(self) -> None:
        """End all calls and free the models."""
        ...
