"""The learning of tasks within the learning server: its learner, and the database that it keeps open."""

import asyncio
import logging
import random

from tale.exceptions import DatabaseException
from tale.learning.engine_learner import EngineLearner
from tale.learning.intent_data import data_folder
from tale.learning.priors import PRIORS, read_priors
from tale.predictions import PastAttempt
from tale.settings import Settings
from tale.storage.database import Database
from tale.storage.learning_store import LearningStore

logger = logging.getLogger(__name__)


class TaskLearning:
    """Opens the database and begins to learn; where that cannot be, nothing is told of tasks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None
        # Which tasks are tried on the small model is nobody's to foresee, but no secret either.
        self.learner = EngineLearner(randomness=random.Random(), priors=_priors())  # noqa: S311 - see above

    async def start(self) -> None:
        """Begin; returns when the database is open."""
        if self._settings.content != "full":
            self.learner.decline(f"content = {self._settings.content} keeps no words to learn from")
            return
        try:
            self._database = await asyncio.to_thread(Database.open, self._settings.database)
        except DatabaseException as error:
            logger.warning("Tasks are not learned from: %s", error)
            self.learner.decline(str(error))
            return
        self.learner.start(LearningStore(self._database))

    async def stop(self) -> None:
        """End what is under way."""
        await self.learner.stop()
        if self._database is not None:
            await self._database.close()


def _priors() -> list[PastAttempt]:
    try:
        return read_priors(data_folder() / PRIORS)
    except (OSError, ValueError, TypeError) as error:
        logger.warning("The attempts that come with tale cannot be read and do not count: %s", error)
        return []
