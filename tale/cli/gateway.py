"""How commands reach the servers: one client a role, and servers that are started when a command needs them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.home_key import own_key
from tale.orchestration.server_manager import ServerManager
from tale.settings import Settings

Say = Callable[[str], None]


def client_of(settings: Settings, role: Literal["gateway", "ux_agent"] = "gateway") -> HTTPMCPClient:
    """A client of one of the servers; to be used as an async context."""
    return HTTPMCPClient(settings.url_of(role), api_key=own_key(settings, role), timeout_s=settings.http_timeout_s)


@asynccontextmanager
async def running(
    settings: Settings,
    say: Say,
    role: Literal["gateway", "ux_agent"] = "gateway",
    *,
    note: Say | None = None,
) -> AsyncGenerator[HTTPMCPClient]:
    """A client of a server that runs; it is started if need be, and `say` told so in a few words.

    `note` is told what is to be known of the servers, in a line that should stay.
    """
    await ServerManager(settings, on_wait=say).ensure_running(role)
    if note and (told := unheeded(settings)):
        note(told)
    async with client_of(settings, role) as client:
        yield client


def unheeded(settings: Settings) -> str | None:
    """That servers which run have begun with other settings than these, in one line; None where they have not."""
    names = ServerManager(settings).unheeded()
    return f"The servers run with another {', '.join(names)}; `tale servers restart` takes yours." if names else None


def ask(settings: Settings, tool: str, arguments: Mapping[str, Any], *, say: Say) -> dict[str, Any]:
    """Call one tool of the gateway, which may be called twice, and return its answer."""

    async def call() -> dict[str, Any]:
        async with running(settings, say) as client:
            return await client.call_tool(tool, arguments, idempotent=True)

    return asyncio.run(call())
