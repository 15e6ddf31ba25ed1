"""How long does the gateway take to acknowledge a task that is then durable, with the settings as they are?"""

import asyncio
import sys
import time

from harness import Row, ServiceUnderTest, median, quantile, running_service, show

WARM_UP, CALLS = 20, 300


async def measure(service: ServiceUnderTest) -> list[float]:
    async with service.client() as client:
        taken: list[float] = []
        for number in range(WARM_UP + CALLS):
            start = time.perf_counter()
            await client.call_tool("submit_task", {"text": f"Write a haiku about the number {number}"})
            if number >= WARM_UP:
                taken.append((time.perf_counter() - start) * 1000)
        return taken


def main() -> int:
    # The execution role is not there: nothing but the acknowledgement runs.
    with running_service(
        roles="gateway", backend="openai", openai_url="http://127.0.0.1:9/v1", ux_model="none", task_model="none"
    ) as service:
        taken = asyncio.run(measure(service))
    return show(
        f"submit_task, durable on return ({CALLS} calls, one connection)",
        [Row("median", median(taken), "ms", 2.5), Row("p99", quantile(taken, 0.99), "ms")],
    )


if __name__ == "__main__":
    sys.exit(main())
