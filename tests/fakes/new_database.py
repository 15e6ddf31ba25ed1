"""New databases in a moment: what the migrations make is made once a test process, and put into each new file."""

import sqlite3
import uuid
from contextlib import closing, suppress
from functools import cache
from pathlib import Path

from sqlalchemy import URL, Engine

from tale.exceptions import DatabaseException
from tale.storage.engines import create_file, file_of, make_engine, parse_url
from tale.storage.upgrade import MIGRATIONS, UpgradeReport, upgrade_engine


def upgraded(
    engine: Engine, url: URL, backup_folder: Path | None, *, busy_timeout_s: float, migrations: Path = MIGRATIONS
) -> UpgradeReport:
    """As `upgrade_engine`, which finds nothing left to do where the database is SQLite's and new."""
    path = file_of(url)
    if url.get_backend_name() == "sqlite" and migrations == MIGRATIONS and not (path and path.exists()):
        with suppress(DatabaseException, sqlite3.Error):  # the real one then says what is wrong
            _fill(engine, path)
    return upgrade_engine(engine, url, backup_folder, busy_timeout_s=busy_timeout_s, migrations=migrations)


def statements(database_id: str) -> str:
    """What makes a new database with that id, in one transaction."""
    made, its_id = _made()
    return made.replace(its_id, database_id)


def _fill(engine: Engine, path: Path | None) -> None:
    script = statements(str(uuid.uuid4()))
    if path is None:
        with closing(engine.raw_connection()) as pooled:  # the only one there is
            pooled.driver_connection.executescript(script)
        return
    create_file(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        connection.executescript(script)


@cache
def _made() -> tuple[str, str]:
    """The statements that make what the migrations made, and the id in them."""
    url = parse_url("sqlite://")
    engine = make_engine(url, "write", busy_timeout_s=1)
    upgrade_engine(engine, url, None, busy_timeout_s=1)
    with closing(engine.raw_connection()) as pooled:
        made = "\n".join(pooled.driver_connection.iterdump())
        (its_id,) = pooled.driver_connection.execute("SELECT value FROM meta WHERE key = 'database_id'").fetchone()
    engine.dispose()
    return made, its_id
