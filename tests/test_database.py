"""A database opens up to date or says why not; what it acknowledged survives; errors are sentences."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Connection, insert, select, text

from tale.exceptions import DatabaseException
from tale.storage import learning_tables, monitoring_tables
from tale.storage.columns import metadata
from tale.storage.database import Database
from tale.storage.tables import meta

ALL_TABLES = (learning_tables.metadata, monitoring_tables.metadata)  # those of all modules are the one metadata

pytestmark = pytest.mark.usefixtures("migrated")


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


def test_opening_an_up_to_date_database_imports_no_alembic(url: str) -> None:
    asyncio.run(Database.open(url).close())
    code = (
        "import asyncio, sys; from tale.storage.database import Database; "
        "asyncio.run(Database.open(sys.argv[1]).close()); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, url], check=False).returncode == 0


async def test_a_check_tells_whether_the_database_answers(url: str) -> None:
    database = Database.open(url)
    await database.check()
    await database.close()
    with pytest.raises(DatabaseException, match="closed"):
        await database.check()
