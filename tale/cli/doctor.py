"""The command that looks for what could keep tale from working, and names the fix."""

import asyncio
from dataclasses import asdict

import typer

from tale.cli.edge import FAILED
from tale.cli.invocation import settings_of
from tale.cli.tasks import Json


def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check this machine and the settings.

    The exit code is 1 when something has to be mended.
    """
    from tale.cli.checks import all_checks
    from tale.cli.rendering import Screen, state

    screen = Screen()
    checks = asyncio.run(all_checks(settings_of(context)))
    if as_json:
        screen.json([asdict(check) for check in checks])
    else:
        from rich.text import Text

        for check in checks:
            screen.show(Text.assemble(state(f"{check.state:4}".strip().ljust(4)), f"  {check.name}: {check.found}"))
            if check.fix:
                screen.show(f"      {check.fix}")
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(FAILED)
