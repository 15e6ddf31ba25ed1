"""The service's end of the bond with its watcher: one that dies is replaced, a farewell is said before leaving."""

import asyncio
import logging
import os
import socket
import subprocess
from pathlib import Path

from tale.orchestration.watcher import FAREWELL, PLAN_VARIABLE, WatchPlan, spawn_watcher, take_link
from tale.settings import Settings

logger = logging.getLogger(__name__)


class WatcherLink:
    """Holds the socket whose end-of-file says that the watcher is gone."""

    def __init__(self, link: socket.socket, plan: WatchPlan, settings: Settings, *, log_path: Path) -> None:
        self._link: socket.socket | None = link
        self._plan = plan
        self._settings = settings
        self._log_path = log_path
        self._watcher: subprocess.Popen[bytes] | None = None  # one that was started here
        self._replacing: asyncio.TimerHandle | None = None

    @classmethod
    def inherited(cls, settings: Settings, *, log_path: Path) -> "WatcherLink | None":
        """The link this process was started with; None when nobody watches it."""
        link = take_link()
        plan = os.environ.get(PLAN_VARIABLE)
        if link is None or plan is None:
            return None
        return cls(link, WatchPlan.from_json(plan), settings, log_path=log_path)

    def attach(self) -> None:
        """Begin to look after the watcher; call within the event loop."""
        assert self._link is not None  # noqa: S101 - attached once, before any farewell
        self._link.setblocking(False)
        asyncio.get_running_loop().add_reader(self._link, self._on_readable)

    def farewell(self) -> None:
        """Tell the watcher that this process ends on purpose."""
        if self._replacing:
            self._replacing.cancel()
        if self._link is None:
            return
        asyncio.get_running_loop().remove_reader(self._link)
        try:
            self._link.sendall(FAREWELL)
        except OSError as error:
            logger.info("The watcher is gone already: %s", error)
        self._link.close()
        self._link = None

    def _on_readable(self) -> None:
        assert self._link is not None  # noqa: S101 - the reader is removed before the link is closed
        try:
            if self._link.recv(64):
                return
        except BlockingIOError:
            return
        except ConnectionError as error:
            logger.info("The link to the watcher broke: %s", error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._link)
        self._link.close()
        self._link = None
        logger.warning("The watcher died; starting another in %g s.", self._plan.restart_delay_s)
        self._replacing = loop.call_later(self._plan.restart_delay_s, self._replace)

    def _replace(self) -> None:
        if self._watcher:
            self._watcher.poll()  # takes note of its end, so that no zombie stays
        self._link, theirs = socket.socketpair()
        self._link.sendall(str(os.getpid()).encode())
        with self._log_path.open("ab") as log:
            self._watcher = spawn_watcher(self._plan, self._settings.environment(), log=log.fileno(), link=theirs)
        theirs.close()
        self.attach()
