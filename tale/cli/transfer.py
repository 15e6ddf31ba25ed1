"""Commands that move histories between machines: export and import."""

import asyncio
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tale.cli.invocation import settings_of
from tale.cli.tasks import Json
from tale.exceptions import DatabaseException, ValidationException

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tale.settings import Settings
    from tale.storage.transfer import Moved

ALL = "all"


class Form(StrEnum):
    """What the files of a folder are."""

    PARQUET = "parquet"
    CSV = "csv"


def export_history(
    context: typer.Context,
    target: Annotated[
        Path, typer.Argument(help="A new .parquet or .csv file, or a new folder for all tables.", metavar="TARGET")
    ],
    table: Annotated[
        str | None, typer.Option(help="The table of a file: model_calls (default), tasks, mcp_calls, …", metavar="NAME")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only rows of then or later: a date, a time, or 30d.", metavar="WHEN")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only rows of before.", metavar="WHEN")] = None,
    form: Annotated[Form, typer.Option("--format", help="What the files of a folder are.")] = Form.PARQUET,
    as_json: Json = False,
) -> None:
    """Write the history into files, in Parquet or CSV.

    The servers may run meanwhile. What has not ended is left out. `tale import` reads the same files on another
    machine.
    """
    from tale.storage.reader import reading
    from tale.storage.transfer import Period, export_all, export_table, table_named
    from tale.storage.transfer_files import format_of
    from tale.validation import validate_moment

    begin, end = (None if moment is None else validate_moment(moment, time.time()) for moment in (since, until))
    period = Period(begin, end)
    into_file = format_of(target) is not None
    if target.suffix and not into_file:
        raise ValidationException(f"{target} is of no kind that can be written; let its name end in .parquet or .csv.")
    if table is not None and (table == ALL) == into_file:
        raise ValidationException(f"{target}: one table goes into a .parquet or .csv file, all go into a folder.")
    with reading(settings_of(context).database) as reader:
        if reader is None:
            raise DatabaseException("There is no history yet; nothing was exported.")
        if into_file:
            moved = [export_table(reader, table_named(table or "model_calls"), target, period)]
        else:
            moved = export_all(reader, target, period, form.value)
    _show(moved, as_json=as_json)


def import_history(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A file or folder that was exported.", metavar="SOURCE")],
    table: Annotated[str | None, typer.Option(help="The table, where a file does not tell it.", metavar="NAME")] = None,
    as_json: Json = False,
) -> None:
    """Add exported files to the history.

    Rows that are there already stay as they are. It may be done again after it broke off. The servers may run
    meanwhile.
    """
    from tale.storage.transfer import files_of

    if not source.exists():
        raise ValidationException(f"There is no {source}; name a file or folder that `tale export` wrote.")
    files = files_of(source, table)
    _show(asyncio.run(_imported(settings_of(context), files)), as_json=as_json)


async def _imported(settings: "Settings", files: "Sequence[tuple[Any, Path]]") -> "list[Moved]":
    from tale.storage.database import Database
    from tale.storage.transfer import import_file

    database = await asyncio.to_thread(Database.open, settings.database, backup_folder=settings.home / "backups")
    try:
        return [await import_file(database, table, path) for table, path in files]
    finally:
        await database.close()


def _show(moved: "Sequence[Moved]", *, as_json: bool) -> None:
    from tale.cli.rendering import Screen

    screen = Screen()
    if as_json:
        names = ("table", "rows", "new")
        screen.json([{**{name: getattr(each, name) for name in names}, "path": str(each.path)} for each in moved])
        return
    for each in moved:
        count = f"{each.rows:,} {'row' if each.rows == 1 else 'rows'} of {each.table}"
        if each.new is None:
            screen.show(f"Wrote {count} to {each.path}.")
        else:
            screen.show(f"Read {count} from {each.path}: {each.new:,} new, {each.rows - each.new:,} there already.")
