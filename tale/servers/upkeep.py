"""Keeps the database in order while the servers run: sums by the minute, and history that is thrown away."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tale.exceptions import DatabaseException
from tale.settings import Settings
from tale.storage.content import erase
from tale.storage.database import Database
from tale.storage.learning_store import LearningStore
from tale.storage.monitoring_store import MonitoringStore
from tale.storage.retention import prune
from tale.storage.rollups import Rollups

CHORES_INTERVAL_S: Final = 3_600.0
MINUTE_S: Final = 60.0
SETTLING_S: Final = 3.0  # after the end of a minute, in which the rows of its last calls are written
DAY_S: Final = 86_400
SAMPLES_DAYS: Final = 90  # of the monitor, which makes one every few seconds

logger = logging.getLogger(__name__)


class Upkeep:
    """What the gateway of a database does for it: each closed minute is rolled up, and every hour chores are done."""

    def __init__(self, settings: Settings, database: Database, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._rollups = Rollups(database)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in the background."""
        self._tasks = [
            asyncio.create_task(self._each_minute(), name="rollups"),
            asyncio.create_task(self._each_hour(), name="upkeep"),
        ]

    async def stop(self) -> None:
        """End; what is under way is left where it is and taken up at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def roll_up(self) -> None:
        """Roll up the minutes that have closed; a failure is logged, and they come again with the next."""
        try:
            await self._rollups.catch_up(self._clock())
        except DatabaseException as error:
            logger.warning("The last minute could not be summed up, which is tried again: %s", error)

    async def do_chores(self) -> None:
        """Do what is due; a failure is logged, and the chore comes again."""
        try:
            await self._erase()
            await self._prune()
        except DatabaseException as error:
            logger.warning("The database could not be kept in order, which is tried again: %s", error)

    async def _each_minute(self) -> None:
        while True:
            await self.roll_up()
            await asyncio.sleep(MINUTE_S - self._clock() % MINUTE_S + SETTLING_S)

    async def _each_hour(self) -> None:
        while True:
            await self.do_chores()
            await asyncio.sleep(CHORES_INTERVAL_S)

    async def _erase(self) -> None:
        if self._settings.content != "full":
            now = self._clock()
            await LearningStore(self._database).forget(now)
            await erase(self._database, self._settings.content, now - self._settings.content_hold_s)

    async def _prune(self) -> None:
        await self._prune_samples()
        if self._settings.retention_days is None:
            return
        pruned = await prune(self._database, self._clock() - self._settings.retention_days * DAY_S)
        if not pruned.is_empty:
            logger.info("Threw away what is older than %d days: %s.", self._settings.retention_days, pruned)

    async def _prune_samples(self) -> None:
        days = min(SAMPLES_DAYS, self._settings.retention_days or SAMPLES_DAYS)
        store = MonitoringStore(self._database)
        while await store.prune(self._clock() - days * DAY_S):
            logger.debug("Threw away old samples of the monitor.")
