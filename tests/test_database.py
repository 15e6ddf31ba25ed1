"""A database opens up to date or says why not; what it acknowledged survives; errors are sentences."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Connection, insert, make_url, select, text

from tale.exceptions import DatabaseException
from tale.storage.database import Database
from tale.storage.engines import parse_url
from tale.storage.faults import POSTGRESQL_FAULTS, SQLITE_FAULTS, named
from tale.storage.tables import meta, metadata, model_calls

NOBODY = 65_534


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tale.db"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database.open(url)
    yield database
    await database.close()


def putting(key: str) -> Callable[[Connection], None]:
    """A work that puts one row into the table `meta`."""

    def work(connection: Connection) -> None:
        connection.execute(insert(meta), {"key": key, "value": ""})

    return work


def keys(connection: Connection) -> list[str]:
    return list(connection.scalars(select(meta.c.key).order_by(meta.c.key)))


async def test_a_new_database_has_all_tables_and_an_id_of_its_own(database: Database, url: str, tmp_path: Path) -> None:
    tables = await database.read(lambda c: set(c.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'"))))
    assert tables == {*metadata.tables, "alembic_version"}
    assert UUID(database.id).version == 4
    again = Database.open(url)
    assert again.id == database.id
    await again.close()
    other = Database.open(f"sqlite:///{tmp_path}/other.db")
    assert other.id != database.id
    await other.close()


async def test_only_the_owner_may_read_the_file(database: Database, tmp_path: Path) -> None:
    assert (tmp_path / "tale.db").stat().st_mode & 0o077 == 0


async def test_sqlite_is_set_up_for_durable_writes(database: Database) -> None:
    def pragma(name: str) -> object:
        return lambda c: c.exec_driver_sql(f"PRAGMA {name}").scalar_one()

    found = [await database.write(pragma(name)) for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert found == ["wal", 2, 1]


async def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/a/b c/50%/tale.db")
    await database.write(putting("k"))
    assert "k" in await database.read(keys)
    await database.close()


async def test_reads_see_what_was_written_and_cannot_write(database: Database) -> None:
    await database.write(putting("k"))
    assert "k" in await database.read(keys)
    with pytest.raises(DatabaseException, match="read-only"):
        await database.read(putting("other"))


async def test_many_reads_run_while_others_write(database: Database) -> None:
    writes = [database.write(putting(f"{number:03}")) for number in range(100)]
    reads = [database.read(keys) for _ in range(100)]
    await asyncio.gather(*writes, *reads)
    assert len(await database.read(keys)) == 101


async def test_a_read_sees_one_state_of_the_database(database: Database) -> None:
    loop = asyncio.get_running_loop()

    def twice(connection: Connection) -> tuple[int, int]:
        before = len(keys(connection))
        asyncio.run_coroutine_threadsafe(database.write(putting("meanwhile")), loop).result()
        return before, len(keys(connection))

    assert await database.read(twice) == (1, 1)
    assert len(await database.read(keys)) == 2


async def test_a_database_in_memory_works_and_is_nobody_elses() -> None:
    first, second = Database.open("sqlite://"), Database.open("sqlite:///:memory:")
    await first.write(putting("k"))
    assert await first.read(keys) == ["database_id", "k"]
    assert await second.read(keys) == ["database_id"]
    assert first.id != second.id
    await first.close()
    await second.close()
    with pytest.raises(DatabaseException, match="closed"):
        await first.read(keys)


async def test_closing_keeps_what_was_queued_and_refuses_the_rest(url: str) -> None:
    database = Database.open(url)
    writes = [asyncio.create_task(database.write(putting(f"{number:03}"))) for number in range(300)]
    await asyncio.sleep(0)
    await database.close()
    await database.close()
    await asyncio.gather(*writes)
    for refused in (database.write(putting("late")), database.read(keys)):
        with pytest.raises(DatabaseException, match="closed"):
            await refused
    again = Database.open(url)
    assert len(await again.read(keys)) == 301
    await again.close()


def test_a_closed_database_leaves_one_file(url: str, tmp_path: Path) -> None:
    async def use() -> None:
        database = Database.open(url)
        await database.write(putting("k"))
        await database.read(keys)
        await database.close()

    asyncio.run(use())
    assert [path.name for path in tmp_path.iterdir()] == ["tale.db"]


WRITE_UNTIL_KILLED = """
import asyncio, sys
from sqlalchemy import insert
from tale.storage.database import Database
from tale.storage.tables import meta

async def main():
    database = Database.open(sys.argv[1])
    async def write(start):
        for number in range(start, 10**9, 20):
            await database.write(lambda c, n=number: c.execute(insert(meta), {"key": str(n), "value": ""}).rowcount)
            print(number, flush=True)
    await asyncio.gather(*(write(start) for start in range(20)))

asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_acknowledged(url: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITE_UNTIL_KILLED, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(500)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    acknowledged += [line for line in rest.split("\n")[:-1] if line]

    async def look() -> tuple[set[str], str]:
        database = Database.open(url)
        kept = set(await database.read(keys))
        state = await database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar_one())
        await database.close()
        return kept, state

    kept, state = asyncio.run(look())
    assert set(acknowledged) <= kept
    assert state == "ok"


def test_processes_that_make_the_database_at_once_agree(url: str) -> None:
    code = (
        "import asyncio, sys; from tale.storage.database import Database; d = Database.open(sys.argv[1]); "
        "print(d.id); asyncio.run(d.close())"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ids = {process.communicate()[0] for process in started}
    assert len(ids) == 1
    assert [process.returncode for process in started] == [0, 0, 0]


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
    rows = [{"id": str(number), **row} for number in range(500)]
    await database.write(lambda c: c.execute(insert(model_calls), rows).rowcount)
    await database.close()
    path = tmp_path / "tale.db"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
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
    from sqlalchemy.exc import DBAPIError

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


def test_opening_an_up_to_date_database_imports_no_alembic(url: str) -> None:
    asyncio.run(Database.open(url).close())
    code = (
        "import asyncio, sys; from tale.storage.database import Database; "
        "asyncio.run(Database.open(sys.argv[1]).close()); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, url], check=False).returncode == 0
