"""Moves histories between machines: tables out into files, and files in again, in bounded memory.

Only what has ended moves: an open task is its machine's, and would be done twice.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from sqlalchemy import Boolean, Column, ColumnElement, Connection, Double, Integer, Table, exists, select, tuple_

from tale.exceptions import DatabaseException, ValidationException
from tale.storage.columns import metadata
from tale.storage.content import note_words
from tale.storage.database import Database
from tale.storage.reader import Reader
from tale.storage.rollups import Rollups
from tale.storage.rows import insert_into
from tale.storage.tables import SCHEMA_REVISION, model_calls, tasks
from tale.storage.transfer_files import Format, Kind, Row, columns_of, format_of, notes_of, pieces_of, writing

# Each table that moves with the column that says when its rows were; None: its rows go with those they refer to.
MOVING: Final[Mapping[str, str | None]] = {
    "tasks": "created_at",
    "attempts": None,
    "task_dependencies": None,
    "attachments": None,
    "feedback": None,
    "predictions": None,
    "shadows": None,
    "model_calls": "started_at",
    "mcp_calls": "started_at",
    "conversations": "updated_at",
    "messages": None,
    "corrections": "created_at",
}
NEVER_UNDER_WAY: Final = ("conversations",)  # one that nobody has ended can be gone on with anywhere
PAGE_ROWS: Final = 500
BATCH_ROWS: Final = 500  # rows a transaction, so that the servers can write in between
TABLE_NOTE: Final = "tale.table"
SCHEMA_NOTE: Final = "tale.schema"
MANY: Final = 80  # characters shown of a value that is wrong


@dataclass(frozen=True, slots=True)
class Period:
    """Rows of [since, until) in Unix seconds; None: without that limit. What ends or begins after `as_of` is left out.

    So rows that others refer to may go while these are read, but none can come.
    """

    since: float | None = None
    until: float | None = None
    as_of: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of one table or file: its rows, and of an import how many of them were new."""

    table: str
    path: Path
    rows: int
    new: int | None = None


def moving_tables() -> list[Table]:
    """The tables that move, those first that others refer to."""
    return [table for table in metadata.sorted_tables if table.name in MOVING]


def table_named(name: str) -> Table:
    """The table of that name; raises ValidationException unless it is one that moves."""
    if name not in MOVING:
        raise ValidationException(f"There is no table {name!r} to move; choose from {', '.join(MOVING)}.")
    return metadata.tables[name]


def export_table(reader: Reader, table: Table, path: Path, period: Period) -> Moved:
    """Write the rows that have ended into a new file. Raises ValidationException and DatabaseException."""
    columns: dict[str, Kind] = {column.name: kind_of(column) for column in table.columns}
    count = 0
    with writing(path, columns, {TABLE_NOTE: table.name, SCHEMA_NOTE: SCHEMA_REVISION}) as writer:
        for page in _pages(reader, table, period):
            writer.write(page)
            count += len(page)
    return Moved(table.name, path, count)


