"""Commands about the database: upgrade, backup."""

from pathlib import Path
from typing import Annotated

import typer

from tale.cli.groups import group
from tale.cli.invocation import settings_of

database = group("Upgrade or copy the database.")


@database.command("upgrade")
def upgrade(context: typer.Context) -> None:
    """Bring the tables to this version of tale; a SQLite file is copied first. The servers do this at their start."""
    from tale.cli.rendering import Screen
    from tale.storage.upgrade import upgrade as upgrade_tables

    settings = settings_of(context)
    report = upgrade_tables(settings.database, settings.home / "backups")
    screen = Screen()
    if report.from_revision == report.to_revision:
        screen.show(f"The database is up to date (schema {report.to_revision}).")
        return
    before = f"from schema {report.from_revision} " if report.from_revision else ""
    screen.show(f"The database was brought {before}to schema {report.to_revision}.")
    if report.backup_path:
        screen.show(f"A copy made before is {report.backup_path}.")


@database.command("backup")
def backup(
    context: typer.Context,
    target: Annotated[
        Path | None, typer.Argument(help="File or folder; default: TALE_HOME/backups.", metavar="TARGET")
    ] = None,
) -> None:
    """Copy the SQLite database while it is in use; the copy appears whole or not at all."""
    from tale.cli.rendering import Screen
    from tale.storage.backup import backup as copy

    settings = settings_of(context)
    if target is None:
        target = settings.home / "backups"
        target.mkdir(parents=True, exist_ok=True)
    Screen().show(f"Copied to {copy(settings.database, target)}.")
