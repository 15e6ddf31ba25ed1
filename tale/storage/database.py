"""The database of a process: opened up to date, written by one thread, read by a few."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, Insert, Table, select, update

from tale.exceptions import DatabaseException
from tale.storage.engines import READERS, is_in_memory, make_engine, parse_url
from tale.storage.faults import faults_named, place
from tale.storage.rows import upsert_statement
from tale.storage.tables import meta
from tale.storage.upgrade import BUSY_TIMEOUT_S, upgrade_engine
from tale.storage.writer import Writer

DATABASE_ID: Final = "database_id"

T = TypeVar("T")


class Database:
    """One writer thread with group commit, and up to four readers; made by `Database.open`, ended by `close`.

    `id` is the UUID that the database was given when it was made; `url` holds no password.
    """

    def __init__(self, url: URL, database_id: str, writer_engine: Engine, reader_engine: Engine | None) -> None:
        self.id = database_id
        self.url = url.render_as_string(hide_password=True)
        self._url = url
        self._writer_engine = writer_engine
        self._reader_engine = reader_engine
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="tale-reader")
        self._writer = Writer(writer_engine)
        self._writer.start()
        self._upserts: dict[Table, Insert] = {}
        self._closed = False

    @classmethod
    def open(cls, url: str, *, backup_folder: Path | None = None, busy_timeout_s: float = BUSY_TIMEOUT_S) -> "Database":
        """Open the database of a SQLAlchemy URL, made or upgraded first; blocks. "sqlite://" is one in memory.

        Before an upgrade the file is copied into `backup_folder` (default: `backups` beside it). `busy_timeout_s`
        is how long to wait while another process holds the file's lock. Raises DatabaseException.
        """
        parsed = parse_url(url)
        engine = make_engine(parsed, "write", busy_timeout_s=busy_timeout_s)
        try:
            upgrade_engine(engine, parsed, backup_folder, busy_timeout_s=busy_timeout_s)
            database_id = _checked_id(engine, parsed)
        except DatabaseException:
            engine.dispose()
            raise
        reader = None if is_in_memory(parsed) else make_engine(parsed, "read", busy_timeout_s=busy_timeout_s)
        return cls(parsed, database_id, engine, reader)

    async def write(self, work: Callable[[Connection], T], *, ends: bool = False) -> T:
        """Run `work` in the next commit; returns its result when that is durable.

        The work gets a connection inside a transaction. It may be run twice (see Writer), must not commit, and once
        accepted is carried out even when the caller is cancelled. Raises DatabaseException, and what the work raises.
        With `ends` it ends what was let in before, and is taken however much waits.
        """
        return await self._writer.submit(work, ends=ends)

    def insert(self, table: Table, values: Mapping[str, Any]) -> Awaitable[None]:
        """Add a row in the next commit; cheaper than `write` where many come at once. Raises DatabaseException.

        It is handed over when this returns, and durable when what is returned has been awaited.
        """
        return self._writer.insert(table, values)

    def upsert(self, table: Table, values: Mapping[str, Any]) -> Awaitable[None]:
        """Put a row with all its columns in place of the one with the same key, or add it; as cheap as `insert`.

        It ends what was let in before: it is taken however much waits. Raises DatabaseException.
        """
        statement = self._upserts.get(table)
        if statement is None:
            statement = self._upserts[table] = upsert_statement(self._writer_engine.dialect.name, table)
        return self._writer.put(statement, values, ends=True)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a thread, on a read-only connection that sees one state of the database. Raises likewise."""
        if self._reader_engine is None:  # a database in memory has one connection, which is the writer's
            return await self._writer.submit(work)
        if self._closed:
            raise DatabaseException("The database is closed; nothing more can be read.")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, self._reader_engine, work)

    async def check(self) -> None:
        """Raise DatabaseException unless the database answers."""
        await self.read(lambda connection: connection.scalar(select(1)))

    async def close(self) -> None:
        """Commit what waits, let reads end, and close all connections. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._close)

    def _read(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        with faults_named(self._url), engine.begin() as connection:
            return work(connection)

    def _close(self) -> None:
        self._writer.close()
        self._readers.shutdown()
        if self._reader_engine is not None:
            self._reader_engine.dispose()
        self._writer_engine.dispose()


def _checked_id(engine: Engine, url: URL) -> str:
    """The database's id, read from a database that can be written."""
    with faults_named(url), engine.begin() as connection:
        connection.execute(update(meta).where(meta.c.key == "").values(value=""))  # changes no row; says if read-only
        database_id = connection.scalar(select(meta.c.value).where(meta.c.key == DATABASE_ID))
    if database_id is None:
        raise DatabaseException("The database has lost its id; put back a copy.", {"database": place(url)})
    return database_id
