"""A process that records calls as fast as it may, and prints the id of each whose record it was told is durable.

`python tests/fakes/recording_process.py URL CALLS_A_SECOND` runs until it is killed.
"""

import asyncio
import os
import sys
import time

from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.records import CallContext, EngineTimings, Reply, Usage
from tale.storage.call_store import CallStore
from tale.storage.database import Database

TURN_S = 0.01
REPLY = Reply("Hello", "small", "stop", Usage(10, 5, 4, 1), EngineTimings(prefill_s=0.0, decode_s=0.0))


async def record(tracker: TokenTracker, number: int) -> None:
    context = CallContext("ux", "chat", task_id=str(number))
    call = tracker.begin(context, model="small", provider="played", budget_tokens=None)
    call.dispatched("small", load_s=0.0, queue_s=0.0, route_reason=None)
    call.first_token()
    await call.completed(REPLY)
    os.write(1, f"{number}\n".encode())  # at once: a buffer would die with the process


async def main(url: str, calls_per_s: float) -> None:
    tracker = TokenTracker(Recorder(CallStore(Database.open(url))))
    began, count = time.perf_counter(), 0
    async with asyncio.TaskGroup() as group:
        while True:
            due = int((time.perf_counter() - began) * calls_per_s)
            for number in range(count, due):
                group.create_task(record(tracker, number))
            count = max(count, due)
            await asyncio.sleep(TURN_S)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
