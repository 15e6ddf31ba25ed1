"""The processes of a run: started as commands start them, found again to be killed, and brought back when given up."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psutil
from fakes.service_home import ServiceHome

from chaos.audit import Audit
from chaos.casting import Cast
from chaos.deaths import HARMLESS, Death, Toll
from tale.exceptions import ServerException, TaleBaseException
from tale.orchestration.service_processes import living

LOOK_S: Final = 0.02
KEEPER_S: Final = 0.5
PATIENCE_S: Final = 60.0  # until something dies for which there has to be somebody alive, or a task at work
CHILDREN: Final = {"engine": "tale.models.embedded_host", "learning": "tale.servers.learning_server"}

logger = logging.getLogger("chaos")


class Scene:
    """Runs the cast, kills of it what is said, and starts what its watcher has given up, as the next command would."""

    def __init__(self, home: ServiceHome, cast: Cast, audit: Audit) -> None:
        self._home = home
        self._cast = cast
        self._audit = audit
        self._last_loss = 0.0  # of work, in Unix seconds
        self.targets = cast.targets
        self.toll = Toll()
        self.started_by_hand = 0

    async def start(self) -> None:
        """Start everything, the models first."""
        for part in self._cast.parts:
            await self._home.manager(part.settings).start(part.roles)

    async def keep(self) -> None:
        """Start what neither runs nor is watched, for ever."""
        while True:
            await asyncio.sleep(KEEPER_S)
            for part in self._cast.parts:
                if self._pid(part.roles[0]) is None and not await asyncio.to_thread(self._is_watched, part.roles[0]):
                    with suppress(ServerException):  # its watcher was just being replaced
                        await self._home.manager(part.settings).start(part.roles)
                        self.started_by_hand += 1
                        logger.info("%s: started by hand", ", ".join(part.roles))

    async def die(self, death: Death, draw: float) -> None:
        """Carry one death out: with tasks at work, unless it is to be at once."""
        deadline = time.monotonic() + PATIENCE_S
        if not death.at_once:
            await self._until(self._is_at_work, deadline)
            await asyncio.sleep(death.aim_s)
        while True:
            at_work = await asyncio.to_thread(self._is_at_work)
            if await asyncio.to_thread(self._kill, death.target, draw):
                break
            if time.monotonic() > deadline:
                raise TaleBaseException(f"There was no {death.target} to kill for {PATIENCE_S:g} s.")
            await asyncio.sleep(LOOK_S)
        if death.target not in HARMLESS:
            self._last_loss = time.time()
        self.toll.note(death.target, at_work=at_work)
        logger.info("%s killed%s", death.target, ", tasks at work" if at_work else "")

    def _is_at_work(self) -> bool:
        return self._cast.is_writing() and self._audit.at_work(self._last_loss) > 0

    async def _until(self, holds: Callable[[], bool], deadline: float) -> None:
        while time.monotonic() < deadline and not await asyncio.to_thread(holds):
            await asyncio.sleep(LOOK_S)

    def _kill(self, target: str, draw: float) -> bool:
        if target == "backend":
            return self._audit.end_a_backend(draw)
        if target == "watcher":
            found = self._home.watchers()
        else:
            pids = [pid for part in self._cast.parts if (pid := self._pid(part.roles[0])) is not None]
            if target in CHILDREN:
                found = [child for pid in pids for child in _children(pid, CHILDREN[target])]
            else:
                pid = self._pid(target)
                found = [] if pid is None else [psutil.Process(pid)]
        if not found:
            return False
        try:
            found[int(draw * len(found)) % len(found)].kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _pid(self, role: str) -> int | None:
        states = living(self._home.settings.run_folder)
        return next((state.pid for state in states if role in state.roles), None)

    def _is_watched(self, role: str) -> bool:
        for watcher in self._home.watchers():
            with suppress(psutil.Error):
                if f'"{role}' in watcher.environ().get("WATCH_PLAN_OF_TALE", ""):
                    return True
        return False


def _children(pid: int, module: str) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [child for child in psutil.Process(pid).children() if module in child.cmdline()]
    return []
