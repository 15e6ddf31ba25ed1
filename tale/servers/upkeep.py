"""Keeps the database in order while the servers run: history beyond its age is thrown away."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tale.exceptions import DatabaseException
from tale.settings import Settings
from tale.storage.database import Database
from tale.storage.retention import prune

INTERVAL_S: Final = 3_600.0
DAY_S: Final = 86_400

logger = logging.getLogger(__name__)


class Upkeep:
    """Chores of the one gateway of a database: done at its start, and every hour from then on."""

    def __init__(self, settings: Settings, database: Database, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the background."""
        self._task = asyncio.create_task(self._run(), name="upkeep")

    async def stop(self) -> None:
        """End; a chore under way is left where it is and taken up at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def do_chores(self) -> None:
        """Do what is due; a failure is logged, and the chore comes again."""
        try:
            await self._prune()
        except DatabaseException as error:
            logger.warning("The database could not be kept in order, which is tried again: %s", error)

    async def _run(self) -> None:
        while True:
            await self.do_chores()
            await asyncio.sleep(INTERVAL_S)

    async def _prune(self) -> None:
        if self._settings.retention_days is None:
            return
        pruned = await prune(self._database, self._clock() - self._settings.retention_days * DAY_S)
        if not pruned.is_empty:
            logger.info("Threw away what is older than %d days: %s.", self._settings.retention_days, pruned)
