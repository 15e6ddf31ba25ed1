"""Has tale make the history that comes with it: 1,560 calls of both embedded models, by people who are played.

TALE_HOME=~/.tale python scripts/sample_history.py /some/folder               an hour; goes on where it was stopped
python scripts/sample_history.py /some/folder --calls 3000                    goes on until there are so many calls
python scripts/sample_history.py /some/folder --export                        writes data/sample_history.parquet
python scripts/sample_history.py /some/folder --priors                        writes data/priors/talk.jsonl

The folder becomes the service's home; the model files of TALE_HOME are linked into it. Everything in the history was
done by a real service: UX agent, gateway, execution server, learning. Only the people are played: what they say are
lines of data/intents and data/workload, what they do comes from the number of their visit. Their crowd grows and
shrinks. Requests with an impossible check, too little time or too few tokens are there on purpose.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp
from collect_priors import link_models
from free_ports import free_ports
from sample.people import GATHERED, PATIENCE_S, RIVERS, Person, visit
from sample.words import read_words
from workload.requests import read_requests

from tale.exceptions import TaleBaseException
from tale.mcp.http_client import HTTPMCPClient
from tale.storage.database import Database
from tale.storage.learning_store import LearningStore
from tale.storage.reader import reading
from tale.storage.sample_file import export_sample
from tale.storage.task_store import PAUSED_AT
from tale.storage.upgrade import upgrade

DATA: Final = Path(__file__).parent.parent / "data"
CALLS: Final = 1_560
CROWD: Final = (1, 2, 3, 2, 1, 3, 4, 2)  # people at a time, in one stretch of visits after the other
STRETCH: Final = 24  # visits
NOTICED_S: Final = 10.0
MOST_ATTEMPTS: Final = 100_000
KEPT: Final = ("text", "role", "model", "output_tokens", "finish_reason", "succeeded", "variant")  # of an attempt
CHOSEN: Final = {
    "BACKEND": "embedded",
    "ENGINE_THREADS": "1",  # of each model, as both work at the same time
    "IDLE_STOP_S": "0",
    "RETRY_DELAY_S": "1",
    "MAX_OUTPUT_TOKENS": "320",
}


@contextmanager
def service(home: Path) -> Iterator[tuple[str, str]]:
    """The addresses of gateway and UX agent of a service that is being started; it is ended afterwards."""
    ports = free_ports()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALE_")}
    environment |= {f"TALE_{role.upper()}_PORT": str(port) for role, port in ports.items()}
    environment |= {"TALE_HOME": str(home)} | {f"TALE_{name}": value for name, value in CHOSEN.items()}
    with (home / "output.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "tale.servers.bootstrap"], env=environment, stderr=log)
    try:
        yield f"http://127.0.0.1:{ports['gateway']}", f"http://127.0.0.1:{ports['ux_agent']}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


async def until_ready(client: HTTPMCPClient) -> None:
    """Return when the small model answers; the other is loaded by the first task."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if any(model["state"] == "ready" for model in (await client.health())["models"]):
                    return
            except TaleBaseException:
                pass
            await asyncio.sleep(0.3)


def calls_in(database: Path) -> int:
    """The model calls on record."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT count(*) FROM model_calls WHERE ended_at IS NOT NULL").fetchone()[0]


def is_paused(database: Path) -> bool:
    """Whether no task begins."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT 1 FROM meta WHERE key = ?", (PAUSED_AT,)).fetchone() is not None


async def play(urls: tuple[str, str], home: Path, *, calls: int) -> None:
    """Let people come until there are so many calls."""
    words, place = read_words(DATA), home / "visits.txt"
    limits = aiohttp.ClientTimeout(total=None)
    async with (
        HTTPMCPClient(urls[0], timeout_s=PATIENCE_S) as gateway,
        HTTPMCPClient(urls[1], timeout_s=PATIENCE_S) as ux_agent,
        aiohttp.ClientSession(timeout=limits, raise_for_status=True) as http,
    ):
        await until_ready(gateway)
        number, there = int(place.read_text()) if place.exists() else 0, set[asyncio.Task[str | None]]()
        while calls_in(home / "tale.db") < calls:
            person = Person(number, gateway, ux_agent, http, words, random.Random(number))
            there.add(asyncio.create_task(visit(person)))
            number += 1
            place.write_text(str(number))
            while len(there) >= CROWD[number // STRETCH % len(CROWD)]:
                gone, there = await asyncio.wait(there, timeout=NOTICED_S, return_when=asyncio.FIRST_COMPLETED)
                if is_paused(home / "tale.db"):  # by what somebody said; nobody here would say "resume"
                    await gateway.call_tool("resume_queue")
                for refused in filter(None, (each.result() for each in gone)):
                    print(refused, flush=True)
            if number % STRETCH == 0:
                print(f"{number} visits, {calls_in(home / 'tale.db')} calls", flush=True)
        await asyncio.gather(*there)
        await gateway.call_tool("learn_from_tasks", {})


def export(database: Path, target: Path = DATA / "sample_history.parquet") -> None:
    """Write what has ended into the file, in place of the one that is there."""
    draft = target.with_name("sample_history.new.parquet")
    draft.unlink(missing_ok=True)
    upgrade(f"sqlite:///{database}", database.parent / "backups")  # an earlier tale may have begun it
    with reading(f"sqlite:///{database}") as reader:
        if reader is None:
            raise SystemExit(f"{database} is not there; play first.")
        counts = export_sample(reader, draft)
    draft.replace(target)
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()), f"in {target.stat().st_size:,} bytes")


async def keep_priors(home: Path, target: Path = DATA / "priors" / "talk.jsonl") -> None:
    """Write what became of tasks that people put in their own words: most are longer than those of the workload."""
    workload = {each.text for name in ("priors", "savings") for each in read_requests(DATA / f"workload/{name}.jsonl")}
    database = Database.open(f"sqlite:///{home / 'tale.db'}")
    attempts, _ = await LearningStore(database).past_attempts((0.0, "", 0), limit=MOST_ATTEMPTS)
    await database.close()
    own = [each for each in attempts if each.text not in {*workload, GATHERED, RIVERS} and each.output_tokens]
    numbers = {task_id: number for number, task_id in enumerate(dict.fromkeys(each.task_id for each in own))}
    lines = [
        {"task_id": f"t-{numbers[each.task_id]:03}", "ended_at": 0.0} | {name: getattr(each, name) for name in KEPT}
        for each in own
    ]
    target.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} attempts at {len(numbers)} tasks in {target}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Play, or export what was played."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="folder of the service, kept between runs")
    parser.add_argument("--calls", type=int, default=CALLS, help=f"go on until there are so many (default {CALLS:,})")
    parser.add_argument("--export", action="store_true", help="write the file, and play nothing")
    parser.add_argument("--priors", action="store_true", help="write what tale is to learn from, and play nothing")
    options = parser.parse_args(arguments)
    if options.export:
        export(options.home / "tale.db")
        return
    if options.priors:
        asyncio.run(keep_priors(options.home))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the service ends with us
    link_models(options.home)
    with suppress(KeyboardInterrupt), service(options.home) as urls:
        asyncio.run(play(urls, options.home, calls=options.calls))


if __name__ == "__main__":
    main()
