"""Those who hand tasks in while everything dies: they ask again until their task is acknowledged."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final

from fakes.service_home import ServiceHome

from chaos.engine import task_text
from tale.exceptions import TaleBaseException

AHEAD: Final = 30  # tasks that are open at a time
PAUSE_S: Final = 0.2
CANCELLED: Final = 0.03  # share of the tasks that are cancelled on their way
DEPENDENT: Final = 0.1  # share that waits for the one before

logger = logging.getLogger("chaos")


class Users:
    """Hands in so many tasks, each under a key of its own, so that asking twice stores it once."""

    def __init__(self, home: ServiceHome, count: int, *, seed: int, max_output_tokens: int) -> None:
        self._home = home
        self._count = count
        self._draw = random.Random(seed)
        self._max_output_tokens = max_output_tokens
        self.acknowledged: dict[str, str] = {}  # id by key
        self.numbers: dict[str, int] = {}  # by id
        self.asked = 0

    async def hand_in(self, ended: Callable[[], int]) -> None:
        """Hand in all tasks, never many more than have ended."""
        for number in range(1, self._count + 1):
            while len(self.acknowledged) - await asyncio.to_thread(ended) >= AHEAD:
                await asyncio.sleep(PAUSE_S)
            key = f"chaos-{number}"
            before = self.acknowledged.get(f"chaos-{number - 1}")
            request: dict[str, Any] = {"text": task_text(number), "idempotency_key": key}
            request["max_output_tokens"] = self._max_output_tokens
            if before and self._draw.random() < DEPENDENT:
                request["after"] = [before]
            task = await self._answered("submit_task", request)
            self.acknowledged[key] = task["id"]
            self.numbers[task["id"]] = number
            if self._draw.random() < CANCELLED:
                await self._answered("cancel_task", {"task_id": task["id"]})

    async def ask_again(self) -> list[str]:
        """Hand all keys in again; returns complaints about those that now name another task."""
        wrong: list[str] = []
        for key, task_id in self.acknowledged.items():
            again = await self._answered("submit_task", {"text": task_text(1), "idempotency_key": key})
            if again["id"] != task_id:
                wrong.append(f"the key {key} named {task_id} and names {again['id']} now")
        return wrong

    async def _answered(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        while True:
            self.asked += 1
            try:
                async with self._home.client() as client:
                    return await client.call_tool(tool, arguments, timeout_s=10.0)
            except TaleBaseException as error:
                logger.debug("%s: %s", tool, error)
                await asyncio.sleep(PAUSE_S)
