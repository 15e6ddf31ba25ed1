"""Commands about the database: upgrade, backup, prune, rollups."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from tale.cli.confirmation import Yes, confirmed
from tale.cli.edge import FAILED
from tale.cli.groups import group
from tale.cli.invocation import settings_of
from tale.cli.tasks import Json
from tale.exceptions import ValidationException

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tale.settings import Settings
    from tale.storage.database import Database
    from tale.storage.retention import Pruned

T = TypeVar("T")

database = group("Upgrade, copy or prune the database.")
rollups = group("Check or renew the sums by the minute, which the servers keep by themselves.")
database.add_typer(rollups, name="rollups")


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


@database.command("prune")
def prune(
    context: typer.Context,
    older_than: Annotated[
        str | None, typer.Option(help="Age beyond which history goes, such as 90d; default: retention_days.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete tasks, calls and conversations that ended long ago; open tasks and all they build upon stay.

    The servers may run meanwhile. `tale export` keeps a copy first; the sums by the minute outlive the rows.
    """
    from dataclasses import asdict

    from tale.cli.rendering import Screen
    from tale.storage.reader import read_once
    from tale.storage.retention import Pruned, prunable
    from tale.validation import validate_age

    settings = settings_of(context)
    if older_than is None and settings.retention_days is None:
        raise ValidationException("--older-than is missing; tell the age beyond which history goes, such as 90d.")
    before = time.time() - validate_age(older_than or f"{settings.retention_days}d")
    found = read_once(settings.database, lambda connection: prunable(connection, before), absent=Pruned())
    screen = Screen()
    done = not dry_run and not found.is_empty and confirmed(f"Delete {_told(found)} for good?", yes=yes)
    if done:
        found = asyncio.run(_pruned(settings, before))
    if as_json:
        screen.json({**asdict(found), "deleted": done})
    elif found.is_empty:
        screen.show("Nothing is that old.")
    elif done:
        screen.show(f"Deleted {_told(found)}.")
        screen.aside("The file keeps its size; the room in it is used again.")
    elif dry_run:
        screen.show(f"Would delete {_told(found)}.")


@rollups.command("backfill")
def backfill(context: typer.Context) -> None:
    """Compute all sums anew from the calls; minutes of which calls were deleted keep theirs."""
    from tale.cli.rendering import Screen
    from tale.storage.rollups import Rollups

    async def renewed(database: "Database") -> int:
        keeper = Rollups(database)
        return max(await keeper.catch_up(time.time()), await keeper.backfill())

    Screen().show(f"Summed up {asyncio.run(_with_database(settings_of(context), renewed)):,} minutes.")


@rollups.command("verify")
def verify(context: typer.Context) -> None:
    """Compare all sums with the calls; the exit code is 1 when one is wrong."""
    from datetime import datetime

    from tale.cli.rendering import Screen
    from tale.storage.rollup_rows import MINUTE_S
    from tale.storage.rollups import Rollups

    found = asyncio.run(_with_database(settings_of(context), lambda database: Rollups(database).verify()))
    screen = Screen()
    if not found.wrong_minutes:
        screen.show(f"All {found.compared:,} sums are right.")
        return
    first = datetime.fromtimestamp(found.wrong_minutes[0] * MINUTE_S).isoformat(" ", "minutes")
    screen.show(f"The sums of {len(found.wrong_minutes):,} minutes are wrong, of {first} first of all.")
    screen.aside("`tale db rollups backfill` computes them anew.")
    raise typer.Exit(FAILED)


async def _pruned(settings: "Settings", before: float) -> "Pruned":
    from tale.storage.retention import prune as throw_away

    return await _with_database(settings, lambda database: throw_away(database, before))


async def _with_database(settings: "Settings", work: "Callable[[Database], Awaitable[T]]") -> T:
    from tale.storage.database import Database

    database = await asyncio.to_thread(Database.open, settings.database, backup_folder=settings.home / "backups")
    try:
        return await work(database)
    finally:
        await database.close()


def _told(pruned: "Pruned") -> str:
    counts = {
        "task": pruned.tasks,
        "model call": pruned.model_calls,
        "MCP call": pruned.mcp_calls,
        "conversation": pruned.conversations,
        "correction": pruned.corrections,
    }
    parts = [f"{count:,} {noun}{'' if count == 1 else 's'}" for noun, count in counts.items()]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
