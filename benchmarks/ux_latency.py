"""How soon does a conversation answer and obey, alone and while the task model generates all the time?"""

import argparse
import asyncio
import sqlite3
import sys
import time
from collections.abc import Awaitable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from harness import Row, ServiceUnderTest, median, quantile, running_service, show, until_learned, until_models_ready

from tale.mcp.http_client import HTTPMCPClient

WORK = "Write a long Python module that implements a bank with accounts, transfers, interest and tests."
OTHER_WORK = "Write a long story about a lighthouse keeper."
QUESTIONS = (
    "Hello there! How are you today?",
    "What is the capital of Portugal?",
    "Is a whale a fish or a mammal?",
    "What does HTTP stand for?",
    "Which is larger, the sun or the moon?",
    "Who wrote the play Hamlet?",
    "How many legs does a spider have?",
    "What is the opposite of cold?",
    "Do you prefer tea or coffee?",
    "Thanks, that was nice of you.",
)
TASKS = 20  # one after the other, so that a model writes all the time
SIZES = (100, 300, 1_000)  # words of the longer turns
AT_WORK = 0.95  # of the turns under load at least a call of the task model is under way
ORDERS = 5  # times that each order is given
FOLLOWED_S = 9  # so long a task is followed in its conversation
SOONEST_S = 1.9  # there it is told of at most every two seconds; messages take a little more time or less
PATIENCE_S = 30.0  # with an order
LOOK_INTERVAL_S = 0.02
RECORDED_S = 2.0  # by then the call of a cancelled task is recorded


@dataclass(frozen=True)
class Call:
    """One recorded call of a model; times are Unix seconds."""

    model: str
    started_at: float
    ended_at: float | None
    output_tokens: int | None


class Conversation:
    """One conversation, and when its first words came."""

    def __init__(self, client: HTTPMCPClient) -> None:
        self.client = client
        self.id: str | None = None
        self.position = -1  # of the last message

    async def say(self, words: str) -> tuple[float, float, dict[str, Any]]:
        """Seconds until the model's first word (of canned answers: the whole), the whole, and the answer."""
        start, first = time.perf_counter(), 0.0

        def on_progress(_figure: float, _total: float | None, _message: str | None) -> None:
            nonlocal first
            first = first or time.perf_counter() - start

        given = {"message": words, "conversation_id": self.id}
        answer = await self.client.call_tool("conversation", given, on_progress=on_progress)
        self.id, self.position = answer["conversation_id"], answer["position"]
        whole = time.perf_counter() - start
        return first or whole, whole, answer

    async def chat(self, words: str) -> float:
        """Seconds until the model's own first word."""
        first, _, answer = await self.say(words)
        if answer["kind"] != "chat" or answer["model"] is None:
            raise SystemExit(f"{words!r} was taken for {answer['label']}, and no model was asked.")
        return first

    async def hand_in(self, words: str) -> str:
        """The id of the task that becomes of these words."""
        _, _, answer = await self.say(words)
        if answer["task_id"] is None:
            raise SystemExit(f"{words!r} was taken for {answer['label']}, and no task became of it.")
        return answer["task_id"]

    async def order(self, words: str, carried_out: Awaitable[None]) -> float:
        """Seconds until an order has been answered and carried out."""
        start = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(self.say(words), carried_out)
        except TimeoutError:
            raise SystemExit(f"{words!r} was not carried out within {PATIENCE_S:g} s.") from None
        return time.perf_counter() - start

    async def follow(self) -> list[float]:
        """When a wait for what is told of its tasks began, when something was told, and when the wait ended."""
        times = [time.perf_counter()]
        given = {"conversation_id": self.id, "after": self.position, "timeout_s": FOLLOWED_S}

        def on_progress(_figure: float, _total: float | None, _message: str | None) -> None:
            times.append(time.perf_counter())

        await self.client.call_tool("follow_conversation", given, on_progress=on_progress)
        return [*times, time.perf_counter()]


