"""Does the small model answer at once while the larger one works?"""

import asyncio
import sys
import time

from harness import Row, ServiceUnderTest, median, quantile, running_service, show, until_models_ready

TURNS = 10
WORK = "Write a long Python module that implements a bank with accounts, transfers, interest and tests."


async def first_token(service: ServiceUnderTest, words: str) -> float:
    start, first = time.perf_counter(), None

    def on_progress(progress: float, total: float | None, message: str | None) -> None:
        nonlocal first
        first = first or time.perf_counter() - start

    async with service.client("ux_agent") as client:
        await client.call_tool("conversation", {"message": words}, on_progress=on_progress)
    return first or time.perf_counter() - start


async def measure(service: ServiceUnderTest) -> tuple[list[float], list[float]]:
    async with service.client() as client:
        await until_models_ready(client, "ux")
        alone = [await first_token(service, f"Hello, what is {n} plus {n}?") for n in range(TURNS)]
        task = await client.call_tool("submit_task", {"text": WORK, "max_output_tokens": 4000, "timeout_s": 900})
        while (await client.call_tool("get_task_status", {"task_id": task["id"]}))["status"] != "running":
            await asyncio.sleep(0.1)
        await until_models_ready(client, "task")
        await asyncio.sleep(3)  # past the prompt: the larger model is generating now
        busy = [await first_token(service, f"Hello, what is {n} times {n}?") for n in range(TURNS)]
        state = await client.call_tool("cancel_task", {"task_id": task["id"]})
        if state["status"] != "cancelled":
            raise SystemExit(f"The task ended before the measurement did: {state['status']}")
    return alone, busy


def main() -> int:
    with running_service() as service:
        alone, busy = asyncio.run(measure(service))
    return show(
        f"UX first words ({TURNS} conversations)",
        [
            Row("nothing else runs, median", median(alone), "s", 1.0),
            Row("task model generating, median", median(busy), "s", 1.0),
            Row("task model generating, worst", quantile(busy, 1.0), "s"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