def export_all(reader: Reader, folder: Path, period: Period, form: Format) -> list[Moved]:
    """Write each table into a file of a folder, which must be empty; all of them or none. Raises likewise.

    Tables go after those that they refer to: of what goes meanwhile, or is gone on with, rows may be missing, but never
    one that others refer to.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValidationException(f"{folder} exists already and is not an empty folder; name another.")
    is_new = not folder.exists()
    tables, moved = moving_tables(), list[Moved]()
    try:
        moved += (export_table(reader, table, folder / f"{table.name}.{form}", period) for table in tables)
    finally:
        if len(moved) < len(tables):
            for each in moved:
                each.path.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):  # it was not even made
                    folder.rmdir()
    return moved


def files_of(source: Path, table: str | None = None) -> list[tuple[Table, Path]]:
    """The files to import with their tables, in the order in which they can go in. Raises ValidationException."""
    if not source.is_dir():
        return [(table_named(table) if table else table_of(source), source)]
    found = {path.stem: path for path in sorted(source.iterdir()) if format_of(path) is not None}
    files = [(each, found[each.name]) for each in moving_tables() if each.name in found and table in (None, each.name)]
    if not files:
        raise ValidationException(
            f"{source} holds no file of a table; `tale export {source.name}` writes such a folder."
        )
    return files


def table_of(path: Path) -> Table:
    """The table whose rows a file holds, by what was noted in it or by its columns. Raises ValidationException."""
    notes = notes_of(path)
    if notes.get(SCHEMA_NOTE, "") > SCHEMA_REVISION:
        raise ValidationException(f"{path} is from a newer tale (schema {notes[SCHEMA_NOTE]}); update tale first.")
    if noted := notes.get(TABLE_NOTE):
        return table_named(noted)
    names = set(columns_of(path))
    fitting = [table for table in moving_tables() if _lacking(table, names) == [] and not names - set(table.c.keys())]
    if len(fitting) != 1:
        raise ValidationException(
            f"The columns of {path} are those of no table of this tale; name the table with --table, "
            "or update tale if the file is from a newer one."
        )
    return fitting[0]


async def import_file(database: Database, table: Table, path: Path) -> Moved:
    """Add a file's rows; those that are there already stay as they are, so that it can be done again.

    Calls are summed up, wherever it ends. Raises ValidationException, which names the row, for one that cannot go in;
    the rows before it are in by then.
    """
    names = columns_of(path)
    if unknown := [name for name in names if name not in table.c]:
        raise ValidationException(
            f"{path}: {table.name} has no column {unknown[0]!r}; if a newer tale wrote it, update."
        )
    if lacking := _lacking(table, set(names)):
        raise ValidationException(f"{path}: the column {lacking[0]!r} of {table.name} is missing.")
    count = new = 0
    began: list[float] = []  # the first and the last of the calls
    try:
        for rows in _batches(path):
            clean = [_clean(row, table, f"Row {count + number} of {path}") for number, row in enumerate(rows, 1)]
            if table is model_calls:
                moments = [*began, *(row["started_at"] for row in clean)]
                began = [min(moments), max(moments)]
            new += await _inserted(database, table, clean, path=path, before=count)
            count += len(rows)
    finally:
        if began:
            await Rollups(database).backfill(began[0], math.nextafter(began[1], math.inf))
    return Moved(table.name, path, count, new)


def kind_of(column: Column[Any]) -> Kind:
    """What a column's values are, as files know it."""
    match column.type:
        case Boolean():
            return "truth"
        case Integer():
            return "whole"
        case Double():
            return "number"
        case _:
            return "text"


def _pages(reader: Reader, table: Table, period: Period) -> Iterator[list[Row]]:
    """The rows in pages, each read in a transaction of its own: a long one would keep the database from tidying up."""
    order = _order(table)
    last: tuple[Any, ...] | None = None
    while True:
        wanted = select(table).where(*_limits(table, period)).order_by(*order).limit(PAGE_ROWS)
        if last is not None:
            wanted = wanted.where(tuple_(*order) > last)

        def page_of(connection: Connection, wanted: Any = wanted) -> list[Row]:
            return [dict(row) for row in connection.execute(wanted).mappings()]

        page = reader.read(page_of)
        if page:
            yield page
            last = tuple(page[-1][column.name] for column in order)
        if len(page) < PAGE_ROWS:
            return


def _order(table: Table) -> list[Column[Any]]:
    """By time where an index is, else by the primary key."""
    key = list(table.primary_key.columns)
    moment = MOVING[table.name]
    indexed = any(next(iter(index.columns)).name == moment for index in table.indexes)
    return [table.c[moment], *key] if moment and indexed else key


def _limits(table: Table, period: Period) -> list[ColumnElement[bool]]:
    limits: list[ColumnElement[bool]] = []
    for key in table.foreign_keys:
        parent = key.column.table.alias()
        named = parent.c[key.column.name] == key.parent
        limits.append(exists().where(named, *_own_limits(key.column.table.name, parent.c, period)))
    return [*limits, *_own_limits(table.name, table.c, period)]


