"""Puts rows into the database in one step, past SQLAlchemy, for what is written at every request."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from sqlalchemy import Connection, Engine, Insert

MOST_ROWS: Final = 64  # a statement; its text is kept for each number of rows
NAMED_PLACE: Final = re.compile(r"%\(\w+\)s")  # of a value, in psycopg's statements

Values = Mapping[str, Any]
Rows = tuple[Insert, Sequence[Values]]
Step = tuple[str, Sequence[Any]]  # a statement as the driver takes it, and its parameters

logger = logging.getLogger(__name__)


class QuickRows:
    """Adds rows by INSERTs that hold many of them each, in a transaction of their own or in one that is open.

    A thread lets go of the interpreter at each step of the database's and then has to get it back from the event loop,
    which costs more than the step. A statement that holds all rows lets go once, and alone it begins and commits, too.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._prepared: dict[Insert, _Prepared] = {}

    def add(self, rows: Sequence[Rows]) -> bool:
        """Add all rows and commit; False where it cannot be done so or failed, and then nothing has changed."""
        try:
            self._run([step for each in rows for step in self._steps(each)])
        except Exception as error:  # noqa: BLE001 - it comes again, and is named, in the way that the caller takes then
            logger.debug("Rows could not be added quickly: %s", error)
            return False
        return True

    def add_within(self, connection: Connection, rows: Rows) -> None:
        """Add rows in the open transaction of a connection; raises the driver's errors, or SQLAlchemy's."""
        try:
            steps = list(self._steps(rows))
        except KeyError:
            connection.execute(*rows)
            return
        driver = cast("Any", connection.connection.driver_connection)
        for text, parameters in steps:
            driver.execute(text, parameters)

    def _steps(self, rows: Rows) -> Iterator[Step]:
        """The statements that add the rows; raises KeyError where a column is left to its default."""
        statement, values = rows
        prepared = self._prepared.get(statement)
        if prepared is None:
            prepared = self._prepared[statement] = _Prepared(statement, self._engine)
        for first in range(0, len(values), MOST_ROWS):
            some = values[first : first + MOST_ROWS]
            yield prepared.text(len(some)), prepared.parameters(some)

    def _run(self, steps: Sequence[Step]) -> None:
        """Run the steps in one transaction; a single one is a transaction by itself."""
        pooled = self._engine.raw_connection()
        connection = cast("Any", pooled.driver_connection)
        is_sqlite = self._engine.dialect.name == "sqlite"
        try:
            if is_sqlite:
                _run_on_sqlite(connection, steps)
            else:
                _run_on_postgresql(connection, steps)
        except BaseException:
            if not is_sqlite:
                pooled.invalidate()  # it may be broken; the next one is new
            raise
        finally:
            pooled.close()  # which rolls back what was not committed


def _run_on_sqlite(connection: Any, steps: Sequence[Step]) -> None:
    if len(steps) == 1:
        connection.execute(*steps[0])
        return
    connection.execute("BEGIN IMMEDIATE")
    for text, parameters in steps:
        connection.execute(text, parameters)
    connection.execute("COMMIT")


def _run_on_postgresql(connection: Any, steps: Sequence[Step]) -> None:
    if len(steps) > 1:
        for text, parameters in steps:
            connection.execute(text, parameters)
        connection.commit()
        return
    connection.autocommit = True
    connection.execute(*steps[0])
    connection.autocommit = False


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
