"""How many recorded calls become queryable a second, and how soon after they were accepted, beside Arize Phoenix?

python benchmarks/ingest.py                  installs the newest Phoenix into an environment of its own
python benchmarks/ingest.py --rows 20000     a longer run

Both run in a process of their own on SQLite, and one client posts the same number of model calls to both in batches of
the same size over the same number of connections: to Phoenix as spans to its OTLP/HTTP endpoint, to tale as calls that
pass through its recorder, which opens and closes a row for each. A row is queryable when another connection to the
file of the database finds it; for both this is looked for in the same way. The two do not promise the same: tale
answers when all calls of a batch are on the disk (WAL, synchronous=FULL), Phoenix when it has put them into its queue.
"""

import argparse
import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
from harness import Row, free_ports, median, peer_python, release_of, show

PEERS = Path(__file__).parent / "peers"
BATCH, CONNECTIONS = 100, 4
LOOK_S = 0.002
START_LIMIT_S, INGEST_LIMIT_S, REST_S = 180.0, 240.0, 0.1
OK, BUSY = 200, 503
GATE_RATIO = 50.0
CALL = {
    "role": "task",
    "operation": "chat",
    "model": "large",
    "provider": "embedded",
    "conversation_id": "c",
    "input_tokens": 120,
    "output_tokens": 350,
    "total_s": 13.3,
    "finish_reason": "stop",
}


@dataclass(frozen=True)
class Target:
    """Where batches go, how many rows there are is asked of, and what such a batch is."""

    url: str
    content_type: str
    path: Path
    counting: str


@dataclass(frozen=True)
class Figures:
    """Rows accepted and queryable a second, and the median seconds from the one to the other."""

    accepted_per_s: float
    queryable_per_s: float
    lag_s: float


class Watcher(threading.Thread):
    """Looks how many rows are there, from the moment it is started until all are."""

    def __init__(self, target: Target, rows: int) -> None:
        super().__init__(daemon=True)
        self._target, self._rows = target, rows
        self.seen: list[tuple[float, int]] = []  # when, and how many

    def run(self) -> None:
        deadline = time.perf_counter() + INGEST_LIMIT_S
        with closing(sqlite3.connect(f"file:{self._target.path}?mode=ro", uri=True, timeout=60)) as connection:
            before = 0
            while before < self._rows and time.perf_counter() < deadline:
                (count,) = connection.execute(self._target.counting).fetchone()
                if count > before:
                    self.seen.append((time.perf_counter(), count))
                    before = count
                time.sleep(LOOK_S)


async def posted(target: Target, bodies: Sequence[bytes]) -> list[float]:
    """Post all; the moments at which they were accepted. One that is told to wait is posted again."""
    accepted: list[float] = []
    left = iter(bodies)
    headers = {"Content-Type": target.content_type}

    async def post(session: aiohttp.ClientSession) -> None:
        for body in left:
            while True:
                async with session.post(target.url, data=body, headers=headers) as response:
                    status, told = response.status, await response.read()
                if status == OK:
                    break
                assert status == BUSY, told
                await asyncio.sleep(REST_S)
            accepted.append(time.perf_counter())

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(post(session) for _ in range(CONNECTIONS)))
    return accepted


def measured(target: Target, bodies: Sequence[bytes]) -> Figures:
    """Post everything, and wait until it can be found."""
    rows = len(bodies) * BATCH
    watcher = Watcher(target, rows)
    watcher.start()
    began = time.perf_counter()
    accepted = asyncio.run(posted(target, bodies))
    watcher.join()
    ended, found = watcher.seen[-1]
    if found < rows:
        print(f"{target.url}: after {INGEST_LIMIT_S:g} s only {found:,} of {rows:,} rows can be found.")
    lags: list[float] = []
    seen = iter(watcher.seen)
    moment, count = next(seen)
    for number, at in enumerate(accepted[: found // BATCH], 1):
        while count < number * BATCH:
            moment, count = next(seen)
        lags.append(max(0.0, moment - at))
    return Figures(rows / (accepted[-1] - began), found / (ended - began), median(lags))


@contextmanager
def running(command: list[str], live: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """A server that answers at `live`."""
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                urllib.request.urlopen(live, timeout=5).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit((folder / "output.log").read_text()) from None
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def tale(folder: Path, rows: int) -> Figures:
    """Our recorder behind HTTP."""
    port, path = free_ports(1)[0], folder / "tale.db"
    target = Target(
        f"http://127.0.0.1:{port}/calls",
        "application/json",
        path,
        "SELECT count(*) FROM model_calls WHERE ended_at IS NOT NULL",
    )
    command = [sys.executable, str(PEERS / "call_server.py"), str(port), str(path)]
    now = time.time()
    body = json.dumps([{**CALL, "started_at": now, "ended_at": now + 13.3}] * BATCH).encode()
    with running(command, f"http://127.0.0.1:{port}/live", folder, {}):
        return measured(target, [body] * (rows // BATCH))


def phoenix(python: Path, folder: Path, rows: int) -> Figures:
    """Phoenix, in the environment made for it."""
    port, grpc_port = free_ports(2)
    spans = folder / "spans"
    spans.mkdir()
    making = [str(python), str(PEERS / "otlp_spans.py"), str(rows), str(BATCH), str(spans)]
    subprocess.run(making, check=True)
    bodies = [path.read_bytes() for path in sorted(spans.iterdir())]
    target = Target(
        f"http://127.0.0.1:{port}/v1/traces",
        "application/x-protobuf",
        folder / "phoenix.db",
        "SELECT count(*) FROM spans",
    )
    environment = {
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    command = [str(python.parent / "phoenix"), "serve"]
    with running(command, f"http://127.0.0.1:{port}/healthz", folder, environment):
        return measured(target, bodies)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=4_000)
    given = parser.parse_args()
    found: dict[str, Figures] = {}
    python = peer_python("phoenix", "arize-phoenix")
    for name, measure in (("tale", tale), ("Phoenix", partial(phoenix, python))):
        with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
            found[name] = measure(Path(folder), given.rows)
    rows: list[Row] = []
    for name, figures in found.items():
        rows.append(Row(f"{name}: rows accepted", figures.accepted_per_s, "/s"))
        rows.append(Row(f"{name}: rows queryable", figures.queryable_per_s, "/s"))
        rows.append(Row(f"{name}: accepted to queryable, p50", figures.lag_s * 1_000, "ms"))
    share = found["Phoenix"].queryable_per_s / found["tale"].queryable_per_s
    print(f"tale makes {1 / share:.1f} x as many rows queryable a second (at least {GATE_RATIO:g} x)")
    rows.append(Row("Phoenix's rows queryable a second, of tale's", share * 100, "%", 100 / GATE_RATIO))
    release = release_of(python, "arize-phoenix")
    return show(f"{given.rows:,} model calls, {BATCH} a request, {CONNECTIONS} connections; Phoenix {release}", rows)


if __name__ == "__main__":
    sys.exit(main())
