"""What does the choice by load bring where one of two engines is three times as fast, and what does a choice cost?"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle

from aiohttp import web
from harness import Row, quantile, show

from tale.models.engine import Engine, least_expected_delay
from tale.models.openai_backend import OpenAIBackend
from tale.models.priority_slots import PrioritySlots
from tale.records import ChatRequest, Message, Priority

MODEL = "m"
TOKENS = 8
SLOW_TOKEN_S, FAST_TOKEN_S = 0.012, 0.004  # the two together end 160 calls a second in 4 slots each
SLOTS = 4
CALLS = 400
RATES = {60.0: 0.8, 100.0: 0.5}  # calls a second that arrive at random, and the limit; the slow engine ends 40 alone
CHOICES = 20_000
REQUEST = ChatRequest(MODEL, (Message("user", "Go on."),))

Policy = Callable[[Sequence[Engine]], Callable[[], Awaitable[None]]]


@asynccontextmanager
async def played_engine(token_s: float) -> AsyncIterator[OpenAIBackend]:
    """A server that writes a token in so many seconds, whatever else it does."""

    async def chat(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(TOKENS):
            await asyncio.sleep(token_s)
            reason = "stop" if number == TOKENS - 1 else None
            chunk = {"choices": [{"delta": {"content": "x"}, "finish_reason": reason}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        return response

    application = web.Application()
    application.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    backend = OpenAIBackend(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", timeout_s=60.0)
    try:
        yield backend
    finally:
        await backend.close()
        await runner.cleanup()


def by_load(engines: Sequence[Engine]) -> Callable[[], Awaitable[None]]:
    """Our own choice: one queue, and the engine that should be done first."""
    slots = PrioritySlots(engines, MODEL, SLOTS)

    async def call() -> None:
        async with slots.held(Priority.TASK) as engine:
            async for _ in engine.chat(REQUEST):
                pass

    return call


def in_turn(engines: Sequence[Engine]) -> Callable[[], Awaitable[None]]:
    """Round robin: each call goes to the next engine as it arrives, and waits there for a slot."""
    turns = cycle([(engine, asyncio.Semaphore(SLOTS)) for engine in engines])

    async def call() -> None:
        engine, slots = next(turns)
        async with slots:
            async for _ in engine.chat(REQUEST):
                pass

    return call


async def played(policy: Policy, waits_s: Sequence[float]) -> tuple[float, list[float]]:
    """Seconds for all calls, of which each arrives so long after the one before, and the seconds of each."""
    async with AsyncExitStack() as stack:
        speeds = (SLOW_TOKEN_S, FAST_TOKEN_S)
        backends = [await stack.enter_async_context(played_engine(token_s)) for token_s in speeds]
        call, taken = policy([Engine(backend.url, backend) for backend in backends]), list[float]()

        async def timed() -> None:
            began = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - began)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for wait_s in waits_s:
                if wait_s:
                    await asyncio.sleep(wait_s)
                group.create_task(timed())
        return time.perf_counter() - began, taken


async def choice_us(count: int) -> float:
    """Microseconds of a choice between so many busy engines."""
    engines = [Engine(str(number), OpenAIBackend("http://127.0.0.1:9/v1", timeout_s=1.0)) for number in range(count)]
    for number, engine in enumerate(engines):
        for _ in range(number + 1):
            engine.take(MODEL)
    began = time.perf_counter()
    for _ in range(CHOICES):
        least_expected_delay(engines, time.monotonic())
    return (time.perf_counter() - began) / CHOICES * 1e6


async def slot_us(count: int) -> float:
    """Microseconds of a slot that is taken and given back, the choice included."""
    engines = [Engine(str(number), OpenAIBackend("http://127.0.0.1:9/v1", timeout_s=1.0)) for number in range(count)]
    slots = PrioritySlots(engines, MODEL, SLOTS)
    began = time.perf_counter()
    for _ in range(CHOICES):
        async with slots.held(Priority.TASK):
            pass
    return (time.perf_counter() - began) / CHOICES * 1e6


async def at_rate(calls_per_s: float, limit: float) -> list[Row]:
    """Calls that arrive at random, at the same moments for both ways."""
    generator = random.Random(7)
    waits_s = [generator.expovariate(calls_per_s) for _ in range(CALLS)]
    _, turn_s = await played(in_turn, waits_s)
    _, load_s = await played(by_load, waits_s)
    turn_p95_s, load_p95_s = quantile(turn_s, 0.95), quantile(load_s, 0.95)
    return [
        Row(f"{calls_per_s:g} calls/s: p95, round robin", turn_p95_s * 1000, "ms"),
        Row(f"{calls_per_s:g} calls/s: p95, by load", load_p95_s * 1000, "ms"),
        Row(f"{calls_per_s:g} calls/s: p95, by load / round robin", load_p95_s / turn_p95_s, "", limit),
    ]


async def measure() -> list[Row]:
    turn_s, _ = await played(in_turn, [0.0] * CALLS)
    load_s, _ = await played(by_load, [0.0] * CALLS)
    return [
        Row("all at once, round robin", CALLS / turn_s, "calls/s"),
        Row("all at once, by load", CALLS / load_s, "calls/s"),
        Row("all at once: time, by load / round robin", load_s / turn_s, "", 0.75),
        *[row for rate, limit in RATES.items() for row in await at_rate(rate, limit)],
        Row("a choice between 2 engines", await choice_us(2), "us", 20.0),
        Row("a choice between 8 engines", await choice_us(8), "us", 50.0),
        Row("a slot taken and given back, 2 engines", await slot_us(2), "us", 100.0),
    ]


def main() -> int:
    """Two played engines, one of them three times as fast; both ways in the same run."""
    return show(f"{CALLS} calls on a slow and a fast engine", asyncio.run(measure()))


if __name__ == "__main__":
    sys.exit(main())
