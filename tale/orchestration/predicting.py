"""What is expected of an attempt before its model is asked: by whom that is told, and how it is kept."""

import logging
from collections.abc import Callable
from typing import Protocol

from tale.exceptions import DatabaseException
from tale.orchestration.shadows import Shadows
from tale.predictions import Prediction, TaskQuestion
from tale.records import Task
from tale.storage.prediction_store import PredictionStore

logger = logging.getLogger(__name__)


class Learned(Protocol):
    """Who has learned from the history."""

    async def predict(self, question: TaskQuestion) -> Prediction | None:
        """What is expected; None where nothing was learned, or nobody answers in time. Never raises."""
        ...

    def settled(self) -> None:
        """A task has ended, from which can be learned."""
        ...


class TaskPredictor:
    """Asks what is expected of attempts, and keeps the answers; tells of them where some are to have shadows."""

    def __init__(
        self,
        learned: Learned,
        store: PredictionStore,
        *,
        clock: Callable[[], float],
        shadows: Shadows | None = None,
    ) -> None:
        self._learned = learned
        self._store = store
        self._clock = clock
        self._shadows = shadows

    async def expected(self, task: Task, question: TaskQuestion) -> Prediction | None:
        """What is expected of the attempt in force; durable on return. None where nothing is: then all is as usual."""
        if self._shadows:
            self._shadows.give_way()
        prediction = await self._learned.predict(question)
        if prediction is None:
            return None
        try:
            await self._store.add(task.id, task.attempt, prediction, now=self._clock())
        except DatabaseException as error:
            logger.warning("Task %s: what is expected of it cannot be kept and does not count: %s", task.id, error)
            return None
        if self._shadows:
            self._shadows.note(task)
        return prediction

    def settled(self) -> None:
        """A task has ended."""
        self._learned.settled()
        if self._shadows:
            self._shadows.look()
