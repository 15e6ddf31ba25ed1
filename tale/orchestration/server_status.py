"""How a server looks from outside: whether it answers, and whose it is."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import psutil

from tale.exceptions import NetworkException, ServerException
from tale.mcp.plain_question import health_at
from tale.settings import Settings

HEALTH_LIMIT_S: Final = 5.0

State = Literal["running", "starting", "stopped", "foreign"]
STATES: Final[dict[str, State]] = {"starting": "starting", "stopping": "stopped"}


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server as seen from outside; unknown values are None."""

    role: str
    url: str
    state: State
    pid: int | None = None
    uptime_s: float | None = None
    version: str | None = None
    memory_bytes: int | None = None
    home: str | None = None
    health: dict[str, Any] | None = None


async def look_at(settings: Settings, role: str, *, patience_s: float = HEALTH_LIMIT_S) -> ServerStatus:
    """Ask the role's server for its health.

    What listens but is no tale, or one of another home that the settings do not name by its URL, is foreign; a server
    that is about to end counts as stopped.
    """
    url = settings.url_of(role)
    try:
        health = await asyncio.to_thread(health_at, url, timeout_s=patience_s) or await _thorough_health(
            url, patience_s
        )
    except NetworkException as error:
        return ServerStatus(
            role, url, "foreign" if await _listens(url, patience_s) else "stopped", health=error.context
        )
    home = health.get("home")
    ours = isinstance(home, str) and same_folder(Path(home), settings.home)
    is_named = getattr(settings, f"{role}_url") is not None and health.get("version") is not None
    state = STATES.get(str(health.get("status")), "running") if ours or is_named else "foreign"
    pid = health.get("pid")
    return ServerStatus(
        role,
        url,
        state,
        pid=pid,
        uptime_s=health.get("uptime_s"),
        version=health.get("version"),
        memory_bytes=_memory(pid) if ours else None,
        home=home,
        health=health,
    )


def is_meant(settings: Settings, status: ServerStatus) -> bool:
    """Whether a server answers that the settings mean: one of this home, or the one that they name by its URL."""
    is_named = getattr(settings, f"{status.role}_url") is not None
    return status.state in ("running", "starting") or (is_named and status.version is not None)


def taken(status: ServerStatus) -> ServerException:
    """That a port is somebody else's, with what to do."""
    owner = f"another tale (home {status.home})" if status.home else "another program"
    return ServerException(
        f"Port {urlsplit(status.url).port} is used by {owner}; stop it, or choose another port with "
        f"TALE_{status.role.upper()}_PORT or in tale.toml.",
        {"url": status.url},
    )


def same_folder(one: Path, other: Path) -> bool:
    """Whether both paths lead to the same folder."""
    return os.path.realpath(one) == os.path.realpath(other)


async def _thorough_health(url: str, patience_s: float) -> dict[str, Any]:
    from tale.mcp.http_client import HTTPMCPClient  # aiohttp takes 0.2 s to import, and hardly anybody needs it here

    async with HTTPMCPClient(url, timeout_s=patience_s) as client:
        return await client.health()


async def _listens(url: str, patience_s: float) -> bool:
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(patience_s):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _memory(pid: object) -> int | None:
    if not isinstance(pid, int):
        return None
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return None
