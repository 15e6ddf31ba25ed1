"""The sample history as one file: rows of several tables, without what people and models wrote to each other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column, Connection, Table, select

from tale.exceptions import ValidationException
from tale.storage.database import Database
from tale.storage.learning_tables import engine_versions, learning_events, predictions
from tale.storage.monitoring_tables import monitor_samples, target_alerts, target_violations
from tale.storage.reader import Reader
from tale.storage.rollup_rows import MINUTE_S
from tale.storage.rollups import Rollups
from tale.storage.rows import insert_into
from tale.storage.tables import SCHEMA_REVISION, attempts, feedback, mcp_calls, model_calls, task_dependencies, tasks
from tale.storage.transfer import SCHEMA_NOTE, kind_of
from tale.storage.transfer_files import Kind, Row, notes_of, pieces_of, writing

TABLE: Final = "table"  # the column that tells of which table a row is
# Each table that is in the file, those first that others refer to, with the columns that stay behind: answers, what was
# learned, and names of machines.
LEFT_OUT: Final[Mapping[Table, Sequence[str]]] = {
    tasks: ("result",),
    task_dependencies: (),
    attempts: (),
    feedback: (),
    model_calls: ("owner", "engine"),
    mcp_calls: (),
    engine_versions: ("artefact",),
    predictions: (),
    learning_events: (),
    monitor_samples: (),
    target_violations: (),
    target_alerts: (),
}
BATCH_ROWS: Final = 500


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded: how many rows of each table, and the models with the most calls first."""

    rows: Mapping[str, int]
    models: Sequence[str]


def export_sample(reader: Reader, path: Path) -> dict[str, int]:
    """Write what has ended into a new Parquet file; returns how many rows of each table it holds.

    Raises ValidationException and DatabaseException.
    """
    found = {table: reader.read(lambda c, table=table: _rows_of(c, table)) for table in LEFT_OUT}
    ended = {row["id"] for row in found[tasks] if row["ended_at"] is not None}
    found[tasks] = [row for row in found[tasks] if row["id"] in ended]
    found[model_calls] = [row for row in found[model_calls] if row["ended_at"] is not None]
    for table in (task_dependencies, attempts, feedback, predictions):
        found[table] = [row for row in found[table] if row["task_id"] in ended]
    found[task_dependencies] = [row for row in found[task_dependencies] if row["after_id"] in ended]
    kinds: dict[str, Kind] = {TABLE: "text"}
    for table in LEFT_OUT:
        kinds |= {column.name: kind_of(column) for column in _columns(table)}
    with writing(path, kinds, {SCHEMA_NOTE: SCHEMA_REVISION}) as writer:
        for table, rows in found.items():
            writer.write([{TABLE: table.name, **row} for row in rows])
    return {table.name: len(rows) for table, rows in found.items()}


async def load_sample(database: Database, path: Path, *, now: float) -> Loaded:
    """Add the rows of the file to a new database, moved in time by whole minutes so that the last call ended just now.

    Nothing else is changed: all distances in time are those that were recorded. Raises ValidationException and
    DatabaseException.
    """
    if (schema := notes_of(path).get(SCHEMA_NOTE, "")) > SCHEMA_REVISION:
        raise ValidationException(f"{path} is from a newer tale (schema {schema}); update tale first.")
    found: dict[str, list[Row]] = {table.name: [] for table in LEFT_OUT}
    for piece in pieces_of(path):
        for row in piece:
            found[row.pop(TABLE)].append(row)
    calls = found[model_calls.name]
    if not calls:
        raise ValidationException(f"{path} holds no call; fetch the file again.")
    shift_s = (now - max(call["ended_at"] for call in calls)) // MINUTE_S * MINUTE_S
    for table in LEFT_OUT:
        await _add(database, table, [_shifted(row, shift_s) for row in found[table.name]])
    await Rollups(database).catch_up(now)
    models = Counter(call["model"] for call in calls).most_common()
    return Loaded({name: len(rows) for name, rows in found.items()}, [name for name, _ in models])


async def _add(database: Database, table: Table, rows: Sequence[Row]) -> None:
    """Add rows; columns that are younger than the file get what the database gives them."""
    for start in range(0, len(rows), BATCH_ROWS):
        held = [column.name for column in _columns(table) if column.name in rows[start]]
        batch = [{name: row[name] for name in held} for row in rows[start : start + BATCH_ROWS]]

        def work(connection: Connection, batch: list[Row] = batch) -> None:
            connection.execute(insert_into(connection, table), batch)

        await database.write(work)


def _shifted(row: Row, shift_s: float) -> Row:
    """The row with its moments moved; those of the sample's columns that are moments are called so."""
    moments = {name: row[name] + shift_s for name in row if _is_moment(name) and row[name] is not None}
    return {**row, **moments}


def _is_moment(name: str) -> bool:
    return name == "at" or name.endswith("_at")


def _columns(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if column.name not in LEFT_OUT[table]]


def _rows_of(connection: Connection, table: Table) -> list[Row]:
    wanted = select(*_columns(table)).order_by(*table.primary_key.columns)
    return [dict(row) for row in connection.execute(wanted).mappings()]