def _own_limits(name: str, columns: Any, period: Period) -> list[ColumnElement[bool]]:
    limits: list[ColumnElement[bool]] = []
    if name in NEVER_UNDER_WAY:
        limits.append(columns["created_at"] <= period.as_of)
    elif "ended_at" in columns:
        limits.append(columns["ended_at"] <= period.as_of)
    if (moment := MOVING[name]) is not None:
        if period.since is not None:
            limits.append(columns[moment].between(period.since, period.as_of))  # later: it may just have come into it
        if period.until is not None:
            limits.append(columns[moment] < period.until)
    return limits


def _lacking(table: Table, names: set[str]) -> list[str]:
    """The columns that a file must have and has not."""
    needed = [column.name for column in table.columns if not column.nullable and column.server_default is None]
    return [name for name in needed if name not in names]


def _batches(path: Path) -> Iterator[list[Row]]:
    for rows in pieces_of(path):
        for start in range(0, len(rows), BATCH_ROWS):
            yield rows[start : start + BATCH_ROWS]


def _clean(row: Row, table: Table, place: str) -> Row:
    """The row with values of the columns' types; raises ValidationException with its place."""
    values = {name: _value(value, table.c[name], place) for name, value in row.items()}
    if empty := [name for name, value in values.items() if value is None and not table.c[name].nullable]:
        raise ValidationException(f"{place}: {empty[0]} is empty, and must not be.")
    if "ended_at" in table.c and table.name not in NEVER_UNDER_WAY and values.get("ended_at") is None:
        raise ValidationException(f"{place}: it has not ended (ended_at is empty); only what has ended can move.")
    return values


def _value(value: Any, column: Column[Any], place: str) -> Any:
    kind = kind_of(column)
    try:
        match value, kind:
            case None, _:
                return None
            case bool(), "truth":
                return value
            case str(), "text":
                return value
            case str(), "truth":
                return {"true": True, "false": False}[value.lower()]
            case (str(), "whole") | (int(), "whole") if not isinstance(value, bool):
                return int(value)
            case (str(), "number") | (int(), "number") | (float(), "number") if not isinstance(value, bool):
                return float(value)
            case _:
                raise ValueError
    except (ValueError, KeyError) as error:
        words = {"text": "text", "whole": "a whole number", "number": "a number", "truth": "true or false"}
        shown = repr(value)[:MANY]
        raise ValidationException(f"{place}: {column.name} is {shown}, and must be {words[kind]}.") from error


async def _inserted(database: Database, table: Table, rows: Sequence[Row], *, path: Path, before: int) -> int:
    """Add rows in one transaction, or find the one that the database refuses; returns how many were new."""

    def work(connection: Connection, rows: Sequence[Row] = rows) -> int:
        if table is tasks:
            rows = _with_free_keys(connection, rows)
        key = list(table.primary_key.columns)
        statement = insert_into(connection, table).on_conflict_do_nothing(index_elements=key)
        # Counted by what comes back: not every driver tells the rows of several statements together.
        new = len(connection.execute(statement.returning(*key), list(rows)).all())
        if new:
            note_words(connection, table)
        return new

    with suppress(DatabaseException):
        return await database.write(work)
    new = 0
    for number, row in enumerate(rows, before + 1):
        one = cast("Sequence[Row]", [row])
        try:
            new += await database.write(lambda connection, one=one: work(connection, one))
        except DatabaseException as error:
            cause = f" ({error.context['cause']})" if "cause" in error.context else ""
            raise ValidationException(f"Row {number} of {path}: {error.message}{cause}") from error
    return new


def _with_free_keys(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    """Tasks without the keys that others here have already: a key is for handing the same in again, where it was."""
    named = [key for row in rows if (key := row.get("idempotency_key")) is not None]
    holders = select(tasks.c.idempotency_key, tasks.c.id).where(tasks.c.idempotency_key.in_(named))
    held = dict(connection.execute(holders).all())
    return [
        {**row, "idempotency_key": None} if held.get(row.get("idempotency_key"), row["id"]) != row["id"] else row
        for row in rows
    ]
