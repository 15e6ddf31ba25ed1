"""What do budgets cost a model call: where there are none, with one, and with three that cover it?

    python benchmarks/budget_cost.py [--rounds 7] [--calls 1000]

A call is opened, admitted and completed as the pool does it, with an engine that takes no time; the rows are on SQLite
with synchronous=FULL. The ways take turns within a round, and each figure is the median of the rounds.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import Row, show

from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.records import CallContext, ChatRequest, Message, Reply, Usage
from tale.storage.budget_store import BudgetStore, new_budget_id
from tale.storage.budgets import parsed_budget
from tale.storage.call_store import CallStore
from tale.storage.database import Database

AT_ONCE = 32
ALONE_CALLS = 200  # of a round in which each call waits for the one before
WITHOUT_LIMIT = 1.15  # times the wait and the time of calls that know nothing of budgets
WITH_LIMIT_MS = 2.0  # more for a call alone under a hard budget, at most
CONTEXT = CallContext("task", "execute", key_name="ci")
REQUEST = ChatRequest("m", (Message("user", "Write a haiku about rain"),), max_tokens=100)
REPLY = Reply("", "m", "stop", Usage(20, 30, 0, 0))
WAYS = {
    "without any budgets in the code": None,
    "with none set": (),
    "with one that is hard": ("all",),
    "with three that are hard": ("all", "model", "key"),
}


async def called(tracker: TokenTracker) -> float:
    """One call; returns how long it took, in ms."""
    began = time.perf_counter()
    call = tracker.begin(CONTEXT, model="m", provider="p", budget_tokens=100, input_tokens=60)
    await call.admitted(REQUEST, None)
    call.dispatched("m", load_s=0.0, queue_s=0.0, route_reason=None)
    await call.completed(REPLY)
    return (time.perf_counter() - began) * 1_000


async def unpaused(_: float) -> None:
    """There is one process alone: nothing has to settle."""


async def measured(folder: Path, scopes: Sequence[str] | None, calls: int) -> tuple[float, float]:
    """The p50 of a call alone in ms, and calls a second with many at once."""
    database = await asyncio.to_thread(Database.open, f"sqlite:///{folder}/tale.db")
    budgets = BudgetStore(database, pause=unpaused)
    for scope in scopes or ():
        name = {"all": "", "model": "m", "key": "ci"}[scope]
        await budgets.set(parsed_budget(new_budget_id(), 10**12, scope=scope, name=name, now=time.time()))
    store = CallStore(database) if scopes is None else CallStore(database, budgets)
    tracker = TokenTracker(Recorder(store))
    await called(tracker)
    alone = statistics.median([await called(tracker) for _ in range(ALONE_CALLS)])

    async def in_turn() -> None:
        for _ in range(calls // AT_ONCE):
            await called(tracker)

    began = time.perf_counter()
    await asyncio.gather(*(in_turn() for _ in range(AT_ONCE)))
    rate = calls // AT_ONCE * AT_ONCE / (time.perf_counter() - began)
    await database.close()
    return alone, rate


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1_000)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(given.rounds):
        for way, scopes in list(WAYS.items())[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                found[way].append(asyncio.run(measured(Path(folder), scopes, given.calls)))
    medians = {way: tuple(map(statistics.median, zip(*figures, strict=True))) for way, figures in found.items()}
    (plain_ms, plain_rate), (none_ms, none_rate), (one_ms, _), _ = medians.values()
    rows = [Row(f"a call alone, {way}", alone, "ms") for way, (alone, _) in medians.items()]
    rows += [Row(f"{AT_ONCE} at once, {way}", rate, "calls/s") for way, (_, rate) in medians.items()]
    rows.append(Row("a call alone: none set, beside the code without", none_ms / plain_ms, "x", WITHOUT_LIMIT))
    rows.append(Row("at once: none set, beside the code without", plain_rate / none_rate, "x the time", WITHOUT_LIMIT))
    rows.append(Row("a call alone: what a hard budget adds", one_ms - plain_ms, "ms", WITH_LIMIT_MS))
    return show("What budgets cost a call", rows)


if __name__ == "__main__":
    sys.exit(main())
