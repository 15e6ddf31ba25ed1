"""The servers that a conversation talks to: asked through their tools, and waited for when they are lost."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from tale.cli.gateway import client_of
from tale.exceptions import NetworkException, ServerException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.peer import OnProgress
from tale.orchestration.run_state import read_states
from tale.orchestration.server_manager import ServerManager
from tale.settings import Settings

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 2.0
START_MARGIN_S: Final = 3.0  # beyond what the watcher takes to start lost servers again; then we start them

Say = Callable[[str], None]


@dataclass(slots=True)
class Link:
    """One conversation's line to the UX agent and to the gateway; `say` is told when they are lost, and when back."""

    settings: Settings
    agent: HTTPMCPClient
    gateway: HTTPMCPClient
    say: Say
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _starters: int = 0  # how many wait who may have the servers started
    _lost_at: float | None = None

    async def ask(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What a tool of the UX agent answers that may be called twice."""
        return await self.agent.call_tool(tool, arguments, idempotent=True)

    async def ask_gateway(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What a tool of the gateway answers that may be called twice."""
        return await self.gateway.call_tool(tool, arguments, idempotent=True)

    async def converse(
        self, message: str, conversation_id: str, on_progress: OnProgress, *, again_after: int | None = None
    ) -> dict[str, Any]:
        """Say something; the words of the answer stream to `on_progress`. Cancelling it stops the model.

        With `again_after` it has been said before, after that position, and its answer was lost.
        """
        arguments: dict[str, Any] = {"message": message, "conversation_id": conversation_id}
        if again_after is not None:
            arguments |= {"again": True, "after": again_after}
        return await self.agent.call_tool("conversation", arguments, on_progress=on_progress)

    async def back(self, *, start: bool) -> None:
        """Return when the UX agent answers again.

        The watcher brings lost servers back. With `start` they are started where it does not, or where they were
        stopped on purpose; raises what the start raises. Without, they are waited for as long as it takes,
        or until somebody waits who may start them.
        """
        self._starters += start
        try:
            async with self._looking:
                await self._wait(start=start)
        finally:
            self._starters -= start

    async def _wait(self, *, start: bool) -> None:
        pause_s = FIRST_PAUSE_S
        while not await self._answers():
            if self._lost_at is None:
                self._lost_at = time.monotonic()
                self.say("The servers do not answer; nothing is lost, the conversation goes on when they are back.")
            if start and self._may_start(time.monotonic() - self._lost_at):
                with suppress(NetworkException):  # a gateway elsewhere, which is not ours to start
                    await ServerManager(self.settings).ensure_running("ux_agent")
            elif self._starters and not start:
                return  # and leave the wait to somebody who may do more
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if self._lost_at is not None:
            self._lost_at = None
            self.say("The servers are back.")

    async def _answers(self) -> bool:
        try:
            await self.agent.connect()
        except (NetworkException, ServerException):
            return False
        return True

    def _may_start(self, away_s: float) -> bool:
        """A service that ends on purpose takes its state file along; one that dies is the watcher's, at first."""
        settings = self.settings
        watched = settings.gateway_url is not None or bool(read_states(settings.run_folder))
        return not watched or away_s >= settings.monitor_interval_s + settings.restart_delay_s + START_MARGIN_S


@asynccontextmanager
async def linked(settings: Settings, say: Say, *, on_start: Say) -> AsyncGenerator[Link]:
    """A line to servers that run; they are started if need be, and `on_start` told so in a few words."""
    await ServerManager(settings, on_wait=on_start).ensure_running("ux_agent")
    async with client_of(settings, "ux_agent") as agent, client_of(settings) as gateway:
        yield Link(settings, agent, gateway, say)


async def earlier(agent: HTTPMCPClient, wanted: str | None, *, limit: int = 1) -> dict[str, Any]:
    """The conversation to go on with: the wanted one, else the latest. Raises ValidationException."""
    history = await agent.call_tool("get_history", {"conversation_id": wanted, "limit": limit}, idempotent=True)
    if not history["turns"]:
        raise ValidationException(f"There is no conversation {wanted}; `tale chat --continue` takes up the last one.")
    return history
