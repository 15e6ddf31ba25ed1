"""What does recording cost a model call, and how much of a call's time do the recorded parts leave unexplained?

python benchmarks/recording_cost.py [--calls 40000]

The same pool over the same played engine, which answers at once, once with a tracker that records durably (two rows'
worth of writes a call, WAL, synchronous=FULL) and once with one that records nothing; both take turns. The second
question is asked of engines that take their time and tell how long each part took: one that is played in this process,
one that is played in another and asked by OpenAI's API and by Ollama's, and a real embedded one, which is asked two
calls at a time, too: each begins after a step of the other.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import Row, free_ports, link_models, median, quantile, show
from peers.paced_engine import DECODE_S, MODEL, PREFILL_S, WORDS

from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.models.download import ModelFiles
from tale.models.embedded_backend import EmbeddedBackend
from tale.models.model_pool import ModelPool
from tale.models.ollama_backend import OllamaBackend
from tale.models.openai_backend import OpenAIBackend
from tale.records import CallContext, ChatRequest, Delta, EngineTimings, Message, ModelInfo, Priority, Reply, Usage
from tale.settings import load_settings
from tale.storage.call_store import CallStore
from tale.storage.database import Database

ROUNDS = 5
CONNECTIONS = (1, 32)
SLOTS = 64
ENGINE = Path(__file__).parent / "peers" / "paced_engine.py"
EMBEDDED = "smollm2:135m"
PLAYED_CALLS, REAL_CALLS = 160, 40
PLAYED_AT_ONCE, REAL_SLOTS = 4, 2
SILENCE_S = 60.0
OTHER_LIMIT_MS, OTHER_SHARE = 20.0, 0.02
COST_LIMIT_MS = 5.0  # p50 of one call alone: the wait for its commit
REQUEST = ChatRequest("", (Message("user", "Hi"),), max_tokens=50)
CONTEXT = CallContext("ux", "chat", Priority.CHAT)


class PlayedEngine:
    """A backend whose one model is always there; with `takes_time` it reads and writes at a pace, and tells it."""

    provider = "played"

    def __init__(self, *, takes_time: bool) -> None:
        self._takes_time = takes_time

    async def chat(self, request: ChatRequest) -> Any:
        began = time.perf_counter()
        if self._takes_time:
            await asyncio.sleep(PREFILL_S)
        read_at = time.perf_counter()
        for _ in range(WORDS):
            if self._takes_time:
                await asyncio.sleep(DECODE_S / WORDS)
            yield Delta("word ")
        timings = EngineTimings(prefill_s=read_at - began, decode_s=time.perf_counter() - read_at)
        yield Reply("word " * WORDS, request.model, "stop", Usage(10, WORDS, 4), timings)

    async def list_models(self) -> list[ModelInfo]:
        return [ModelInfo(MODEL, loaded=True)]

    async def load(self, model: str) -> float:
        return 0.0

    async def is_responsive(self, model: str) -> bool:
        return True

    async def close(self) -> None:
        pass


class NoTracker:
    """Records nothing."""

    def begin(self, context: CallContext, **given: Any) -> "NoCall":
        return NoCall()


class NoCall:
    """A call of which nothing is kept."""

    is_closed = False

    def check(self) -> None:
        pass

    def dispatched(self, model: str, **given: Any) -> None:
        pass

    def first_token(self) -> None:
        pass

    def reported(self, usage: Usage) -> None:
        pass

    async def admitted(self, request: ChatRequest, count: Any) -> ChatRequest:
        return request

    async def completed(self, reply: Reply) -> None:
        self.is_closed = True

    async def failed(self, error: BaseException) -> None:
        self.is_closed = True


async def pool_over(engine: Any, tracker: Any, model: str = MODEL) -> ModelPool:
    """A pool whose model is ready."""
    pool = ModelPool(
        engine,
        ux_model=model,
        task_model=model,
        tracker=tracker,
        memory_limit_bytes=10**12,
        routing="off",
        monitor_interval_s=3_600.0,
        provider_reason="It is a benchmark.",
        slots={"ux": SLOTS},
    )
    await pool.start()
    await pool.complete(REQUEST, CONTEXT)
    return pool


async def waits(pool: ModelPool, calls: int, connections: int) -> tuple[float, list[float]]:
    """The seconds that so many calls took in all, and each."""
    each: list[float] = []
    left = iter(range(calls))

    async def ask() -> None:
        for _ in left:
            began = time.perf_counter()
            await pool.complete(REQUEST, CONTEXT)
            each.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(connections)))
    return time.perf_counter() - began, each


async def measured(home: Path, calls: int) -> list[Row]:
    """All figures."""
    database = Database.open(f"sqlite:///{home}/tale.db")
    store = CallStore(database)
    engine = PlayedEngine(takes_time=False)
    pools = {"on": await pool_over(engine, recorded(store)), "off": await pool_over(engine, NoTracker())}
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for connections in CONNECTIONS:
            for name, pool in pools.items():
                count = max(calls // (SLOTS // connections) // ROUNDS, connections)
                took_s, each = await waits(pool, count, connections)
                found.setdefault((name, connections), []).append((count / took_s, median(each) * 1_000))
    rows: list[Row] = []
    for connections in CONNECTIONS:
        for name in pools:
            per_s = median([rate for rate, _ in found[name, connections]])
            rows.append(Row(f"calls/s, recording {name}, {connections} at a time", per_s, "/s"))
        on, off = (median([p50 for _, p50 in found[name, connections]]) for name in ("on", "off"))
        limit = COST_LIMIT_MS if connections == 1 else None
        rows.append(Row(f"recording adds to a call, p50, {connections} at a time", on - off, "ms", limit))
    rows += await unexplained(store, home)
    for pool in pools.values():
        await pool.close()
    await database.close()
    return rows


@contextmanager
def paced_engine() -> Iterator[str]:
    """The address of the engine that is played in another process."""
    port = free_ports(1)[0]
    with subprocess.Popen([sys.executable, str(ENGINE), str(port)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == b"ready"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def unexplained(store: CallStore, home: Path) -> list[Row]:
    """What the parts leave, of calls to engines that tell their own."""
    link_models(home)
    files = ModelFiles(home / "models", hub_url=load_settings({"home": str(home)}).hub_url)
    with paced_engine() as url:
        played: dict[str, Any] = {
            "an engine played here": PlayedEngine(takes_time=True),
            "one asked by OpenAI's API": OpenAIBackend(f"{url}/v1", timeout_s=SILENCE_S),
            "one asked by Ollama's API": OllamaBackend(url, timeout_s=SILENCE_S, context_tokens={}),
        }
        rows: list[Row] = []
        for name, each in played.items():
            pool = await pool_over(each, recorded(store))
            rows.append(await other_of(name, pool, store))
            await pool.close()
    slots = {EMBEDDED: REAL_SLOTS}
    embedded = EmbeddedBackend(files, log=home / "engine.log", timeout_s=SILENCE_S, slots=slots)
    pool = await pool_over(embedded, recorded(store), EMBEDDED)
    rows.append(await other_of("the embedded one", pool, store, count=REAL_CALLS, at_once=1))
    rows.append(await other_of("the same, two calls at a time", pool, store, count=REAL_CALLS, at_once=REAL_SLOTS))
    await pool.close()
    return rows


async def other_of(
    name: str, pool: ModelPool, store: CallStore, *, count: int = PLAYED_CALLS, at_once: int = PLAYED_AT_ONCE
) -> Row:
    """The 95th percentile of what no part explains, beside the larger of two limits."""
    await waits(pool, count, at_once)
    calls = await store.calls(limit=count)
    unexplained_s = [call.other_s for call in calls if call.other_s is not None]
    if len(unexplained_s) < count:
        raise SystemExit(f"Not all parts were told: {name}.")
    limit = max(OTHER_LIMIT_MS, OTHER_SHARE * median([call.total_s or 0.0 for call in calls]) * 1_000)
    p95 = quantile(unexplained_s, 0.95) * 1_000
    return Row(f"time no part of a call explains, p95, {name}", p95, "ms", limit)


def recorded(store: CallStore) -> TokenTracker:
    """A tracker that records durably."""
    return TokenTracker(Recorder(store))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--calls", type=int, default=40_000, help="about so many are made, most of them many at a time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
        rows = asyncio.run(measured(Path(folder), given.calls))
    return show("What recording costs", rows)


if __name__ == "__main__":
    sys.exit(main())
