"""What does a whole task cost beyond the model's own time?"""

import asyncio
import sys
import time

from harness import Row, ServiceUnderTest, median, quantile, running_service, show, until_models_ready

CALLS = 50


async def measure(service: ServiceUnderTest) -> list[float]:
    async with service.client() as client:
        await until_models_ready(client, "ux")  # one model plays both roles
        overheads: list[float] = []
        for number in range(CALLS):
            start = time.perf_counter()
            task = await client.call_tool("submit_task", {"text": f"Say {number}"})
            done = await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 60})
            total_s = time.perf_counter() - start
            if done["status"] != "completed":
                raise SystemExit(f"A task ended as {done['status']}: {done['error']}")
            model_s = (done["timings"]["prefill_s"] or 0.0) + (done["timings"]["decode_s"] or 0.0)
            overheads.append((total_s - model_s) * 1000)
        return overheads


def main() -> int:
    """Real model, the smallest there is: its own figures say what of the time was the model's."""
    with running_service(ux_model="smollm2:135m", task_model="smollm2:135m", max_output_tokens=16) as service:
        overheads = asyncio.run(measure(service))
    return show(
        f"a whole task, submitted and waited for, beyond prefill and decode ({CALLS} tasks)",
        [Row("median", median(overheads), "ms", 50.0), Row("p95", quantile(overheads, 0.95), "ms")],
    )


if __name__ == "__main__":
    sys.exit(main())
