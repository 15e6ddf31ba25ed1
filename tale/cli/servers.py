"""Commands about the servers: serve in the foreground; start, stop, restart and status in the background."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tale.cli.edge import UNAVAILABLE
from tale.cli.groups import group
from tale.cli.invocation import settings_of
from tale.cli.tasks import Json
from tale.exceptions import ValidationException

if TYPE_CHECKING:
    from tale.cli.rendering import Screen
    from tale.orchestration.server_manager import ServerManager, ServerStatus

servers = group("Start, stop, restart and look at the background servers.")

Roles = Annotated[
    str | None,
    typer.Option("--roles", help="Comma-separated: gateway, execution, ux_agent, model.", metavar="ROLES"),
]
Http = Annotated[bool, typer.Option("--http", hidden=True, help="Accepted and ignored: HTTP is all there is.")]


def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", metavar="ADDRESS")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the gateway.", min=1024, max=65535, metavar="PORT")] = None,
    roles: Roles = None,
    http: Http = False,
) -> None:
    """Run the servers in the foreground until Ctrl-C.

    An interrupt or a SIGTERM lets running work end in good order; the exit code is 0 then.
    """
    from tale.cli.rendering import Screen
    from tale.servers.bootstrap import DEFAULT_ROLES, run_service, set_up_logging

    settings = settings_of(context, host=host, gateway_port=port)
    wanted = _parsed(roles) or DEFAULT_ROLES
    where = ", ".join(f"{role} {settings.url_of(role)}" for role in wanted)
    Screen().say(f"Starting {where}; Ctrl-C stops.")
    set_up_logging(settings, background=False)
    raise typer.Exit(run_service(settings, wanted))


@servers.command("start")
def start(context: typer.Context, roles: Roles = None, http: Http = False) -> None:
    """Start the servers in the background."""
    manager, screen = _manager(context)
    asyncio.run(manager.start(_parsed(roles)))
    _report(screen, asyncio.run(manager.status()))


@servers.command("stop")
def stop(context: typer.Context) -> None:
    """Stop the servers; running tasks go back to the queue and are taken up at the next start."""
    manager, screen = _manager(context)
    found = asyncio.run(manager.stop())
    screen.show("The servers are stopped." if found else "No servers were running.")


@servers.command("restart")
def restart(context: typer.Context) -> None:
    """Stop the servers and start them again.

    Those of `tale serve` and `tale autostart` go on in the background, as long as they would have.
    """
    manager, screen = _manager(context)
    asyncio.run(manager.restart())
    _report(screen, asyncio.run(manager.status()))


@servers.command("status")
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show each server; exit code 3 unless all of them run."""
    manager, screen = _manager(context)
    found = asyncio.run(manager.status())
    if as_json:
        screen.json([as_dict(server) for server in found])
    else:
        _report(screen, found)
    if any(server.state not in ("running", "starting") for server in found):
        raise typer.Exit(UNAVAILABLE)


def as_dict(server: "ServerStatus") -> dict[str, Any]:
    """A server for programs."""
    names = ("role", "url", "state", "pid", "uptime_s", "version", "memory_bytes", "home")
    return {name: getattr(server, name) for name in names}


def _report(screen: "Screen", found: "list[ServerStatus]") -> None:
    from tale.cli.overview import show_servers

    show_servers(screen, found)


def _manager(context: typer.Context) -> "tuple[ServerManager, Screen]":
    from tale.cli.rendering import Screen
    from tale.orchestration.server_manager import ServerManager

    screen = Screen()
    return ServerManager(settings_of(context), on_wait=screen.aside), screen


def _parsed(roles: str | None) -> tuple[str, ...] | None:
    if roles is None:
        return None
    named = tuple(role.strip() for role in roles.split(",") if role.strip())
    known = ("gateway", "execution", "ux_agent", "model")
    if unknown := [role for role in named if role not in known]:
        raise ValidationException(f"There is no role {unknown[0]!r}; choose from {', '.join(known)}.")
    if not named:
        raise ValidationException(f"--roles names no role; choose from {', '.join(known)}.")
    return named