class Watch:
    """Waits for the end of a task, and notes when it was told that it is being written."""

    def __init__(self, gateway: HTTPMCPClient, task_id: str) -> None:
        self.times: list[float] = []
        self.writes = asyncio.Event()
        given = {"task_id": task_id, "timeout_s": 3_600}
        self._end = asyncio.create_task(gateway.call_tool("wait_for_task", given, on_progress=self._told))

    async def ended(self) -> str:
        """How the task ended."""
        return (await self._end)["status"]

    async def cancelled(self) -> None:
        """Return when the task stands cancelled."""
        if (status := await self.ended()) != "cancelled":
            raise SystemExit(f"A task that was to be cancelled is {status}.")

    def _told(self, _figure: float, _total: float | None, words: str | None) -> None:
        if words and "is writing" in words:
            self.times.append(time.perf_counter())
            self.writes.set()


def gaps(times: Sequence[float]) -> list[float]:
    """Seconds from each time to the next."""
    return [later - sooner for sooner, later in pairwise(times)]


async def chatted(client: HTTPMCPClient, turns: int) -> list[float]:
    """First words of so many turns; a new conversation begins every ten."""
    seconds: list[float] = []
    for turn in range(turns):
        if turn % len(QUESTIONS) == 0:
            conversation = Conversation(client)
        seconds.append(await conversation.chat(QUESTIONS[turn % len(QUESTIONS)]))
    return seconds


