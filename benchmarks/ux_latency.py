"""How soon does a conversation answer, alone and while the task model generates all the time?"""

import argparse
import asyncio
import sys
import time
from typing import Any

from harness import Row, ServiceUnderTest, median, quantile, running_service, show, until_learned, until_models_ready

from tale.mcp.http_client import HTTPMCPClient

WORK = "Write a long Python module that implements a bank with accounts, transfers, interest and tests."
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
EARLIEST = 3  # seconds after the task began: its prompt has been read, the model writes


class Conversation:
    """One conversation, and when its first words came."""

    def __init__(self, client: HTTPMCPClient) -> None:
        self.client = client
        self.id: str | None = None

    async def say(self, words: str) -> tuple[float, float, dict[str, Any]]:
        """Seconds until the model's first word (of canned answers: the whole), the whole, and the answer."""
        start, first = time.perf_counter(), 0.0

        def on_progress(_figure: float, _total: float | None, _message: str | None) -> None:
            nonlocal first
            first = first or time.perf_counter() - start

        given = {"message": words, "conversation_id": self.id}
        answer = await self.client.call_tool("conversation", given, on_progress=on_progress)
        self.id = answer["conversation_id"]
        whole = time.perf_counter() - start
        return first or whole, whole, answer

    async def chat(self, words: str) -> float:
        """Seconds until the model's own first word."""
        first, _, answer = await self.say(words)
        if answer["kind"] != "chat" or answer["model"] is None:
            raise SystemExit(f"{words!r} was taken for {answer['label']}, and no model was asked.")
        return first


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


async def measure(service: ServiceUnderTest, turns: int) -> list[Row]:
    async with service.client() as gateway, service.client("ux_agent") as client:
        await until_models_ready(gateway, "ux")
        await until_learned(service)
        alone = await chatted(client, max(turns // 3, len(QUESTIONS)))
        work = [
            {"text": f"{WORK} Call it bank {n}.", "max_output_tokens": 8_000, "timeout_s": 3_600} for n in range(TASKS)
        ]
        tasks = (await gateway.call_tool("submit_tasks", {"tasks": work}))["tasks"]
        while (await gateway.call_tool("get_task_status", {"task_id": tasks[0]["id"]}))["status"] != "running":
            await asyncio.sleep(0.1)
        await until_models_ready(gateway, "task")
        await asyncio.sleep(EARLIEST)
        busy = await chatted(client, turns)
        status = await canned(client, "How are my tasks doing?", "status", turns)
        control = await canned(client, "resume", "control", turns)
        sizes = [(words, await of_size(client, words, 3)) for words in SIZES]
        state = await gateway.call_tool("get_task_status", {"task_id": tasks[-1]["id"]})
        if state["status"] != "queued":
            raise SystemExit(f"The tasks may have ended before the measurement did: the last is {state['status']}.")
    return [
        Row("first word, nothing else runs, p50", median(alone), "s"),
        Row("first word, nothing else runs, p95", quantile(alone, 0.95), "s", 0.4),
        Row("first word, task model generating, p50", median(busy), "s", 0.4),
        Row("first word, task model generating, p95", quantile(busy, 0.95), "s", 1.0),
        Row("first word, task model generating, worst", max(busy), "s", 1.5),
        *(Row(f"the same for a message of {words} words, p50", seconds, "s") for words, seconds in sizes),
        Row("answer about tasks, task model generating, p95", 1_000 * quantile(status, 0.95), "ms", 50),
        Row("answer to an order, task model generating, p95", 1_000 * quantile(control, 0.95), "ms", 50),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=60, help="turns under load")
    turns = parser.parse_args().turns
    with running_service() as service:
        return show(f"A conversation ({turns} turns under load)", asyncio.run(measure(service, turns)))


if __name__ == "__main__":
    sys.exit(main())
