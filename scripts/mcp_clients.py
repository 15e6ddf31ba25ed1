"""Has clients that others wrote work on a real gateway: curl, both TypeScript SDKs, the MCP Inspector's command line.

python scripts/mcp_clients.py [--keep FOLDER]

Each lists the tools, hands tasks in, waits for them, follows their progress where it can, gives a wait up, and cancels.
The protocol's Python SDK does the same in tests/clients/test_python_sdk.py.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node_tools import Node, NodeMissing, find_node

PACKAGES = (
    "@modelcontextprotocol/sdk@1.32.2",
    "@modelcontextprotocol/client@2.4.0",
    "@modelcontextprotocol/inspector@2.12.0",
)
TESTS = Path(__file__).parent.parent / "tests"
INSPECTOR = "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
LIMIT_S, START_LIMIT_S = 120, 60
TIMED_OUT = 28  # what curl says when --max-time is over
JSON, BOTH = ("-H", "Content-Type: application/json"), ("-H", "Accept: application/json, text/event-stream")


class Wrong(Exception):
    """A client did not get what it should."""


@contextmanager
def gateway() -> Iterator[str]:
    """A gateway in a process of its own; yields the URL of its MCP endpoint."""
    command = [sys.executable, "-m", "clients.gateway"]
    with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise Wrong("the gateway did not start")
            yield url
        finally:
            process.terminate()
            process.wait(START_LIMIT_S)


def run(command: list[str], node: Node, folder: Path, *, good: tuple[int, ...] = (0,)) -> str:
    """What a program prints; raises Wrong when it fails."""
    environment = {**node.environment(), "HOME": str(folder)}  # the Inspector keeps files there
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode not in good:
        raise Wrong(f"{' '.join(command[:6])}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def check(condition: object, text: str) -> None:
    """Raise Wrong unless the condition holds."""
    if not condition:
        raise Wrong(text)


Call = Callable[..., dict[str, Any]]


def visit(call: Call) -> None:
    """A task done, one that runs on while its wait ends, and one cancelled; `call` gives structured results."""
    quick = call("submit_task", text="Say hello.")
    done = call("wait_for_task", task_id=quick["id"])
    check(done["result"] == "Hello world", f"a task did not end as it should: {done}")
    slow = call("submit_task", text="Count slowly.")
    running = call("wait_for_task", task_id=slow["id"], timeout_s=1)
    check(running["status"] == "running", f"a wait did not end with the task as it stands: {running}")
    cancelled = call("cancel_task", task_id=slow["id"])
    check(cancelled["status"] == "cancelled", f"a task was not cancelled: {cancelled}")
    again = call("wait_for_task", task_id=slow["id"])
    check(again["status"] == "cancelled", f"a wait was not taken up again: {again}")


def with_curl(url: str, node: Node, folder: Path) -> str:
    """Curl without a handshake, the shortest line included."""
    curl = shutil.which("curl")
    check(curl, "curl is needed; install it")

    def post(body: dict[str, Any], *options: str, good: tuple[int, ...] = (0,)) -> str:
        return run([str(curl), "-sS", url, *options, "-d", json.dumps(body)], node, folder, good=good)

    def request(tool: str, arguments: dict[str, Any], **meta: Any) -> dict[str, Any]:
        params = {"name": tool, "arguments": arguments, **({"_meta": meta} if meta else {})}
        return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

    def call(tool: str, **arguments: Any) -> dict[str, Any]:
        return json.loads(post(request(tool, arguments), *JSON))["result"]["structuredContent"]

    for body, options in (({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, JSON), ({"method": "tools/list"}, ())):
        tools = json.loads(post(body, *options))["result"]["tools"]
        check(all(tool["inputSchema"]["type"] == "object" for tool in tools), "tools without schemas")
    visit(call)
    slow = call("submit_task", text="Count slowly.")
    given_up = request("wait_for_task", {"task_id": slow["id"]}, progressToken="t")
    stream = post(given_up, *JSON, *BOTH, "-N", "--max-time", "1", good=(TIMED_OUT,))
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    progress = [event for event in events if event["method"] == "notifications/progress"]
    check(progress, "no progress came")
    check(call("get_task_status", task_id=slow["id"])["status"] == "running", "a wait given up ended its task")
    call("cancel_task", task_id=slow["id"])
    return f"{len(tools)} tools, a task done, {len(progress)} times progress, a wait given up, a task cancelled"


def with_inspector(url: str, node: Node, folder: Path) -> str:
    """The MCP Inspector's command line, in both eras."""
    for era in ("legacy", "modern"):
        program = str(folder / "node_modules" / INSPECTOR)
        given = ["--cli", url, "--transport", "http", "--protocol-era", era, "--quiet"]
        command = [str(node.node), program, *given, "--method"]

        def call(tool: str, command: list[str] = command, **arguments: Any) -> dict[str, Any]:
            given = ["tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments)]
            return json.loads(run([*command, *given], node, folder))["structuredContent"]

        tools = json.loads(run([*command, "tools/list"], node, folder))["tools"]
        run([*command, "tools/list", "--strict"], node, folder)  # no client stumbles over our schemas
        visit(call)
        waited = call("wait_for_task", task_id=call("submit_task", text="Take a second.")["id"])
        check(waited["status"] == "completed", f"a wait ended before its task: {waited}")
    return f"{len(tools)} tools, tasks done, a wait taken up again, a task cancelled, in both eras; a wait as a task"


def with_typescript(program: str) -> Callable[[str, Node, Path], str]:
    """A program on one of the TypeScript SDKs; it prints what it saw."""

    def visit_with_it(url: str, node: Node, folder: Path) -> str:
        return run([str(node.node), str(folder / program), url], node, folder).strip()

    return visit_with_it


CLIENTS: dict[str, Callable[[str, Node, Path], str]] = {
    "curl": with_curl,
    "TypeScript SDK 1": with_typescript("typescript_v1.mjs"),
    "TypeScript SDK 2": with_typescript("typescript_v2.mjs"),
    "MCP Inspector": with_inspector,
}


def main() -> int:
    """Print a line or two a client; 1 when one of them fails."""
    parser = argparse.ArgumentParser(description="Has clients that others wrote work on a real gateway.")
    parser.add_argument("--keep", type=Path, help="folder for the npm packages, used again when it has them")
    keep: Path | None = parser.parse_args().keep
    failed = 0
    with tempfile.TemporaryDirectory(prefix="tale-clients-") as temporary, gateway() as url:
        node, folder = find_node(), (keep or Path(temporary)).resolve()
        if not (folder / "node_modules" / INSPECTOR).exists():
            node.install(folder, *PACKAGES)
        for program in (TESTS / "clients").glob("*.mjs"):  # where Node finds the packages beside them
            shutil.copy(program, folder)
        for name, visit_with in CLIENTS.items():
            start = time.monotonic()
            try:
                told, mark = visit_with(url, node, folder), "ok"
            except (Wrong, subprocess.TimeoutExpired) as error:
                told, mark = str(error), "FAILED"
                failed += 1
            print(f"{name} ({mark}, {time.monotonic() - start:.1f} s): {told}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        status = main()
    except NodeMissing as missing:
        print(missing, file=sys.stderr)
        status = 1
    sys.exit(status)
