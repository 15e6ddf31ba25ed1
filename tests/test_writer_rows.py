"""Rows that come at once go in by one statement; a bad one among them still fails alone, and order is kept."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, Text, func, select

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
        opened.wait(10)

    held = asyncio.create_task(writer.submit(busy))
    await asyncio.to_thread(entered.wait)
    try:
        waiting = [writer.insert(table, {"id": number, "value": "x"}) for table, number in rows]
    finally:
        opened.set()
    await held
    return await asyncio.gather(*waiting, return_exceptions=True)


async def ids(writer: Writer, table: Table) -> list[int]:
    return await writer.submit(lambda connection: list(connection.scalars(select(table.c.id).order_by(table.c.id))))


async def test_rows_of_one_table_go_in_by_one_statement(writer: Writer, engine: Engine) -> None:
    statements: list[str] = []
    with engine.connect() as connection:  # the writer's, which is the only one
        cast("sqlite3.Connection", connection.connection.driver_connection).set_trace_callback(statements.append)
    outcome = await in_one_batch(writer, (ITEM, 1), (ITEM, 2), (OTHER, 1), (ITEM, 3), (ITEM, 4), (ITEM, 5))
    assert outcome == [None] * 6
    inserted = [(text.split()[2], text.count("'x'")) for text in statements if text.startswith("INSERT")]
    assert inserted == [("item", 5), ("other", 1)]
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
    counting = asyncio.create_task(writer.submit(count))
    await asyncio.sleep(0)  # it runs up to its first wait
    last = writer.insert(ITEM, {"id": 3})
    after = await writer.submit(count)
    await asyncio.gather(*inserts, last)
    assert (await counting, after) == (3, 4)
