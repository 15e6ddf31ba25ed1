"""How soon does a cancelled task stop, while it writes and while its long prompt is still being read?"""

import asyncio
import sys
import time

from harness import Row, ServiceUnderTest, median, quantile, running_service, show, until_models_ready

RUNS = 5
WRITING = "Write a long story about a lighthouse keeper."
READING = "Summarize this: " + " ".join(f"item {number} costs {number * 7} euros;" for number in range(330))


async def cancel(service: ServiceUnderTest, text: str, until: str) -> float:
    async with service.client() as client:
        task = await client.call_tool("submit_task", {"text": text, "max_output_tokens": 2000})
        reached = asyncio.Event()

        def on_progress(progress: float, total: float | None, message: str | None) -> None:
            if message and until in message:
                reached.set()

        waiting = asyncio.create_task(
            client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 600}, on_progress=on_progress)
        )
        await reached.wait()
        await asyncio.sleep(1.0)  # into the middle of it
        start = time.perf_counter()
        await client.call_tool("cancel_task", {"task_id": task["id"]})
        taken = time.perf_counter() - start
        ended = await waiting
        if ended["status"] != "cancelled":
            raise SystemExit(f"The task was {ended['status']} before: {ended['error'] or ended['result']}")
        return taken


async def engine_is_free(service: ServiceUnderTest) -> None:
    """The engine answers the next task, so that a cancelled one does not go on in secret."""
    async with service.client() as client:
        task = await client.call_tool("submit_task", {"text": "Say yes.", "max_output_tokens": 2})
        await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 60})


async def measure(service: ServiceUnderTest) -> tuple[list[float], list[float]]:
    async with service.client() as client:
        await until_models_ready(client, "ux")
    await engine_is_free(service)
    writing = [await cancel(service, WRITING, "is writing") for _ in range(RUNS)]
    reading = [await cancel(service, f"{number} {READING}", "is reading the task (") for number in range(RUNS)]
    return writing, reading


def main() -> int:
    with running_service(routing="off") as service:
        writing, reading = asyncio.run(measure(service))
    return show(
        f"cancel_task until the task has stopped ({RUNS} runs each)",
        [
            Row("while writing, median", median(writing), "s", 1.0),
            Row("while writing, worst", quantile(writing, 1.0), "s", 1.0),
            Row("while reading 3,000 tokens, median", median(reading), "s", 1.0),
            Row("while reading 3,000 tokens, worst", quantile(reading, 1.0), "s", 1.0),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
