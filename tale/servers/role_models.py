"""Which models fill the two roles now, as whoever asks for predictions needs to know, without waiting for it long."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tale.exceptions import TaleBaseException
from tale.learning.model_weights import small_cost
from tale.models.pool import Pool
from tale.predictions import TaskQuestion

KEPT_S: Final = 60.0  # models change with the process that holds them
LIMIT_S: Final = 0.02  # for the first task; later ones go by the names that were told last
PATIENT_S: Final = 5.0  # for people

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
        self._asking: asyncio.Task[None] | None = None

    async def named(self, question: TaskQuestion) -> TaskQuestion:
        """The question with the models and the cost, as far as they are known."""
        await self._look(LIMIT_S if self._asking is None else 0.0)
        cost = self._cost() if self._ux and self._task else self._stated
        return replace(question, ux_model=self._ux, task_model=self._task, small_cost=cost)

    async def small_cost(self) -> float:
        """What a token of the small model costs, where one of the task model costs 1; the pool is waited for."""
        await self._look(PATIENT_S)
        return self._cost()

    async def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _cost(self) -> float:
        return small_cost(self._ux, self._task, stated=self._stated)

    async def _look(self, limit_s: float) -> None:
        """Have the pool asked where it has told nothing lately; what it says after that time holds from then on."""
        if self._told_at is not None and self._timer() - self._told_at < KEPT_S:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="role-models")
        await asyncio.wait([self._asking], timeout=limit_s)

    async def _ask(self) -> None:
        try:
            names = {state.role: state.name for state in (await self._pool.status()).models}
        except TaleBaseException as error:
            logger.info("The pool does not tell its models; they are taken to be the ones that they were: %s", error)
            return
        if names:
            self._ux, self._task = names.get("ux"), names.get("task") or names.get("ux")  # one may fill both roles
            self._told_at = self._timer()
