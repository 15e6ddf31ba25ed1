"""How many MCP calls a second does our server answer, beside FastMCP, the SDK's own server and bare aiohttp?

python benchmarks/mcp_throughput.py                     installs the newest FastMCP into an environment of its own
python benchmarks/mcp_throughput.py --seconds 10        longer runs

Every server is one process with one tool, `echo`; the client is this process. Each figure is the median of its runs.
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import free_ports, median, peer_python, quantile, release_of
from rich.console import Console
from rich.table import Table

SERVERS = Path(__file__).parent / "peers" / "mcp_servers.py"
CONNECTIONS = (1, 32)
GATE_RATIO = 4.0  # of FastMCP's throughput at 32 connections
GATE_P50_MS = 0.5  # over bare aiohttp's at one connection
STRETCH_SHARE = 0.6  # of bare aiohttp's throughput
KINDS = ("fastmcp", "sdk", "tale", "tale, not recording", "aiohttp")
ERAS = ("handshake", "modern")
TEXT = "The quick brown fox jumps over the lazy dog."
HANDSHAKE, MODERN = "2025-11-25", "2026-07-28"


@dataclass
class Figures:
    """Of one server, one era and one number of connections: calls a second and p50 in ms, a value a run."""

    calls_per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)


class Caller(asyncio.Protocol):
    """One connection that sends the same request again as soon as it is answered, until told to end."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.latencies: list[float] = []
        self.ended = asyncio.get_running_loop().create_future()
        self.answered = asyncio.Event()
        self.is_ending = False
        self.first: bytes | None = None
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not is_complete(self._received):
            return
        self.latencies.append(time.perf_counter() - self._sent_at)
        self.first = self.first or self._received
        self.answered.set()
        self._received = b""
        if self.is_ending:
            self._transport.close()
            self.ended.set_result(None)
        else:
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(ConnectionError(f"the server closed the connection: {self._received[:300]!r}"))

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self.request)


def is_complete(received: bytes) -> bool:
    """Whether a whole HTTP response is there."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return body.endswith(b"0\r\n\r\n")


def request_of(port: int, body: dict[str, object], headers: dict[str, str]) -> bytes:
    """A POST to /mcp as bytes."""
    content = json.dumps(body).encode()
    lines = {
        "Host": f"127.0.0.1:{port}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Content-Length": str(len(content)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + content


async def once(port: int, request: bytes) -> bytes:
    """The answer to one request."""
    loop = asyncio.get_running_loop()
    _, caller = await loop.create_connection(lambda: Caller(request), "127.0.0.1", port)
    caller.is_ending = True
    await caller.ended
    assert caller.first is not None
    return caller.first


async def call_of(port: int, era: str, kind: str) -> bytes:
    """The request that is repeated, after the handshake where the era has one."""
    params: dict[str, object] = {"name": "echo", "arguments": {"text": TEXT}}
    body: dict[str, object] = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    if kind == "aiohttp":
        return request_of(port, body, {})
    client = {"name": "benchmark", "version": "1"}
    if era == "modern":
        meta = "io.modelcontextprotocol"
        params["_meta"] = {
            f"{meta}/protocolVersion": MODERN,
            f"{meta}/clientInfo": client,
            f"{meta}/clientCapabilities": {},
        }
        headers = {"Mcp-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "echo"}
        return request_of(port, body, headers)
    hello = {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": client}
    answer = await once(
        port, request_of(port, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}, {})
    )
    session = next(
        line.split(b":", 1)[1].strip().decode()
        for line in answer.split(b"\r\n")
        if line.lower().startswith(b"mcp-session-id:")
    )
    headers = {"Mcp-Protocol-Version": HANDSHAKE, "Mcp-Session-Id": session}
    await once(port, request_of(port, {"jsonrpc": "2.0", "method": "notifications/initialized"}, headers))
    return request_of(port, body, headers)


async def load(port: int, era: str, kind: str, *, connections: int, seconds: float) -> tuple[float, list[float]]:
    """Calls a second, and each call's latency in ms, after a warm-up of a fifth of the time."""
    loop = asyncio.get_running_loop()
    callers: list[Caller] = []
    # A handshake client counts its requests' ids up; as many sessions as connections keep equal ids apart.
    for _ in range(connections):
        request = await call_of(port, era, kind)
        _, caller = await loop.create_connection(lambda request=request: Caller(request), "127.0.0.1", port)
        callers.append(caller)
    await asyncio.gather(*(caller.answered.wait() for caller in callers))
    await asyncio.sleep(seconds / 5)
    for caller in callers:
        assert caller.first is not None and TEXT.encode() in caller.first, caller.first
        caller.latencies.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    latencies = [latency * 1000 for caller in callers for latency in caller.latencies]
    for caller in callers:
        caller.is_ending = True
    await asyncio.gather(*(caller.ended for caller in callers))
    return len(latencies) / took, latencies


