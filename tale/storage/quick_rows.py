"""Puts rows into SQLite in one step of its engine, past SQLAlchemy, for what is written at every request."""

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from sqlalchemy import Engine, Insert

MOST_ROWS: Final = 64  # at once; the text of a statement is kept for each number of rows

Values = Mapping[str, Any]

logger = logging.getLogger(__name__)


class QuickRows:
    """Adds rows of one INSERT at a time, each time in a transaction of its own.

    A thread lets go of the interpreter at each step of SQLite's and then has to get it back from the event loop, which
    costs more than the step. One statement that holds all rows, and begins and commits by itself, lets go once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prepared: dict[Insert, _Prepared] = {}

    def add(self, statement: Insert, rows: Sequence[Values]) -> bool:
        """Add the rows and commit; False where it cannot be done so or failed, and then nothing has changed."""
        if len(rows) > MOST_ROWS:
            return False
        try:
            prepared = self._prepared.get(statement)
            if prepared is None:
                prepared = self._prepared[statement] = _Prepared(statement, self._engine)
            text, parameters = prepared.text(len(rows)), prepared.parameters(rows)
            connection = self._engine.raw_connection()
            try:
                cast("sqlite3.Connection", connection.driver_connection).execute(text, parameters)
            finally:
                connection.close()
        except Exception as error:  # noqa: BLE001 - it comes again, and is named, in the way that the caller takes then
            logger.debug("Rows could not be added quickly: %s", error)
            return False
        return True


class _Prepared:
    """An INSERT of all columns of its table: its text for any number of rows, and rows as the driver takes them."""

    def __init__(self, statement: Insert, engine: Engine) -> None:
        columns = list(statement.table.columns)
        compiled = str(statement.compile(engine, column_keys=[column.name for column in columns]))
        self._row = f"({', '.join('?' * len(columns))})"
        self._head, self._tail = compiled.split(self._row)
        self._texts: dict[int, str] = {}
        types = [column.type.dialect_impl(engine.dialect) for column in columns]
        self._columns = [
            (column.name, kind.bind_processor(engine.dialect)) for column, kind in zip(columns, types, strict=True)
        ]

    def text(self, rows: int) -> str:
        """The statement for so many rows."""
        text = self._texts.get(rows)
        if text is None:
            text = self._texts[rows] = self._head + ", ".join([self._row] * rows) + self._tail
        return text

    def parameters(self, rows: Sequence[Values]) -> list[Any]:
        """The values of the rows in the order of the text; raises KeyError where a column is left to its default."""
        return [
            values[name] if process is None else process(values[name])
            for values in rows
            for name, process in self._columns
        ]
