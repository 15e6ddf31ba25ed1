"""Rows that come at once go in by one statement; a bad one among them still fails alone, and order is kept."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, Text, event, func, select

from tale.exceptions import DatabaseException
from tale.storage.engines import make_engine, parse_url
from tale.storage.writer import Writer

METADATA = MetaData()
ITEM = Table("item", METADATA, Column("id", Integer, primary_key=True), Column("value", Text))
OTHER = Table("other", METADATA, Column("id", Integer, primary_key=True), Column("value", Text))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = make_engine(parse_url(f"sqlite:///{tmp_path}/w.db"), "write", busy_timeout_s=0.05)
    METADATA.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def writer(engine: Engine) -> Iterator[Writer]:
    writer = Writer(engine)
    writer.start()
    yield writer
    writer.close()


async def in_one_batch(writer: Writer, *rows: tuple[Table, int]) -> list[BaseException | None]:
    """How the rows fared that queued up while the writer was busy."""
    entered, opened = threading.Event(), threading.Event()

    def busy(connection: Connection) -> None:
        entered.set()
        opened.wait()

    held = asyncio.create_task(writer.submit(busy))
    await asyncio.to_thread(entered.wait)
    waiting = [asyncio.create_task(writer.insert(table, {"id": number, "value": "x"})) for table, number in rows]
    await asyncio.sleep(0)  # each task runs up to its first wait
    opened.set()
    await held
    return await asyncio.gather(*waiting, return_exceptions=True)


async def ids(writer: Writer, table: Table) -> list[int]:
    return await writer.submit(lambda connection: list(connection.scalars(select(table.c.id).order_by(table.c.id))))


async def test_rows_of_one_table_that_stand_beside_each_other_go_in_by_one_statement(
    writer: Writer, engine: Engine
) -> None:
    statements: list[tuple[str, bool]] = []

    def note(_connection: object, _cursor: object, text: str, _values: object, _context: object, many: bool) -> None:
        if text.startswith("INSERT"):
            statements.append((text.split()[2], many))

    event.listen(engine, "before_cursor_execute", note)
    outcome = await in_one_batch(writer, (ITEM, 1), (ITEM, 2), (OTHER, 1), (ITEM, 3), (ITEM, 4), (ITEM, 5))
    assert outcome == [None] * 6
    assert statements == [("item", True), ("other", False), ("item", True)]
    assert await ids(writer, ITEM) == [1, 2, 3, 4, 5]


async def test_a_bad_row_among_many_fails_alone(writer: Writer) -> None:
    outcome = await in_one_batch(writer, (ITEM, 1), (ITEM, 2), (ITEM, 1), (OTHER, 1), (ITEM, 3))
    assert [isinstance(error, DatabaseException) for error in outcome] == [False, False, True, False, False]
    assert await ids(writer, ITEM) == [1, 2, 3]
    assert await ids(writer, OTHER) == [1]


async def test_a_row_and_a_work_that_counts_it_keep_their_order(writer: Writer) -> None:
    def count(connection: Connection) -> int | None:
        return connection.scalar(select(func.count()).select_from(ITEM))

    inserts = [writer.insert(ITEM, {"id": number}) for number in range(3)]
    *_, before, _last, after = await asyncio.gather(
        *inserts, writer.submit(count), writer.insert(ITEM, {"id": 3}), writer.submit(count)
    )
    assert (before, after) == (3, 4)
