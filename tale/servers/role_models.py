"""Which models fill the two roles now, as whoever asks for predictions needs to know, without waiting for it long."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tale.learning.model_weights import small_cost
from tale.models.pool import Pool
from tale.predictions import TaskQuestion

KEPT_S: Final = 60.0  # models change with the process that holds them
LIMIT_S: Final = 0.02  # then they are taken to be the ones that they were

logger = logging.getLogger(__name__)


class RoleModels:
    """The names as the pool last told them, and what a token of the small model costs by them, or by the settings."""

    def __init__(
        self, pool: Pool, *, small_cost: float | None = None, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._stated = small_cost
        self._timer = timer
        self._ux: str | None = None
        self._task: str | None = None
        self._told_at: float | None = None

    async def named(self, question: TaskQuestion) -> TaskQuestion:
        """The question with the models, as far as they are known."""
        await self._look()
        return replace(question, ux_model=self._ux, task_model=self._task, small_cost=self._cost())

    async def small_cost(self) -> float:
        """What a token of the small model costs, where one of the task model costs 1."""
        await self._look()
        return self._cost()

    def _cost(self) -> float:
        return small_cost(self._ux, self._task, stated=self._stated)

    async def _look(self) -> None:
        if self._told_at is not None and self._timer() - self._told_at < KEPT_S:
            return
        try:
            async with asyncio.timeout(LIMIT_S):
                names = {state.role: state.name for state in (await self._pool.status()).models}
        except TimeoutError:
            logger.info("The pool does not tell its models in time; they are taken to be the ones that they were.")
            return
        if names:
            self._ux, self._task = names.get("ux"), names.get("task") or names.get("ux")  # one may fill both roles
            self._told_at = self._timer()
