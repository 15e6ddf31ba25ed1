"""Between rows and records: how a record is stored, and a row read, by the names of its fields."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert

from tale.records import (
    AccessKey,
    Attempt,
    Conversation,
    ConversationTurn,
    Correction,
    McpCall,
    ModelCall,
    Task,
    TaskStatus,
)

Record = Task | Attempt | ModelCall | McpCall | Conversation | ConversationTurn | Correction | AccessKey
R = TypeVar("R", Attempt, ModelCall, Conversation, ConversationTurn, Correction)


def values_of(record: Record) -> dict[str, Any]:
    """The record's fields by name; they are the columns of its table."""
    return {name: getattr(record, name) for name in _names_of(type(record))}


@cache
def _names_of(kind: type[Record]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def record_of(row: RowMapping, kind: type[R]) -> R:
    """The record whose fields the row's columns are."""
    return kind(**row)


def task_of(row: RowMapping) -> Task:
    """The task a row tells of."""
    values: dict[str, Any] = dict(row)
    values["status"] = TaskStatus(values["status"])
    return Task(**values)


def insert_into(connection: Connection, table: Table) -> SqliteInsert | PostgresqlInsert:
    """An INSERT that knows ON CONFLICT, in the words of the connection's database; both read the same."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def upsert_statement(dialect: str, table: Table) -> SqliteInsert | PostgresqlInsert:
    """An INSERT of all columns that puts the row in place of the one with the same primary key."""
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)


def upsert(connection: Connection, table: Table, values: Mapping[str, Any], *, keys: Sequence[str]) -> None:
    """Insert the row, or replace the one with the same keys."""
    statement = insert_into(connection, table)
    changed = {name: statement.excluded[name] for name in values if name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=list(keys), set_=changed), values)
