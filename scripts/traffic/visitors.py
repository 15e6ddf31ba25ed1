"""Who makes the traffic of a day: people and programs with all that they do, each thing at its moment."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tale.exceptions import TaleBaseException
from tale.mcp.http_client import HTTPMCPClient
from traffic.engine import CountingEngine, Mark

HOURS = (1, 1, 1, 1, 1, 2, 4, 8, 12, 14, 14, 12, 9, 12, 14, 14, 12, 10, 8, 6, 5, 4, 3, 2)  # how busy each of them is
LARGE_MODEL_COMES = 9 / 24  # of the day
AT_ONCE = 24
GOES_ON = 0.7  # of those who talk take up an earlier conversation
PATIENCE_S = 120.0


@dataclass
class Visitors:
    """The clients. What they see of errors is expected; what they see of nothing else is counted in `surprises`."""

    gateway: HTTPMCPClient
    ux_agent: HTTPMCPClient
    http: aiohttp.ClientSession
    chance: random.Random
    talks: list[str] = field(default_factory=list[str])
    surprises: list[str] = field(default_factory=list[str])

    async def task(self, mark: str = "", **given: Any) -> None:
        task = await self.gateway.call_tool("submit_task", {"text": f"{mark}{self._words()}", **given})
        waiting = {"task_id": task["id"], "timeout_s": int(PATIENCE_S)}
        done = await self.gateway.call_tool("wait_for_task", waiting)
        expected = {Mark.REFUSED: "failed", Mark.BROKEN: "failed", Mark.ENDLESS: "failed"}.get(mark, "completed")
        if done["status"] != expected:
            self.surprises.append(f"a task {mark} is {done['status']}: {done['error']}")

    async def task_that_takes_too_long(self) -> None:
        await self.task(Mark.ENDLESS, timeout_s=1)

    async def cancelled_task(self) -> None:
        """Cancelled when its model has begun to write."""
        task = await self.gateway.call_tool("submit_task", {"text": f"{Mark.ENDLESS}{self._words()}"})
        headers = {"Accept": "text/event-stream"}
        async with self.http.get(f"{self.gateway.url}/tasks/{task['id']}/events", headers=headers) as events:
            async for line in events.content:
                if b"is writing" in line:
                    break
        await self.gateway.call_tool("cancel_task", {"task_id": task["id"]})

    async def talk(self, mark: str = "") -> None:
        known = self.talks.pop() if self.talks and self.chance.random() < GOES_ON else None
        said = {"message": f"{mark}{self._words()}", "conversation_id": known}
        answer = await self.ux_agent.call_tool("conversation", said)
        self.talks.append(answer["conversation_id"])

    async def completion(self, mark: str = "", *, stream: bool = False, leave: bool = False) -> None:
        model = self.chance.choice(["tale-auto", "tale-ux", "small"])
        messages = [{"role": "user", "content": f"{mark}{self._words()}"}]
        body = {"model": model, "messages": messages, "stream": stream}
        async with self.http.post(f"{self.gateway.url}/v1/chat/completions", json=body) as response:
            async for line in response.content:
                if leave and b'"content"' in line:
                    return

    async def streamed(self) -> None:
        await self.completion(stream=True)

    async def left_stream(self) -> None:
        await self.completion(Mark.ENDLESS, stream=True, leave=True)

    async def embeddings(self) -> None:
        body = {"model": "tale-ux", "input": [self._words(), self._words()]}
        async with self.http.post(f"{self.gateway.url}/v1/embeddings", json=body) as response:
            await response.read()

    async def look(self) -> None:
        tool = self.chance.choice(["list_tasks", "get_server_info", "get_usage"])
        await self.gateway.call_tool(tool, {})

    async def trouble(self) -> None:
        """Something that the engine does not do well."""
        kind = self.chance.choice([self.task, self.talk, self.completion])
        try:
            await kind(self.chance.choice([Mark.REFUSED, Mark.BROKEN, Mark.SILENT]))
        except TaleBaseException:
            return  # a conversation is told so

    def _words(self) -> str:
        return " ".join(
            self.chance.choice(["tell", "me", "more", "of", "rain"]) for _ in range(self.chance.randint(2, 30))
        )


def kinds(visitors: Visitors) -> Mapping[Callable[[], Awaitable[None]], int]:
    """What visitors do, and how often in a hundred times."""
    return {
        visitors.task: 22,
        visitors.talk: 18,
        visitors.completion: 16,
        visitors.streamed: 16,
        visitors.embeddings: 5,
        visitors.look: 9,
        visitors.trouble: 8,
        visitors.cancelled_task: 2,
        visitors.left_stream: 3,
        visitors.task_that_takes_too_long: 1,
    }


async def play(visitors: Visitors, engine: CountingEngine, *, requests: int, day_s: float) -> None:
    """Have the requests come over the day, each at its moment; returns when all have ended."""
    chance, todo = visitors.chance, kinds(visitors)
    hours = sorted(hour + chance.random() for hour in chance.choices(range(len(HOURS)), HOURS, k=requests))
    room, began = asyncio.Semaphore(AT_ONCE), time.monotonic()

    async def one(at_s: float, visit: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(began + at_s - time.monotonic())
        async with room:
            await visit()

    async def morning() -> None:
        await asyncio.sleep(day_s * LARGE_MODEL_COMES)
        engine.models = ["small", "large"]

    visits = chance.choices(list(todo), list(todo.values()), k=requests)
    async with asyncio.TaskGroup() as group:
        group.create_task(morning())
        for hour, visit in zip(hours, visits, strict=True):
            group.create_task(one(hour / len(HOURS) * day_s, visit))
