"""What does the gateway add to a model call of an OpenAI client, beside LiteLLM's proxy and the engine asked directly?

python benchmarks/gateway_overhead.py                     installs the newest LiteLLM into an environment of its own
python benchmarks/gateway_overhead.py --seconds 10        longer runs

One played engine that answers at once stands behind all of them, one client asks them, and they take turns within a
run. tale records every call durably; LiteLLM records nothing. Each figure is the median of its runs; the memory, of the
process that serves and its children, is the most there was. What learns beside tale is told apart: its limit is that of
service_footprint.py.
"""

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from harness import free_ports, median, peer_python, quantile, release_of, running_service, until_learned
from rich.console import Console
from rich.table import Table

LEARNING = ("tale.servers.learning_server", "tale.learning.")  # how the processes that learn are called
UPSTREAM = Path(__file__).parent / "peers" / "openai_upstream.py"
KINDS = ("direct", "tale", "litellm")
CONNECTIONS = (1, 8, 32)
GATE_P50_MS = 2.0  # over direct, at one connection
GATE_FIRST_MS = 2.0  # until the first token of a stream, over direct
GATE_RATIO = 10.0  # of LiteLLM's requests a second
GATE_MEMORY_MB = 200.0
START_LIMIT_S = 120.0
MEGA = 1e6
FIRST_WORD = b'"Hello"'
KEY = f"sk-{secrets.token_hex(32)}"  # both gateways ask for it


@dataclass
class Figures:
    """Of one kind, a value a run: requests a second and ms by connections, ms to a first token, MB by process."""

    per_s: dict[int, list[float]] = field(default_factory=dict)
    p50_ms: dict[int, list[float]] = field(default_factory=dict)
    p99_ms: dict[int, list[float]] = field(default_factory=dict)
    first_ms: list[float] = field(default_factory=list)
    memory_mb: list[dict[str, float]] = field(default_factory=list)

    def most_mb(self, *, learning: bool = False) -> float:
        """What the processes that serve took together, at most, or those that learn."""
        return max(
            sum(mb for name, mb in each.items() if name.startswith(LEARNING) == learning) for each in self.memory_mb
        )

    def names(self, *, learning: bool = False) -> str:
        """What the processes are called that serve, or those that learn."""
        found = {name for by_name in self.memory_mb for name in by_name if name.startswith(LEARNING) == learning}
        return " + ".join(sorted(found))


@dataclass(frozen=True)
class Target:
    """Where requests go, and the process that serves them (none for the engine itself)."""

    port: int
    pid: int | None = None

    def memory_mb(self) -> dict[str, float]:
        """What the process and its children take, by name."""
        if self.pid is None:
            return {}
        process, taken = psutil.Process(self.pid), dict[str, float]()
        for each in (process, *process.children(recursive=True)):
            name = name_of(each.cmdline())
            taken[name] = taken.get(name, 0.0) + each.memory_info().rss / MEGA
        return taken


def name_of(command: Sequence[str]) -> str:
    """What a process is called: its module, if it is one of Python's, else its program."""
    if "-m" in command:
        return command[command.index("-m") + 1]
    return Path(command[0]).name if command else "?"


