"""Makes the connections of one database: who may write, how SQLite is set up, where transactions begin."""

import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import URL, Connection, Engine, StaticPool, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from tale.exceptions import DatabaseException
from tale.storage.faults import place

READERS: Final = 4
WAL_LIMIT_BYTES: Final = 64 * 2**20
LOCK_PAUSE_S: Final = 0.02
PRIMARY_CODE: Final = 0xFF  # of SQLite's extended codes

Use = Literal["write", "read", "upgrade"]


def parse_url(url: str) -> URL:
    """The URL with its driver named and a SQLite file made absolute. Raises DatabaseException for another database."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseException(
            "The database URL cannot be read; use sqlite:////folder/tale.db or postgresql://user:password@host/name."
        ) from error
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite") or parsed.query or parsed.host:
        raise DatabaseException(
            "The database URL is not of a kind tale can use; use sqlite:////folder/tale.db without options, "
            "or postgresql://user:password@host/name.",
            {"database": parsed.render_as_string(hide_password=True)},
        )
    if is_in_memory(parsed):
        return parsed
    return parsed.set(database=str(Path(parsed.database or "").expanduser().absolute()))


def is_in_memory(url: URL) -> bool:
    """Whether the database lives in this process only."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:")


def file_of(url: URL) -> Path | None:
    """The file of a SQLite database; None for one in memory and for PostgreSQL."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database and not is_in_memory(url) else None


def postgresql_dsn(url: str) -> str | None:
    """The URL of a PostgreSQL database, with its password, as its own drivers read it; None for SQLite."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return None
    return parsed.set(drivername="postgresql").render_as_string(hide_password=False)


def make_engine(url: URL, use: Use, *, busy_timeout_s: float) -> Engine:
    """An engine that connects on first use. `busy_timeout_s` is how long SQLite waits for another process's lock."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, use, busy_timeout_s)
    try:
        engine = create_engine(url, pool_size=READERS if use == "read" else 1, max_overflow=0, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise DatabaseException("PostgreSQL needs its driver; install it with: pip install 'tale[postgres]'") from error
    return engine.execution_options(postgresql_readonly=True) if use == "read" else engine


def create_file(path: Path) -> None:
    """Make an empty file that only its owner may read, unless it is there; raises DatabaseException."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise DatabaseException(
            "The database file cannot be made; see that its folder exists and that this user may write there.",
            {"database": str(path), "cause": error.strerror or str(error)},
        ) from error


def _sqlite_engine(url: URL, use: Use, busy_timeout_s: float) -> Engine:
    options: dict[str, Any] = {"connect_args": {"timeout": busy_timeout_s, "check_same_thread": False}}
    target = url
    if is_in_memory(url):
        options["poolclass"] = StaticPool
    elif use == "read":
        options |= {"pool_size": READERS, "max_overflow": 0}
        target = url.set(database=Path(place(url)).as_uri(), query={"mode": "ro", "uri": "true"})
    else:
        options |= {"pool_size": 1, "max_overflow": 0}
    engine = create_engine(target, **options)

    def set_up(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # sqlite3 begins no transactions of its own, so that DDL is inside ours
        if use != "read":
            _write_ahead(connection, busy_timeout_s)
        for pragma in _pragmas(use):
            connection.execute(f"PRAGMA {pragma}")

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if use == "read" else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", set_up)
    event.listen(engine, "begin", begin)
    return engine


def _write_ahead(connection: DBAPIConnection, patience_s: float) -> None:
    """Turn to a write-ahead log, for whose lock SQLite does not wait when several make a database at once."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(LOCK_PAUSE_S)
        else:
            return


def _pragmas(use: Use) -> tuple[str, ...]:
    if use == "read":
        return ("query_only=ON",)
    # A table that a migration makes anew takes its name back inside the transaction: foreign keys are checked after.
    foreign_keys = "OFF" if use == "upgrade" else "ON"
    return (
        "synchronous=FULL",
        f"foreign_keys={foreign_keys}",
        f"journal_size_limit={WAL_LIMIT_BYTES}",
    )
