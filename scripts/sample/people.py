"""The people of the sample history: each comes to talk, for a task or several, or for something that ends badly."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from workload.checks import is_right
from workload.requests import Request

from sample.words import Words, expectation_of
from tale.exceptions import TaleBaseException
from tale.mcp.http_client import HTTPMCPClient

PATIENCE_S: Final = 900.0
CHECKED: Final = 0.55  # of tasks come with a check, where one can be stated
RATED: Final = 0.6  # of the others get a rating
STATED: Final = (None, None, None, 160, 300)  # most tokens of a task
SMALL_CAP: Final = (16, 40)
TURNS: Final = (43, 43, 10, 4)  # of a hundred turns: talk, questions, how things stand, tasks
IMPOSSIBLE: Final = {"regex": "^(?!)"}  # matches nothing
ESSAY: Final = "Write an essay of ten paragraphs about {}."
STORY: Final = "Tell me a long story about {}, I have time. Do not stop early."
RIVERS: Final = "Name five rivers."
GATHERED: Final = "Name each result in one short line."
TOPICS: Final = ("lighthouses", "a harbour at dawn", "glaciers", "bees", "old railways", "the tides", "maps", "tea")


@dataclass
class Person:
    """One visit: who it is and what is said depend on its number alone."""

    number: int
    gateway: HTTPMCPClient
    ux_agent: HTTPMCPClient
    http: aiohttp.ClientSession
    words: Words
    chance: random.Random

    async def visit(self) -> None:
        """Do what this visit is for."""
        kinds = visits(self)
        (kind,) = self.chance.choices(list(kinds), list(kinds.values()))
        await kind()

    async def talk(self) -> None:
        """A conversation; some of its turns ask how things stand, or for something that becomes a task."""
        known, tasks = None, list[str]()
        for _ in range(self.chance.randint(3, 8)):
            answer = await self.say(self._turn(), known)
            known = answer["conversation_id"]
            tasks += [answer["task_id"]] if answer["task_id"] else []
        for task_id in tasks:
            await self._ended(task_id)

    async def asked_and_rated(self) -> None:
        """Questions with known answers, one of which is rated."""
        known = None
        for question in self.chance.sample(self.words.questions, 3):
            answer = await self.say(question.text, known)
            known = answer["conversation_id"]
        rating = await self._verdict(question, answer["reply"])
        await self.ux_agent.call_tool("rate_answer", {"conversation_id": known, "rating": rating})

    async def left_in_the_midst(self) -> None:
        """A conversation that is left while an answer is being written."""
        began = asyncio.Event()
        text = STORY.format(self.chance.choice(TOPICS))
        saying = asyncio.create_task(self.say(text, None, on_words=began.set))
        await asyncio.wait({saying, waiting := asyncio.create_task(began.wait())}, return_when=asyncio.FIRST_COMPLETED)
        saying.cancel()
        waiting.cancel()
        await asyncio.gather(saying, waiting, return_exceptions=True)

    async def say(
        self, message: str, known: str | None, *, on_words: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Say something in a conversation, or in a new one."""
        told = (lambda *_: on_words()) if on_words else None
        said = {"message": message, "conversation_id": known}
        return await self.ux_agent.call_tool("conversation", said, on_progress=told)

    async def task(self) -> None:
        """A task of the workload, with a check or, later, a rating."""
        request = self.words.request(self.number)
        expect = expectation_of(request) if self.chance.random() < CHECKED else None
        given = {"expect": expect, "max_output_tokens": self.chance.choice(STATED)}
        done = await self._done(request.text, priority=self.chance.choice((0, 0, 0, 5, -5)), **given)
        if expect is None and done["status"] == "completed" and self.chance.random() < RATED:
            rating = await self._verdict(request, done["result"] or "")
            await self.gateway.call_tool("record_feedback", {"task_id": done["id"], "rating": rating})

    async def several_tasks(self) -> None:
        """Some tasks at once, the last of which reads the results of the others."""
        count = self.chance.randint(3, 6)
        requests = [self.words.request(self.number * 7 + place) for place in range(count)]
        tasks: list[dict[str, Any]] = [{"text": each.text} for each in requests]
        earlier = [f"#{place + 1}" for place in range(count)]
        tasks.append({"text": GATHERED, "after": earlier, "with_results": True})
        receipts = await self.gateway.call_tool("submit_tasks", {"tasks": tasks})
        for receipt in receipts["tasks"]:
            await self._ended(receipt["id"])

    async def completion(self) -> None:
        """A program that knows nothing but OpenAI's API."""
        question = self.chance.choice(self.words.questions)
        stream = self.chance.random() < 1 / 2
        messages = [{"role": "user", "content": question.text}]
        body = {"model": "tale-ux", "messages": messages, "stream": stream, "max_tokens": self.chance.choice((60, 120))}
        async with self.http.post(f"{self.gateway.url}/v1/chat/completions", json=body) as response:
            await response.read()

    async def cancelled_while_writing(self) -> None:
        """A task that is cancelled when its model has begun to write."""
        text = ESSAY.format(self.chance.choice(TOPICS))
        task = await self.gateway.call_tool("submit_task", {"text": text})
        headers = {"Accept": "text/event-stream"}
        async with self.http.get(f"{self.gateway.url}/tasks/{task['id']}/events", headers=headers) as events:
            async for line in events.content:
                if b"is writing" in line:
                    break
        await self.gateway.call_tool("cancel_task", {"task_id": task["id"]})

    async def cancelled_while_waiting(self) -> None:
        """A task that is cancelled before its turn has come."""
        first = await self.gateway.call_tool("submit_task", {"text": self.words.request(self.number).text})
        second = await self.gateway.call_tool("submit_task", {"text": RIVERS, "after": [first["id"]]})
        await self.gateway.call_tool("cancel_task", {"task_id": second["id"]})
        await self._ended(first["id"])

    async def out_of_time(self) -> None:
        """A task whose attempts may take two seconds, and need more."""
        text = ESSAY.format(self.chance.choice(TOPICS))
        await self._done(text, timeout_s=2)

    async def never_right(self) -> None:
        """A task whose check no answer can pass."""
        await self._done(self.chance.choice(self.words.questions).text, expect=IMPOSSIBLE, max_output_tokens=60)

    async def cut_short(self) -> None:
        """A task whose answer is longer than its user lets it be."""
        await self._done(self.chance.choice(self.words.task), max_output_tokens=self.chance.choice(SMALL_CAP))

    def _turn(self) -> str:
        questions = [question.text for question in self.words.questions]
        (said,) = self.chance.choices([self.words.chat, questions, self.words.status, self.words.task], TURNS)
        return self.chance.choice(said)

    async def _done(self, text: str, **given: Any) -> dict[str, Any]:
        task = await self.gateway.call_tool("submit_task", {"text": text, **given})
        return await self._ended(task["id"])

    async def _ended(self, task_id: str) -> dict[str, Any]:
        return await self.gateway.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": int(PATIENCE_S)})

    async def _verdict(self, request: Request, answer: str) -> str:
        return "good" if await asyncio.to_thread(is_right, request.check, answer) else "bad"


def visits(person: Person) -> Mapping[Callable[[], Awaitable[None]], int]:
    """What people come for, and how often in a hundred times."""
    return {
        person.talk: 36,
        person.asked_and_rated: 16,
        person.completion: 20,
        person.task: 19,
        person.several_tasks: 1,
        person.left_in_the_midst: 2,
        person.cancelled_while_writing: 1,
        person.cancelled_while_waiting: 1,
        person.out_of_time: 1,
        person.never_right: 2,
        person.cut_short: 1,
    }


def own_words() -> set[str]:
    """What people say here that stands in no file of data/."""
    return {RIVERS, GATHERED, *(line.format(topic) for line in (ESSAY, STORY) for topic in TOPICS)}


async def visit(person: Person) -> str | None:
    """Let a person do what they came for; returns what the service refused, if it did."""
    try:
        await person.visit()
    except (TaleBaseException, aiohttp.ClientError) as error:
        return f"visit {person.number}: {error}"
    return None