class Caller(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, until told to end."""

    def __init__(self, request: bytes) -> None:
        self.latencies: list[float] = []
        self.firsts: list[float] = []  # seconds until the first word came
        self.is_ending = False
        self.ended = asyncio.get_running_loop().create_future()
        self._request = request
        self._received = b""
        self._sent_at = 0.0
        self._has_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._has_begun and FIRST_WORD in self._received:
            self._has_begun = True
            self.firsts.append(time.perf_counter() - self._sent_at)
        if not is_complete(self._received):
            return
        assert self._received.startswith(b"HTTP/1.1 200"), self._received
        self.latencies.append(time.perf_counter() - self._sent_at)
        if self.is_ending:
            self._transport.close()
            self.ended.set_result(None)
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(ConnectionError(f"the connection was closed: {self._received[:300]!r}"))

    def _send(self) -> None:
        self._received, self._has_begun, self._sent_at = b"", False, time.perf_counter()
        self._transport.write(self._request)


def is_complete(received: bytes) -> bool:
    """Whether a whole HTTP response is there."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return body.endswith(b"0\r\n\r\n")


def request_to(port: int, *, stream: bool) -> bytes:
    """A chat of one message as bytes."""
    body: dict[str, object] = {"model": "fake", "messages": [{"role": "user", "content": "Hello, how are you?"}]}
    content = json.dumps({**body, "max_tokens": 50, **({"stream": True} if stream else {})}).encode()
    lines = {
        "Host": f"127.0.0.1:{port}",
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + content


async def load(port: int, *, connections: int, seconds: float, stream: bool) -> tuple[float, list[Caller]]:
    """Ask over so many connections, after a warm-up of a third of the time; the seconds that counted."""
    loop, request = asyncio.get_running_loop(), request_to(port, stream=stream)
    made = [await loop.create_connection(lambda: Caller(request), "127.0.0.1", port) for _ in range(connections)]
    callers = [caller for _, caller in made]
    await asyncio.sleep(seconds / 3)
    for caller in callers:
        caller.latencies.clear()
        caller.firsts.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    counted = [(list(caller.latencies), list(caller.firsts)) for caller in callers]
    for caller in callers:
        caller.is_ending = True
    await asyncio.gather(*(caller.ended for caller in callers))
    for caller, (latencies, firsts) in zip(callers, counted, strict=True):
        caller.latencies, caller.firsts = latencies, firsts
    return took, callers


@contextmanager
def upstream() -> Iterator[Target]:
    """The played engine."""
    port = free_ports(1)[0]
    process = subprocess.Popen([sys.executable, str(UPSTREAM), str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        yield Target(port)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@contextmanager
def tale(engine: Target) -> Iterator[Target]:
    """A whole service of ours."""
    given = {
        "backend": "openai",
        "openai_url": f"http://127.0.0.1:{engine.port}/v1",
        "ux_model": "fake",
        "api_key": KEY,
    }
    with running_service(**given) as service:
        asyncio.run(until_learned(service))
        yield Target(int(service.environment["TALE_GATEWAY_PORT"]), service.process.pid)


@contextmanager
def litellm(python: Path, engine: Target) -> Iterator[Target]:
    """LiteLLM's proxy, in the environment made for it."""
    port = free_ports(1)[0]
    served = {"model": "openai/fake", "api_base": f"http://127.0.0.1:{engine.port}/v1", "api_key": "none"}
    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
        config = Path(folder) / "config.yaml"  # which JSON is, too
        config.write_text(json.dumps({"model_list": [{"model_name": "fake", "litellm_params": served}]}))
        command = [str(python.parent / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
        given = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        environment = {**os.environ, **given}
        with (Path(folder) / "output.log").open("wb") as log:
            process = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=log, stderr=log)
        try:
            wait_until_alive(f"http://127.0.0.1:{port}/health/liveliness", process)
            yield Target(port, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def wait_until_alive(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the address answers."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"Nothing answers at {url}.")


def measure(kinds: Sequence[str], python: Path | None, *, seconds: float, runs: int) -> dict[str, Figures]:
    """Every kind, taking turns, so that noise falls on all alike; `python` has LiteLLM."""
    found = {kind: Figures() for kind in kinds}
    with ExitStack() as stack:
        engine = stack.enter_context(upstream())
        targets = {"tale": stack.enter_context(tale(engine))}
        if python is not None:
            targets["litellm"] = stack.enter_context(litellm(python, engine))
        for _ in range(runs):
            for kind in kinds:
                one_round(targets.get(kind, engine), found[kind], seconds=seconds)
    return found


def one_round(target: Target, figures: Figures, *, seconds: float) -> None:
    """Measure one kind once."""
    for connections in CONNECTIONS:
        took, callers = asyncio.run(load(target.port, connections=connections, seconds=seconds, stream=False))
        latencies = [latency * 1000 for caller in callers for latency in caller.latencies]
        figures.per_s.setdefault(connections, []).append(len(latencies) / took)
        figures.p50_ms.setdefault(connections, []).append(median(latencies))
        figures.p99_ms.setdefault(connections, []).append(quantile(latencies, 0.99))
    _, callers = asyncio.run(load(target.port, connections=1, seconds=seconds, stream=True))
    figures.first_ms.append(median([first * 1000 for caller in callers for first in caller.firsts]))
    figures.memory_mb.append(target.memory_mb())


def report(found: dict[str, Figures], release: str | None) -> int:
    """Print the table and the gates; 1 when one is missed. `release` is LiteLLM's."""
    beside = f", beside LiteLLM {release}" if release else ""
    table = Table(title=f"one chat completion{beside}: requests/s (p50 ms, p99 ms)", title_justify="left")
    table.add_column("asked")
    for heading in (*(f"{connections} at a time" for connections in CONNECTIONS), "first token, ms", "memory, MB"):
        table.add_column(heading, justify="right")
    for kind, figures in found.items():
        cells = [
            f"{median(rates):,.0f} ({median(figures.p50_ms[each]):.2f}, {median(figures.p99_ms[each]):.1f})"
            for each, rates in figures.per_s.items()
        ]
        memory = f"{figures.most_mb():.0f}" if kind != "direct" else ""
        table.add_row(kind, *cells, f"{median(figures.first_ms):.2f}", memory)
    console = Console(width=130)
    console.print(table)
    kept = [gate(console, *row) for row in gates(found)]
    ours = found["tale"]
    learning = f"{ours.most_mb(learning=True):.0f} MB of {ours.names(learning=True)}"
    console.print(f"{learning} beside that (the limit is that of service_footprint.py)")
    return int(not all(kept))


def gates(found: dict[str, Figures]) -> list[tuple[str, float, float, bool]]:
    """What is promised: what, the figure, its limit, and whether it may not be lower."""
    direct, ours = found["direct"], found["tale"]
    over_ms = median(ours.p50_ms[1]) - median(direct.p50_ms[1])
    first_ms = median(ours.first_ms) - median(direct.first_ms)
    rows = [
        ("ms over direct, p50 at one connection", over_ms, GATE_P50_MS, False),
        ("ms over direct, first token of a stream", first_ms, GATE_FIRST_MS, False),
        (f"MB of {ours.names()} under this load", ours.most_mb(), GATE_MEMORY_MB, False),
    ]
    if "litellm" in found:
        for connections in CONNECTIONS[1:]:
            ratio = median(ours.per_s[connections]) / median(found["litellm"].per_s[connections])
            rows.append((f"x LiteLLM's requests/s at {connections} connections", ratio, GATE_RATIO, True))
    return rows


def gate(console: Console, what: str, value: float, limit: float, is_least: bool) -> bool:
    """Print how one figure stands against its limit; whether it keeps it."""
    kept = value >= limit if is_least else value <= limit
    bound = "at least" if is_least else "at most"
    console.print(f"{value:.2f} {what} ({bound} {limit:g}): {'ok' if kept else 'MISSED'}")
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--without-litellm", action="store_true", help="leave LiteLLM out")
    given = parser.parse_args(arguments)
    kinds = [kind for kind in KINDS if not (given.without_litellm and kind == "litellm")]
    python = None if given.without_litellm else peer_python("litellm", "litellm[proxy]", "opentelemetry-sdk")
    release = release_of(python, "litellm") if python else None
    return report(measure(kinds, python, seconds=given.seconds, runs=given.runs), release)


if __name__ == "__main__":
    sys.exit(main())
