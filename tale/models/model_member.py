"""One model of the pool: how it stands, how it is brought up, and its slots."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tale.exceptions import ModelException, TaleBaseException
from tale.models.backend import Backend
from tale.models.pool import ModelState, State
from tale.models.priority_slots import PrioritySlots
from tale.records import ModelInfo, PullProgress, Role

LONGEST_RETRY_S: Final = 300.0
MOST_DOUBLINGS: Final = 20  # of the wait before a retry

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Member:
    """A model, and the role it is meant for."""

    name: str
    role: Role
    slots: PrioritySlots
    state: State = "unloaded"
    info: ModelInfo | None = None
    error: str | None = None
    load_s: float | None = None
    pulled: PullProgress | None = None
    bringing_up: asyncio.Task[None] | None = None
    failures: int = 0
    retry_at: float = 0.0  # of a monotonic clock
    arrived: asyncio.Event = field(default_factory=asyncio.Event)  # its file is there, or cannot be had

    def shown(self) -> ModelState:
        """How the model stands, for people and programs."""
        info = self.info
        return ModelState(
            self.name,
            self.role,
            self.state,
            memory_bytes=info.memory_bytes if info else None,
            size_bytes=info.size_bytes if info else None,
            done_bytes=self.pulled.done_bytes if self.pulled and self.state == "downloading" else None,
            total_bytes=self.pulled.total_bytes if self.pulled and self.state == "downloading" else None,
            source=self.pulled.source if self.pulled else info.source if info else None,
            licence=info.licence if info else None,
            error=self.error,
            waiting=self.slots.waiting,
            running=self.slots.running,
            load_s=self.load_s,
            context_tokens=info.context_tokens if info else None,
        )


class Nursery:
    """Brings models up, one task a model, and says when anything changed."""

    def __init__(
        self, backend: Backend, *, memory_limit_bytes: int, members: list[Member], first_retry_s: float
    ) -> None:
        self._backend = backend
        self._memory_limit_bytes = memory_limit_bytes
        self._members = members
        self._first_retry_s = first_retry_s
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Return when a model's state changes."""
        await self._changed.wait()

    def set_state(self, member: Member, state: State, error: str | None = None) -> None:
        """Change a model's state and wake whoever waits for that."""
        member.state, member.error = state, error
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def bring_up(self, member: Member, *, after: Member | None = None, load: bool = True) -> None:
        """Begin to fetch and load a model unless that is under way; a failed one only when its retry is due.

        `after` names a model whose file goes first; without `load` the file is fetched and no more.
        """
        if member.state == "ready" or member.bringing_up is not None:
            return
        if member.state == "failed" and time.monotonic() < member.retry_at:
            return
        member.bringing_up = asyncio.create_task(self._bring_up(member, after, load=load), name=f"load-{member.name}")
        member.bringing_up.add_done_callback(self._on_end(member))

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = [member.bringing_up for member in self._members if member.bringing_up]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Read from the backend what is known of each model now."""
        infos = {info.name: info for info in await self._backend.list_models()}
        for member in self._members:
            member.info = infos.get(member.name)
            if member.state == "unloaded" and (member.info is None or not member.info.available):
                member.state = "missing"

    def _on_end(self, member: Member) -> Callable[[asyncio.Task[None]], None]:
        def ended(task: asyncio.Task[None]) -> None:
            member.bringing_up = None
            if not task.cancelled() and (error := task.exception()):
                logger.error("Bringing up %s broke off.", member.name, exc_info=error)
                self._failed(member, str(error))
            self.set_state(member, member.state, member.error)  # whoever waits may now have it brought up further

        return ended

    async def _bring_up(self, member: Member, after: Member | None, *, load: bool) -> None:
        try:
            await self._pull(member, after)
            if load:
                await self._load(member)
        except TaleBaseException as error:
            logger.warning("%s cannot be used: %s", member.name, error)
            self._failed(member, error.message)

    async def _pull(self, member: Member, after: Member | None) -> None:
        try:
            await self.refresh()
            if member.state == "missing" or (member.state == "failed" and not (member.info and member.info.available)):
                if after is not None:
                    await after.arrived.wait()
                self.set_state(member, "downloading")
                await self._backend.pull(member.name, lambda progress: setattr(member, "pulled", progress))
                self.set_state(member, "downloaded")
                await self.refresh()
        finally:
            member.arrived.set()

    async def _load(self, member: Member) -> None:
        self._check_limit(member)
        self.set_state(member, "loading")
        began = time.perf_counter()
        await self._backend.load(member.name)
        member.load_s = round(time.perf_counter() - began, 3)
        member.failures = 0
        self.set_state(member, "ready")

    def _check_limit(self, member: Member) -> None:
        others = [other for other in self._members if other is not member and other.state in ("ready", "loading")]
        known = [model.info for model in (member, *others) if model.info]
        needed = sum(info.memory_bytes or info.size_bytes or 0 for info in known)
        if others and needed > self._memory_limit_bytes:
            raise ModelException(
                f"{member.name} does not fit beside {others[0].name}: together they need {needed / 1e9:.1f} GB, "
                f"the limit is {self._memory_limit_bytes / 1e9:.1f} GB (memory_limit_bytes).",
                {"needed_bytes": needed, "limit_bytes": self._memory_limit_bytes},
            )

    def _failed(self, member: Member, error: str) -> None:
        member.retry_at = time.monotonic() + min(
            self._first_retry_s * 2 ** min(member.failures, MOST_DOUBLINGS), LONGEST_RETRY_S
        )
        member.failures += 1
        self.set_state(member, "failed", error)
