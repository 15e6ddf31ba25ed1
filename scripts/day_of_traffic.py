"""Plays a day of mixed traffic in minutes and compares five sets of books, which must agree to the token.

python scripts/day_of_traffic.py                            3,000 requests in four minutes, all roles in one process
python scripts/day_of_traffic.py --apart                    the same with a process for each role
python scripts/day_of_traffic.py --requests 200 --minutes 0.1

People hand in tasks, talk, and call OpenAI's API with streams and without; some leave in the midst, cancel, or run out
of time; the engine refuses, breaks off, tells no usage, and lacks the larger model in the morning. It is played and
keeps books of its own. They are compared with the table of calls, the sums by the minute, /metrics and `tale export`.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
from free_ports import free_ports
from traffic.books import (
    Books,
    compared,
    engine_books,
    export_books,
    metrics_books,
    rollup_books,
    rows_of,
    show,
    table_books,
)
from traffic.engine import CountingEngine
from traffic.visitors import PATIENCE_S, Visitors, play

from tale.exceptions import TaleBaseException
from tale.mcp.http_client import HTTPMCPClient

KEY = "played-day-0123456789"  # of this service alone, which only listens on this machine


async def until_quiet(database: Path, engine: CountingEngine) -> None:
    """Return when the engine has nothing to do and no call is open."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            (open_calls,) = rows_of(database, "SELECT count(*) FROM model_calls WHERE ended_at IS NULL")[0]
            if not open_calls and not engine.open:
                return
            await asyncio.sleep(0.05)


async def scraped(urls: Sequence[str], key: str | None) -> list[str]:
    """The pages of these servers."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as http:
        pages: list[str] = []
        for url in urls:
            async with http.get(f"{url}/metrics") as response:
                pages.append(await response.text())
    return pages


@contextmanager
def service(home: Path, environment: dict[str, str], roles: str) -> Iterator[None]:
    """A service process, ended afterwards."""
    command = [sys.executable, "-m", "tale.servers.bootstrap", "--roles", roles]
    with (home / f"{roles}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


async def until_ready(client: HTTPMCPClient) -> None:
    """Return when the small model answers."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if any(model["state"] == "ready" for model in (await client.health())["models"]):
                    return
            except TaleBaseException:
                pass
            await asyncio.sleep(0.1)


async def visited(
    engine: CountingEngine, urls: Mapping[str, str], options: argparse.Namespace, database: Path
) -> list[str]:
    """Play the day at these servers; returns what surprised the visitors."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        HTTPMCPClient(urls["gateway"], api_key=KEY, timeout_s=PATIENCE_S) as gateway,
        HTTPMCPClient(urls["ux_agent"], api_key=KEY, timeout_s=PATIENCE_S) as ux_agent,
        aiohttp.ClientSession(headers=headers) as http,
    ):
        await until_ready(ux_agent)
        await until_ready(gateway)
        visitors = Visitors(gateway, ux_agent, http, random.Random(options.seed))
        await play(visitors, engine, requests=options.requests, day_s=options.minutes * 60)
        await until_quiet(database, engine)
        return visitors.surprises


async def day(home: Path, options: argparse.Namespace, ports: Mapping[str, int]) -> tuple[dict[str, Books], list[str]]:
    """Run the servers for a day; returns the five books and what else was not as it should be."""
    engine, database = CountingEngine(seed=options.seed), home / "tale.db"
    await engine.start()
    groups = ("model", "execution", "gateway", "ux_agent") if options.apart else ("gateway,execution,ux_agent,model",)
    urls = {role: f"http://127.0.0.1:{port}" for role, port in ports.items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALE_")}
    environment |= {f"TALE_{role.upper()}_PORT": str(port) for role, port in ports.items()}
    environment |= {
        "TALE_HOME": str(home),
        "TALE_API_KEY": KEY,
        "TALE_BACKEND": "openai",
        "TALE_OPENAI_URL": engine.url,
    }
    environment |= {"TALE_UX_MODEL": "small", "TALE_TASK_MODEL": "large", "TALE_RETRY_DELAY_S": "0"}
    environment |= {"TALE_MONITOR_INTERVAL_S": "1", "TALE_TASK_SLOTS": "8", "TALE_QUEUE_LIMIT": "10000"}
    # A sentence about a task is cut short by the task's end, at a moment at which the engine may have told its usage.
    # Calls that gave way before any engine saw them would be in the table alone.
    environment |= {"TALE_ACKNOWLEDGE": "false", "TALE_PREWARM": "false"}
    try:
        with ExitStack() as stack:
            for roles in groups:
                stack.enter_context(service(home, environment, roles))
                if options.apart:
                    await _until_alive(urls[roles])
            surprises = await visited(engine, urls, options, database)
            pages = await scraped([urls[roles.split(",")[0]] for roles in groups], KEY)
    finally:
        await engine.stop()
    file = home / "calls.parquet"
    command = [sys.executable, "-m", "tale.cli.main", "export", str(file)]
    await asyncio.to_thread(subprocess.run, command, env=environment, check=True, capture_output=True)
    books = {"engine": engine_books(engine), "table": table_books(database)}
    books["rollups"], wrong = await rollup_books(database)
    books |= {"/metrics": metrics_books(pages), "export": export_books(file)}
    return books, surprises + [f"the rollups of minute {minute} are not those of its calls" for minute in wrong]


async def _until_alive(url: str) -> None:
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(f"{url}/health") as response:
                    await response.read()
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the day and show the books; returns 1 where they differ, or something was not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3_000, help="how many visits the day has (default 3,000)")
    parser.add_argument("--minutes", type=float, default=4.0, help="how long the day lasts (default 4)")
    parser.add_argument("--apart", action="store_true", help="each role in a process of its own")
    parser.add_argument("--seed", type=int, default=1, help="another number, another day")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tale-day-") as folder:
        books, wrong = asyncio.run(day(Path(folder), options, free_ports()))
    show(books)
    for line in wrong:
        print(line)
    return int(bool(wrong or compared(books)))


if __name__ == "__main__":
    sys.exit(main())
