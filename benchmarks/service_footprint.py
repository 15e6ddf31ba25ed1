"""What does the whole service take when it does nothing: memory without models, and CPU?"""

import asyncio
import sys
import time

import psutil
from harness import Row, ServiceUnderTest, running_service, show

IDLE_S = 30.0
LEARNED_WITHIN_S = 180.0  # a new home learns first what messages ask for


async def until_learned(service: ServiceUnderTest) -> None:
    """Return when the learning server has learned and answers."""
    async with service.client("ux_agent") as client, asyncio.timeout(LEARNED_WITHIN_S):
        while (await client.call_tool("task_detected", {"text": "Could you tell me a joke?"}))["source"] != "model":
            await asyncio.sleep(0.2)


def main() -> int:
    with running_service(
        backend="openai", openai_url="http://127.0.0.1:9/v1", ux_model="none", task_model="none"
    ) as service:
        asyncio.run(until_learned(service))
        time.sleep(5)
        own = psutil.Process(service.process.pid)
        learning = [child for child in own.children() if "tale.servers.learning_server" in child.cmdline()]
        processes = [own, *learning]
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        time.sleep(IDLE_S)
        used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
        resident = own.memory_info().rss / 1e6
        learned = sum(process.memory_info().rss for process in learning) / 1e6
    return show(
        f"the service at rest ({len(processes)} processes, {IDLE_S:g} s)",
        [
            Row("resident memory of the service", resident, "MB", 180.0),
            Row("resident memory of the learning server", learned, "MB", 400.0),
            Row("CPU of both", 100 * used / IDLE_S, "%", 0.5),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
