"""Puts rows into the database in one step, past SQLAlchemy, for what is written at every request."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from sqlalchemy import Engine, Insert

MOST_ROWS: Final = 64  # at once; the text of a statement is kept for each number of rows
NAMED_PLACE: Final = re.compile(r"%\(\w+\)s")  # of a value, in psycopg's statements

Values = Mapping[str, Any]

logger = logging.getLogger(__name__)


class QuickRows:
    """Adds rows of one INSERT at a time, each time in a transaction of its own.

    A thread lets go of the interpreter at each step of the database's and then has to get it back from the event loop,
    which costs more than the step. One statement that holds all rows, and begins and commits by itself, lets go once.
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
            self._run(text, parameters)
        except Exception as error:  # noqa: BLE001 - it comes again, and is named, in the way that the caller takes then
            logger.debug("Rows could not be added quickly: %s", error)
            return False
        return True

    def _run(self, text: str, parameters: Sequence[Any]) -> None:
        """Run a statement as a transaction of its own, which on SQLite's connections every statement is."""
        pooled = self._engine.raw_connection()
        connection = cast("Any", pooled.driver_connection)
        if self._engine.dialect.name == "sqlite":
            try:
                connection.execute(text, parameters)
            finally:
                pooled.close()
            return
        try:
            connection.autocommit = True
            connection.execute(text, parameters)
            connection.autocommit = False
        except BaseException:
            pooled.invalidate()  # it may be broken; the next one is new
            raise
        pooled.close()


class _Prepared:
    """An INSERT of all columns of its table: its text for any number of rows, and rows as the driver takes them."""

    def __init__(self, statement: Insert, engine: Engine) -> None:
        columns = list(statement.table.columns)
        compiled = str(statement.compile(engine, column_keys=[column.name for column in columns]))
        self._head, _, row = compiled.partition(" VALUES (")
        row, end, tail = row.partition(") ON CONFLICT")
        self._row = NAMED_PLACE.sub("%s", f"({row if end else row.removesuffix(')')})")
        self._tail = end.removeprefix(")") + tail
        self._texts: dict[int, str] = {}
        types = [column.type.dialect_impl(engine.dialect) for column in columns]
        self._columns = [
            (column.name, kind.bind_processor(engine.dialect)) for column, kind in zip(columns, types, strict=True)
        ]

    def text(self, rows: int) -> str:
        """The statement for so many rows."""
        text = self._texts.get(rows)
        if text is None:
            text = self._texts[rows] = f"{self._head} VALUES {', '.join([self._row] * rows)}{self._tail}"
        return text

    def parameters(self, rows: Sequence[Values]) -> list[Any]:
        """The values of the rows in the order of the text; raises KeyError where a column is left to its default."""
        return [
            values[name] if process is None else process(values[name])
            for values in rows
            for name, process in self._columns
        ]