async def of_size(client: HTTPMCPClient, words: int, turns: int) -> float:
    """Median seconds until the first word about a message of so many words."""
    seconds: list[float] = []
    for turn in range(turns):
        days = " ".join(f"On day {day} of trip {turn} we saw the sea." for day in range(words // 9))
        story = f"Just telling you about our holiday: {days} Isn't that a nice life?"
        seconds.append(await Conversation(client).chat(story))
    return median(seconds)


async def canned(client: HTTPMCPClient, words: str, kind: str, turns: int) -> list[float]:
    """Whole answers that come from what is known."""
    conversation, seconds = Conversation(client), []
    for _ in range(turns):
        _, whole, answer = await conversation.say(words)
        if answer["kind"] != kind:
            raise SystemExit(f"{words!r} was taken for {answer['label']}, not {kind}.")
        seconds.append(whole)
    return seconds


async def loaded(gateway: HTTPMCPClient) -> list[str]:
    """Hand in tasks that keep the task model writing; returns their ids."""
    work = [{"text": f"{WORK} Call it bank {n}.", "max_output_tokens": 8_000, "timeout_s": 3_600} for n in range(TASKS)]
    return [task["id"] for task in (await gateway.call_tool("submit_tasks", {"tasks": work}))["tasks"]]


async def unload(gateway: HTTPMCPClient, task_ids: Sequence[str]) -> None:
    """Cancel what is left of these tasks, the last first; fails when they ended before."""
    for task_id in reversed(task_ids):
        status = (await gateway.call_tool("get_task_status", {"task_id": task_id}))["status"]
        if task_id == task_ids[-1] and status != "queued":
            raise SystemExit(f"The tasks may have ended before the measurement did: the last is {status}.")
        if status in ("queued", "running"):
            await gateway.call_tool("cancel_task", {"task_id": task_id})


async def under_load(service: ServiceUnderTest, turns: int) -> list[Row]:
    """The figures while the task model generates."""
    async with service.client() as gateway, service.client("ux_agent") as client:
        tasks = await loaded(gateway)
        watch = Watch(gateway, tasks[0])
        await watch.writes.wait()
        began = time.time()
        busy = await chatted(client, turns)
        status = await canned(client, "How are my tasks doing?", "status", turns)
        control = await canned(client, "resume", "control", turns)
        sizes = [(words, await of_size(client, words, 3)) for words in SIZES]
        ended = time.time()
        await unload(gateway, tasks)
        await watch.ended()
        (wanted,) = [model["name"] for model in (await gateway.health())["models"] if model["role"] == "task"]
    print(who_worked(await calls_of_tasks(service), wanted, began, ended))
    return [
        Row("first word, task model generating, p50", median(busy), "s", 0.4),
        Row("first word, task model generating, p95", quantile(busy, 0.95), "s", 1.0),
        Row("first word, task model generating, worst", max(busy), "s", 1.5),
        *(Row(f"the same for a message of {words} words, p50", seconds, "s") for words, seconds in sizes),
        Row("answer about tasks, task model generating, p95", 1_000 * quantile(status, 0.95), "ms", 50),
        Row("answer to an order, task model generating, p95", 1_000 * quantile(control, 0.95), "ms", 50),
        Row("between words about a task that is written, longest", max(gaps(watch.times)), "s", 2.0),
    ]


async def calls_of_tasks(service: ServiceUnderTest) -> list[Call]:
    """The recorded calls of models for tasks."""
    await asyncio.sleep(RECORDED_S)
    with closing(sqlite3.connect(f"file:{service.home / 'tale.db'}?mode=ro", uri=True)) as database:
        query = "SELECT model, started_at, ended_at, output_tokens FROM model_calls WHERE operation = 'execute'"
        return [Call(*row) for row in database.execute(query)]


def who_worked(calls: Sequence[Call], model: str, began: float, ended: float) -> str:
    """Which model did the tasks; fails unless it was this one alone, nearly all the time in between."""
    if (models := {call.model for call in calls}) != {model}:
        raise SystemExit(f"The tasks were done by {', '.join(sorted(models)) or 'nobody'}, not by {model} alone.")
    worked = sum(max(0.0, min(call.ended_at or ended, ended) - max(call.started_at, began)) for call in calls)
    share = worked / (ended - began)
    if share < AT_WORK:
        raise SystemExit(f"{model} was at work on tasks for only {share:.0%} of the time.")
    tokens = sum(call.output_tokens or 0 for call in calls)
    return f"The tasks: {model}, {len(calls)} calls, {tokens:,} tokens, at work for {share:.0%} of the time"


async def orders(service: ServiceUnderTest) -> list[Row]:
    """How soon words are obeyed while the task model writes, and how often is told that it does."""
    seconds: dict[str, list[float]] = {"stop": [], "cancel the second one": [], "pause": []}
    longest: list[float] = []
    soonest: list[float] = []
    async with service.client() as gateway, service.client("ux_agent") as client:
        for run in range(ORDERS):
            talk = Conversation(client)
            first = Watch(gateway, await talk.hand_in(f"{WORK} Call it branch {run}."))
            second = Watch(gateway, await talk.hand_in(OTHER_WORK))
            await first.writes.wait()
            times = await talk.follow()
            longest.append(max(gaps(times)))
            soonest += gaps(times[1:-1])
            carried_out = {
                "cancel the second one": second.cancelled,
                "pause": lambda: paused(gateway),
                "stop": first.cancelled,
            }
            for words, is_so in carried_out.items():
                seconds[words].append(await talk.order(words, is_so()))
            await talk.say("resume")
    if soonest and min(soonest) < SOONEST_S:
        raise SystemExit(f"A task was told of again after {min(soonest):.2f} s.")
    return [
        Row("the same in its conversation, at most every two seconds, longest", max(longest), "s", 2.5),
        Row("“stop” until the task that is written stands cancelled, worst", max(seconds["stop"]), "s", 1.0),
        Row("“cancel the second one” until it stands so, worst", max(seconds["cancel the second one"]), "s", 1.0),
        Row("“pause” until the queue is paused, worst", max(seconds["pause"]), "s", 1.0),
    ]


async def paused(gateway: HTTPMCPClient) -> None:
    """Return when the queue is paused."""
    while (await gateway.call_tool("get_server_info"))["queue_paused_at"] is None:
        await asyncio.sleep(LOOK_INTERVAL_S)


async def measure(service: ServiceUnderTest, turns: int) -> list[Row]:
    """The figures with nothing else at work, then those under load, then those of orders."""
    async with service.client() as gateway, service.client("ux_agent") as client:
        await until_models_ready(gateway, "ux")
        await until_learned(service)
        alone = await chatted(client, max(turns // 3, len(QUESTIONS)))
    return [
        Row("first word, nothing else runs, p50", median(alone), "s"),
        Row("first word, nothing else runs, p95", quantile(alone, 0.95), "s", 0.4),
        *await under_load(service, turns),
        *await orders(service),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=60, help="turns under load")
    turns = parser.parse_args().turns
    with running_service(routing="off") as service:  # else the small model may be given tasks
        return show(f"A conversation ({turns} turns under load)", asyncio.run(measure(service, turns)))


if __name__ == "__main__":
    sys.exit(main())
