"""`tale status` without a task: the servers, the models, the queue and the latest tasks."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from tale.cli.formatting import UNKNOWN, paused_line, seconds, size
from tale.cli.rendering import Screen, show_models, show_tasks, state, table
from tale.cli.servers import as_dict
from tale.constants import POLLING_INTERVAL
from tale.exceptions import NetworkException, ValidationException
from tale.mcp.plain_question import tool_result
from tale.orchestration.home_key import own_key
from tale.orchestration.server_manager import ServerManager, ServerStatus
from tale.settings import Settings

LATEST: Final = 5
UP: Final = ("running", "starting")


def show_overview(settings: Settings, *, as_json: bool) -> None:
    """Print how everything stands; what is not there yet is named with the command that brings it."""
    screen = Screen()
    overview = asyncio.run(_gathered(settings))
    if as_json:
        found, info, tasks = overview
        screen.json({"servers": [as_dict(server) for server in found], "info": info, "tasks": tasks})
    else:
        _print(screen, *overview)


def watch_overview(settings: Settings, *, as_json: bool) -> None:
    """Print it again every two seconds, in place, until interrupted."""
    screen = Screen()
    if as_json or not screen.out.is_terminal:
        raise ValidationException("--watch without a task needs a terminal; leave it out, or name a task.")
    while True:
        overview = asyncio.run(_gathered(settings))
        screen.out.clear()
        _print(screen, *overview)
        time.sleep(POLLING_INTERVAL)


def _print(
    screen: Screen, found: Sequence[ServerStatus], info: dict[str, Any] | None, tasks: Sequence[dict[str, Any]]
) -> None:
    screen.title("Servers")
    show_servers(screen, found)
    if info is None:
        if all(server.state == "stopped" for server in found):
            screen.show('`tale servers start` starts them; so does tale submit "Write a haiku".')
        return
    screen.title("Models")
    screen.show(info["backend"]["reason"] or "")
    show_models(screen, info["models"])
    screen.title("Queue")
    screen.show(", ".join(f"{count} {name}" for name, count in info["queue"].items()))
    if info["queue_paused_at"] is not None:
        screen.show(paused_line(info["queue_paused_at"], now=time.time()))
    screen.title("Latest tasks")
    if tasks:
        show_tasks(screen, tasks)
    else:
        screen.show('None yet; tale submit "Write a haiku" hands one in.')


def show_servers(screen: Screen, found: Sequence[ServerStatus]) -> None:
    """Each server with its state, address, process, age and memory."""
    if screen.narrow:
        for server in found:
            screen.show(Text.assemble(state(server.state), f"  {server.role}"))
            screen.show(f"  {server.url}")
    else:
        made = table(("server", "state", "address", "pid", "up", "memory"), right=("pid", "up", "memory"))
        for server in found:
            pid = UNKNOWN if server.pid is None else str(server.pid)
            memory = size(server.memory_bytes)
            made.add_row(server.role, state(server.state), server.url, pid, seconds(server.uptime_s), memory)
        screen.show(made)
    for server in found:
        if server.state == "foreign":
            owner = f"a tale of another home ({server.home})" if server.home else "another program"
            screen.show(f"{server.url} is held by {owner}; TALE_{server.role.upper()}_PORT chooses another port.")


async def _gathered(
    settings: Settings,
) -> tuple[list[ServerStatus], dict[str, Any] | None, list[dict[str, Any]]]:
    found = await ServerManager(settings).status()
    if next(server for server in found if server.role == "gateway").state not in UP:
        return found, None, []
    try:
        info = await _answer(settings, "get_server_info", {})
        page = await _answer(settings, "list_tasks", {"limit": LATEST})
    except NetworkException:
        return found, None, []
    return found, info, page["tasks"]


async def _answer(settings: Settings, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    url, key = settings.url_of("gateway"), own_key(settings, "gateway")
    answer = tool_result(url, tool, arguments, api_key=key, timeout_s=settings.http_timeout_s)
    if answer is not None:
        return answer
    from tale.cli.gateway import client_of  # aiohttp takes 0.2 s to import, and hardly anybody needs it here

    async with client_of(settings) as client:
        return await client.call_tool(tool, arguments, idempotent=True)