@contextmanager
def served(kind: str, python: str) -> Iterator[int]:
    """A server of this kind in a process of its own; yields its port."""
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
        process = subprocess.Popen(
            [python, str(SERVERS), kind, str(port), folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline().strip() != b"ready":
                raise SystemExit(f"The server {kind} did not start; try: {python} {SERVERS} {kind!r} {port} {folder}")
            wait_until_open(port)
            yield port
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


def wait_until_open(port: int) -> None:
    """Return when the port takes connections."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"Nothing answers on port {port}.")


def measure(peers: Path, seconds: float, runs: int) -> dict[tuple[str, str, int], Figures]:
    """Every kind, era and number of connections, the kinds taking turns so that noise falls on all alike."""
    found: dict[tuple[str, str, int], Figures] = {}
    for _ in range(runs):
        for kind in KINDS:
            with served(kind, str(peers) if kind == "fastmcp" else sys.executable) as port:
                for era in ERAS:
                    for connections in CONNECTIONS:
                        rate, latencies = asyncio.run(load(port, era, kind, connections=connections, seconds=seconds))
                        figures = found.setdefault((kind, era, connections), Figures())
                        figures.calls_per_s.append(rate)
                        figures.p50_ms.append(median(latencies))
                        figures.p99_ms.append(quantile(latencies, 0.99))
    return found


def report(found: dict[tuple[str, str, int], Figures], release: str) -> int:
    """Print the table and the gates; 1 when one is missed."""
    table = Table(title=f"one echo tool, FastMCP {release} beside it: calls/s (p50 ms, p99 ms)", title_justify="left")
    table.add_column("server")
    for era in ERAS:
        for connections in CONNECTIONS:
            table.add_column(f"{era}, {connections}", justify="right")
    for kind in KINDS:
        cells = [
            f"{median(each.calls_per_s):,.0f} ({median(each.p50_ms):.2f}, {median(each.p99_ms):.1f})"
            for era in ERAS
            for connections in CONNECTIONS
            for each in [found[kind, era, connections]]
        ]
        table.add_row(kind, *cells)
    console = Console(width=130)
    console.print(table)
    kept = [gate(console, found, era) for era in ERAS]
    return int(not all(kept))


def gate(console: Console, found: dict[tuple[str, str, int], Figures], era: str) -> bool:
    """Print how one era stands against its limits; whether it keeps them."""

    def rate(kind: str) -> float:
        return median(found[kind, era, 32].calls_per_s)

    ours, peer, bare, quiet = rate("tale"), rate("fastmcp"), rate("aiohttp"), rate("tale, not recording")
    over_ms = median(found["tale", era, 1].p50_ms) - median(found["aiohttp", era, 1].p50_ms)
    kept = ours / peer >= GATE_RATIO and over_ms <= GATE_P50_MS
    console.print(
        f"{era}: {ours / peer:.1f} x FastMCP (limit {GATE_RATIO:g}); {over_ms:.2f} ms over bare aiohttp at one "
        f"connection (limit {GATE_P50_MS:g}); {ours / bare:.0%} of bare aiohttp (stretch {STRETCH_SHARE:.0%}); "
        f"recording costs {1 - ours / quiet:.0%}: {'ok' if kept else 'MISSED'}"
    )
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args(arguments)
    peers = peer_python("fastmcp", "fastmcp")
    return report(measure(peers, given.seconds, given.runs), release_of(peers, "fastmcp"))


if __name__ == "__main__":
    sys.exit(main())
