"""Whatever is wrong with a database is said in one sentence, with the way out."""

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import insert, make_url, select, text
from sqlalchemy.exc import DBAPIError

from tale.exceptions import DatabaseException
from tale.storage.database import Database
from tale.storage.engines import parse_url
from tale.storage.faults import POSTGRESQL_FAULTS, SQLITE_FAULTS, named
from tale.storage.tables import meta, model_calls

NOBODY = 65_534

pytestmark = pytest.mark.usefixtures("migrated")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tale.db"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database.open(url)
    yield database
    await database.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Not a database. " * 100)
    with pytest.raises(DatabaseException, match="not a SQLite database") as caught:
        Database.open(f"sqlite:///{path}")
    assert caught.value.context["database"] == str(path)
    assert path.read_text() == "Not a database. " * 100


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "cookies.db")
    connection.execute("CREATE TABLE cookies (id)")
    connection.close()
    with pytest.raises(DatabaseException, match="belongs to another program"):
        Database.open(f"sqlite:///{tmp_path}/cookies.db")


async def test_a_database_without_its_id_is_refused(url: str) -> None:
    database = Database.open(url)
    await database.write(lambda c: c.execute(meta.delete()).rowcount)
    await database.close()
    with pytest.raises(DatabaseException, match="lost its id"):
        Database.open(url)


@pytest.mark.parametrize("new", [True, False])
async def test_a_locked_database_is_said_to_be_locked(url: str, tmp_path: Path, new: bool) -> None:
    if not new:
        await Database.open(url).close()
    other = sqlite3.connect(tmp_path / "tale.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DatabaseException, match="locked by another program; close it and try again"):
        Database.open(url, busy_timeout_s=0.05)
    other.close()
    await Database.open(url).close()


async def test_a_damaged_database_is_said_to_be_damaged(url: str, tmp_path: Path) -> None:
    database = Database.open(url)
    row = {"role": "task", "operation": "chat", "model": "m" * 500, "provider": "p", "started_at": 1.0}
    rows = [{"id": str(number), **row} for number in range(5_000)]  # beyond the tables that are looked at by a start
    await database.write(lambda c: c.execute(insert(model_calls), rows).rowcount)
    await database.close()
    path = tmp_path / "tale.db"
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4 :] = b"\xff" * (len(data) - len(data) * 3 // 4)
    path.write_bytes(data)
    database = Database.open(url)
    with pytest.raises(DatabaseException, match="damaged; put back a copy"):
        await database.read(lambda c: c.execute(select(model_calls)).all())
    await database.close()


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Root may write everywhere; this drops it for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def protected(url: str) -> Iterator[Path]:
    """A folder with a database that others may read and nobody may write."""
    asyncio.run(Database.open(url).close())  # imports what an upgrade needs while everything can be read
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(Database.open(f"sqlite:///{folder}/tale.db").close())
        (folder / "tale.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_read_only_file_is_said_to_be_read_only(protected: Path) -> None:
    protected.chmod(0o777)
    with as_an_ordinary_user(), pytest.raises(DatabaseException, match="make its file and its folder writable"):
        Database.open(f"sqlite:///{protected}/tale.db")


def test_a_read_only_folder_is_named(protected: Path) -> None:
    (protected / "tale.db").chmod(0o666)
    with as_an_ordinary_user(), pytest.raises(DatabaseException, match="make its file and its folder writable"):
        Database.open(f"sqlite:///{protected}/tale.db")
    with as_an_ordinary_user(), pytest.raises(DatabaseException, match="this user may write there"):
        Database.open(f"sqlite:///{protected}/new.db")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseException, match="see that its folder exists") as caught:
        Database.open(f"sqlite:///{tmp_path}/file/tale.db")
    assert caught.value.context["cause"] == "File exists"


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseException, match="cannot be opened"):
        Database.open(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize(
    "url", ["tale.db", "mysql://root@host/tale", "sqlite:///tale.db?mode=ro", "sqlite+aiosqlite:///tale.db", ""]
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(DatabaseException, match=r"use sqlite:////folder/tale\.db"):
        Database.open(url)


def test_passwords_are_not_shown() -> None:
    with pytest.raises(DatabaseException) as caught:
        Database.open("mysql://root:secret@host/tale")
    assert "secret" not in str(caught.value)


def test_a_postgresql_server_that_is_not_there_is_named() -> None:
    pytest.importorskip("psycopg", exc_type=ImportError)
    with pytest.raises(DatabaseException, match="no connection to the database server") as caught:
        Database.open("postgresql://user:secret@127.0.0.1:1/tale")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://h/d", "postgres://h/d", "postgresql+psycopg://h/d"])
def test_postgresql_is_spoken_to_by_psycopg(url: str) -> None:
    assert parse_url(url).drivername == "postgresql+psycopg"


def test_a_relative_file_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_url("sqlite:///tale.db").database == str(tmp_path / "tale.db")


class DriverError(Exception):
    """What a driver raises, as far as it is looked at."""

    def __init__(self, *, sqlite_errorname: str | None = None, sqlstate: str | None = None) -> None:
        super().__init__("cause")
        if sqlite_errorname:
            self.sqlite_errorname = sqlite_errorname
        if sqlstate:
            self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        *((DriverError(sqlite_errorname=f"{code}_MORE"), sentence) for code, sentence in SQLITE_FAULTS),
        *((DriverError(sqlstate=f"{code:0<5}"), sentence) for code, sentence in POSTGRESQL_FAULTS),
        (DriverError(sqlite_errorname="SQLITE_ERROR"), "The database could not do what was asked."),
        (DriverError(), "The database could not do what was asked."),
    ],
)
def test_every_known_fault_has_its_sentence(error: DriverError, sentence: str) -> None:
    found = named(DBAPIError("SELECT 1", None, error), make_url("sqlite:////tale.db"))
    assert (found.message, found.context) == (sentence, {"database": "/tale.db", "cause": "cause"})


async def test_an_error_in_the_statement_is_told_without_its_values(database: Database) -> None:
    with pytest.raises(DatabaseException, match="could not do what was asked") as caught:
        await database.read(lambda c: c.execute(text("SELECT :secret FROM nowhere"), {"secret": "hidden"}))
    assert "no such table: nowhere" in str(caught.value)
    assert "hidden" not in str(caught.value)


async def test_a_wrong_use_of_the_library_is_told_too(database: Database) -> None:
    with pytest.raises(DatabaseException, match="could not do what was asked"):
        await database.read(lambda c: c.execute(select(meta).where(meta.c.key == "")).one())
