"""Does the service stay as it was, under hostile requests and under clients that come and go for long?

python benchmarks/mcp_soak.py                      50,000 hostile requests, then one minute of coming and going
python benchmarks/mcp_soak.py --minutes 10         ten minutes of it
python benchmarks/mcp_soak.py --requests 2000 --minutes 0.2

The whole service runs in a process of its own; its engine is played here, so that tasks end at once.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
from harness import Row, ServiceUnderTest, running_service, show

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # the played engine and the corpus are the tests' own

from fakes.engine_script import EngineScript
from fakes.hostile import HANDSHAKE, connections, corpus, cut_short, encoded, mutated
from fakes.mcp_workshop import BOTH, initialize, modern_request, request
from fakes.ollama_server import served
from fakes.openai_server import OpenAIServer

from tale.exceptions import TaleBaseException
from tale.mcp.http_client import HTTPMCPClient

CONNECTIONS = 32
RAW_CONNECTIONS = 4
SESSION_IDLE_S = 5.0
WARM_UP_S = 3.0
ANSWER_LIMIT_S = 20.0
QUIET_LIMIT_S = 120.0
GROWTH_LIMIT_MB = 16.0  # the page caches of the database's five connections take 2 MB each as the file grows
SETTLED_S = 30.0  # in a shorter run all of it is warming up
SEED = 7


@dataclass
class Tally:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    tasks: set[str] = field(default_factory=set)
    resident_mb: list[float] = field(default_factory=list)

    def count(self, first: str) -> int:
        return sum(number for status, number in self.statuses.items() if status.startswith(first))

    def growth_mb(self) -> float:
        """Between the second tenth of the time and the last."""
        tenth = max(1, len(self.resident_mb) // 10)
        settled = self.resident_mb[tenth : 2 * tenth] or self.resident_mb
        return statistics.median(self.resident_mb[-tenth:]) - statistics.median(settled)


@dataclass(frozen=True)
class Bench:
    service: ServiceUnderTest
    http: aiohttp.ClientSession
    drawn: random.Random

    @property
    def url(self) -> str:
        return self.service.url("gateway")

    async def post(self, tally: Tally, body: bytes, headers: dict[str, str]) -> tuple[dict[str, str], str]:
        """Post to /mcp and note the status; returns headers and text of the answer."""
        sent = {"Content-Type": "application/json", "Accept": BOTH, **headers}
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                async with self.http.post(f"{self.url}/mcp", data=body, headers=sent) as response:
                    text = await response.text(errors="replace")
        except TimeoutError:
            tally.statuses["no answer"] += 1
        except aiohttp.ClientError as error:
            tally.statuses[f"broken off: {type(error).__name__}"] += 1
        else:
            tally.statuses[str(response.status)] += 1
            return dict(response.headers), text
        return {}, ""


def hostile_requests(drawn: random.Random) -> Iterator[tuple[bytes, dict[str, str]]]:
    """The corpus over and over, with something random in between."""
    written_down = corpus()
    call = {"name": "submit_task", "arguments": {"text": "x", "priority": 1}, "_meta": {"progressToken": 1}}
    modern, headers = modern_request("tools/call", call)
    while True:
        for hostile in written_down:
            yield hostile.body, hostile.headers
            if drawn.random() < 0.5:
                yield encoded(mutated(drawn, modern)), headers
            else:
                yield encoded(mutated(drawn, initialize())), {}


async def attack(bench: Bench, tally: Tally, count: int) -> None:
    """Send so many hostile requests over all connections, and bare bytes beside them."""
    stream = hostile_requests(bench.drawn)
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await bench.post(tally, *next(stream))

    raw = [asyncio.create_task(raw_attack(bench, tally)) for _ in range(RAW_CONNECTIONS)]
    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    for task in raw:
        task.cancel()
    await asyncio.gather(*raw, return_exceptions=True)


async def raw_attack(bench: Bench, tally: Tally) -> None:
    port = int(bench.url.rpartition(":")[2])
    whole, halves = [data for _, data in connections()], [data for _, data in cut_short()]
    while True:
        hangs_up = bench.drawn.random() < 0.5
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(bench.drawn.choice(halves if hangs_up else whole))
            if not hangs_up:
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    told = await reader.read()
                tally.statuses[f"raw {told[9:10].decode('latin-1')}xx"] += 1
            writer.close()
        await asyncio.sleep(0)


async def come_and_go(bench: Bench, tally: Tally, seconds: float) -> None:
    """All connections open sessions, work, and leave in good manner or without a word, for so long."""
    ends = time.monotonic() + seconds
    stream = hostile_requests(bench.drawn)
    visits = (visit_session, visit_session, visit_modern, visit_and_drop, visit_stream)

    async def work() -> None:
        while time.monotonic() < ends:
            visit = bench.drawn.choice(visits)
            try:
                async with asyncio.timeout(ANSWER_LIMIT_S * 3):
                    await visit(bench, tally)
            except TimeoutError:
                tally.statuses["no answer"] += 1
            except TaleBaseException as error:
                tally.statuses[f"refused: {error.message[:60]}"] += 1
            await bench.post(tally, *next(stream))

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))


async def visit_session(bench: Bench, tally: Tally) -> None:
    """A session with a task in it, ended in good manner."""
    async with HTTPMCPClient(bench.url, modern=False) as client:
        await client.list_tools()
        await done(client, tally)


async def visit_modern(bench: Bench, tally: Tally) -> None:
    async with HTTPMCPClient(bench.url) as client:
        await client.call_tool("list_tasks", {"limit": 3})
        await done(client, tally)
        await client.request("resources/read", {"uri": "tale://stats/today"})


async def visit_and_drop(bench: Bench, tally: Tally) -> None:
    """A task is submitted, waited for, and the wait given up."""
    async with HTTPMCPClient(bench.url, modern=bench.drawn.random() < 0.5) as client:
        task_id = await submitted(client, tally)
        wait = asyncio.create_task(client.call_tool("wait_for_task", {"task_id": task_id}, on_progress=lambda *_: None))
        await asyncio.sleep(bench.drawn.random() * 0.02)
        wait.cancel()
        await asyncio.gather(wait, return_exceptions=True)


async def visit_stream(bench: Bench, tally: Tally) -> None:
    """A session with its standing stream open and a task in it, whose client goes away without a word."""
    opened, _ = await bench.post(tally, encoded(initialize()), {})
    if "Mcp-Session-Id" not in opened:
        return  # the connection broke; the tally knows
    session = {"Mcp-Session-Id": opened["Mcp-Session-Id"], "Mcp-Protocol-Version": HANDSHAKE}
    stream = {**session, "Accept": "text/event-stream"}
    with suppress(aiohttp.ClientError):
        async with bench.http.get(f"{bench.url}/mcp", headers=stream):
            call = {"name": "submit_task", "arguments": {"text": "Write a haiku"}}
            _, told = await bench.post(tally, encoded(request("tools/call", call)), session)
            result = json.loads(told or "{}").get("result")
            if result:
                tally.tasks.add(result["structuredContent"]["id"])
            else:
                tally.statuses[f"refused: {told[:60]}"] += 1


async def done(client: HTTPMCPClient, tally: Tally) -> None:
    task_id = await submitted(client, tally)
    told = await client.call_tool("wait_for_task", {"task_id": task_id}, on_progress=lambda *_: None)
    tally.statuses[f"task {told['status']}"] += 1


async def submitted(client: HTTPMCPClient, tally: Tally) -> str:
    task = await client.call_tool("submit_task", {"text": "Write a haiku"})
    tally.tasks.add(task["id"])
    return str(task["id"])


async def watched(service: ServiceUnderTest, tally: Tally) -> None:
    """Note the memory of the service, twice a second."""
    process = psutil.Process(service.process.pid)
    while True:
        tally.resident_mb.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(0.5)


async def left_behind(service: ServiceUnderTest, tally: Tally) -> tuple[int, int, int]:
    """Sessions still open, tasks not in the database, and tasks not at their end, when all has calmed down."""
    database = f"file:{service.home / 'tale.db'}?mode=ro"
    deadline = time.monotonic() + QUIET_LIMIT_S
    while True:
        async with service.client() as client:
            sessions = (await client.health())["sessions"]
        connection = sqlite3.connect(database, uri=True)
        states: dict[str, str] = dict(connection.execute("SELECT id, status FROM tasks").fetchall())
        connection.close()
        unfinished = sum(state in ("queued", "running") for state in states.values())
        if time.monotonic() > deadline or not (sessions or unfinished):
            return sessions, len(tally.tasks - states.keys()), unfinished
        await asyncio.sleep(1)


async def phase(title: str, service: ServiceUnderTest, work: Callable[[Bench, Tally], Awaitable[None]]) -> int:
    """Run one part, let the service calm down, and say what came of it."""
    process, tally = psutil.Process(service.process.pid), Tally()
    async with aiohttp.ClientSession() as http:  # what is opened once, such as readers of the database, is open then
        await come_and_go(Bench(service, http, random.Random(SEED)), Tally(), WARM_UP_S)
    descriptors = process.num_fds()
    watcher = asyncio.create_task(watched(service, tally))
    started = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2 * CONNECTIONS)) as http:
        await work(Bench(service, http, random.Random(SEED)), tally)
    took = time.monotonic() - started
    watcher.cancel()
    sessions, lost, unfinished = await left_behind(service, tally)
    answers = ", ".join(f"{status}: {number:,}" for status, number in sorted(tally.statuses.items()))
    tenths = " ".join(f"{value:.0f}" for value in tally.resident_mb[:: max(1, len(tally.resident_mb) // 10)])
    print(f"memory over time, MB: {tenths}")
    print(f"{took:.0f} s, {sum(tally.statuses.values()):,} answers, {len(tally.tasks):,} tasks; {answers}")
    return show(
        title,
        [
            Row("answers that are failures of the server (5xx)", tally.count("5") + tally.count("raw 5"), "", 0.5),
            Row("requests without an answer", tally.count("no answer"), "", 0.5),
            Row("resident memory at the end", tally.resident_mb[-1], "MB"),
            Row(
                "growth of it since it had settled",
                tally.growth_mb(),
                "MB",
                GROWTH_LIMIT_MB if took > SETTLED_S else None,
            ),
            Row("sessions left", sessions, "", 0.5),
            Row("open files more than before", process.num_fds() - descriptors, "", 8),
            Row("tasks lost", lost, "", 0.5),
            Row("tasks that never ended", unfinished, "", 0.5),
        ],
    )


async def run(requests: int, minutes: float) -> int:
    script = EngineScript()
    script.requests = deque(maxlen=10)  # type: ignore[assignment]  # all of them would be much after ten minutes
    missed = 0
    with ExitStack() as stack:
        async with served(OpenAIServer(script)) as engine:
            settings: dict[str, object] = {
                "backend": "openai",
                "openai_url": f"{engine.url}/v1",
                "ux_model": "small",
                "task_model": "large",
                "session_idle_s": SESSION_IDLE_S,
                "task_slots": 8,
                "acknowledge": False,
            }
            service = await asyncio.to_thread(stack.enter_context, running_service(**settings))
            if requests:
                title = f"{requests:,} hostile requests"
                missed |= await phase(title, service, lambda bench, tally: attack(bench, tally, requests))
            if minutes:
                title = f"{minutes:g} minutes of coming and going at {CONNECTIONS} connections"
                missed |= await phase(title, service, lambda bench, tally: come_and_go(bench, tally, minutes * 60))
            await asyncio.to_thread(stack.close)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000, help="hostile requests")
    parser.add_argument("--minutes", type=float, default=1.0, help="of coming and going")
    given = parser.parse_args()
    return asyncio.run(run(given.requests, given.minutes))


if __name__ == "__main__":
    sys.exit(main())
