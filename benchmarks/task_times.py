"""How long does a simple task take, how long is a long one silent, and what does it cost that models take turns?

The default pair of models, both loaded. The limits are those of the targets in tale/monitoring/targets.py.
"""

import argparse
import asyncio
import sys
import time
from itertools import pairwise

import aiohttp
import polars as pl
from harness import Row, ServiceUnderTest, median, quantile, running_service, show, until_learned, until_models_ready

from tale.analytics import open_history
from tale.mcp.http_client import HTTPMCPClient
from tale.monitoring.targets import limit_of

SIMPLE = (
    "What is the capital of Portugal?",
    "How many legs does a spider have?",
    "Translate good morning into French.",
    "What is the opposite of cold?",
    "Name the largest planet.",
)
LONG = "Write a long Python module that implements a bank with accounts, transfers, interest and tests."
LONG_TASKS = 3
LONG_TOKENS = 500
PATIENCE_S = 600
ANSWER_TOKENS = 8
MODELS = ("tale-ux", "tale-task")


async def carried_out(client: HTTPMCPClient, text: str, **options: object) -> list[float]:
    """When a task was handed in, when each word of its progress came, and when it had ended."""
    moments = [time.perf_counter()]

    def on_progress(_figure: float, _total: float | None, _message: str | None) -> None:
        moments.append(time.perf_counter())

    task = await client.call_tool("submit_task", {"text": text, **options})
    waiting = {"task_id": task["id"], "timeout_s": PATIENCE_S}
    done = await client.call_tool("wait_for_task", waiting, on_progress=on_progress)
    if done["status"] != "completed":
        raise SystemExit(f"A task stands as {done['status']}: {done['error']}")
    return [*moments, time.perf_counter()]


async def simple_tasks(client: HTTPMCPClient, count: int) -> list[float]:
    """Seconds from hand-in to result."""
    seconds: list[float] = []
    for number in range(count):
        moments = await carried_out(client, SIMPLE[number % len(SIMPLE)])
        seconds.append(moments[-1] - moments[0])
    return seconds


async def silences(client: HTTPMCPClient) -> list[float]:
    """Seconds between one word of a long task and the next, from its hand-in to its end."""
    seconds: list[float] = []
    for number in range(LONG_TASKS):
        moments = await carried_out(client, f"{LONG} Call it bank {number}.", max_output_tokens=LONG_TOKENS)
        seconds += [later - earlier for earlier, later in pairwise(moments)]
    return seconds


async def ask(service: ServiceUnderTest, model: str, text: str) -> None:
    """A short chat with that model."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": ANSWER_TOKENS}
    address = f"{service.url('gateway')}/v1/chat/completions"
    async with aiohttp.ClientSession() as http, http.post(address, json=body, raise_for_status=True) as response:
        await response.read()


async def switches(service: ServiceUnderTest, count: int) -> list[float]:
    """What calls took beyond the engine's reading and writing, each after one of the other model; seconds."""
    for turn in range(count + 1):
        await ask(service, MODELS[turn % len(MODELS)], f"Say {turn}.")
    with open_history(service.home / "tale.db") as history:
        calls = history.calls().filter(operation="chat").head(count + 1).reverse()
    switched = calls.filter(pl.col("model") != pl.col("model").shift())
    found = switched.select(pl.col("total_s") - pl.col("prefill_s") - pl.col("decode_s")).to_series().drop_nulls()
    if len(found) < count:
        raise SystemExit(f"Only {len(found)} of {count} calls followed one of the other model and were measured.")
    return found.to_list()


async def measure(service: ServiceUnderTest, count: int) -> list[Row]:
    async with service.client() as client:
        await until_models_ready(client, "ux")
        await until_learned(service)
        await ask(service, "tale-task", "Hello.")
        await until_models_ready(client, "task")
        simple = await simple_tasks(client, count)
        silent = await silences(client)
        beyond = await switches(service, count)
    return [
        Row("a simple task, from hand-in to result, median", median(simple), "s"),
        Row("the same, p95", quantile(simple, 0.95), "s", limit_of("simple_task")),
        Row(f"silence of a task of up to {LONG_TOKENS} tokens, p95", quantile(silent, 0.95), "s"),
        Row("the same, longest", max(silent), "s", limit_of("feedback")),
        Row("a call after one of the other model, beyond the engine's own time, median", median(beyond), "s"),
        Row("the same, p95", quantile(beyond, 0.95), "s", limit_of("model_switch")),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="simple tasks, and switches of the model")
    count = parser.parse_args().count
    with running_service() as service:
        return show(f"Tasks and models ({count} of each)", asyncio.run(measure(service, count)))


if __name__ == "__main__":
    sys.exit(main())
