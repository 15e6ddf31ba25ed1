"""Upgrades keep what was there, or change nothing and say how to go back."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, insert

from tale.exceptions import DatabaseException, ValidationException
from tale.storage import learning_tables, monitoring_tables
from tale.storage.backup import KEPT_BACKUPS, backup
from tale.storage.columns import metadata
from tale.storage.database import Database
from tale.storage.tables import SCHEMA_REVISION, meta
from tale.storage.upgrade import MIGRATIONS, UpgradeReport, upgrade

ALL_TABLES = (learning_tables.metadata, monitoring_tables.metadata)  # those of all modules are the one metadata
NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{head}"


def upgrade() -> None:
    op.create_table("later", sa.Column("id", sa.Integer(), primary_key=True))
    with op.batch_alter_table("tasks") as tasks:
        tasks.add_column(sa.Column("colour", sa.Text()))
        tasks.alter_column("status", type_=sa.String(64))
    {extra}
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tale.db"


def later_tale(tmp_path: Path, extra: str = "") -> Path:
    """The migrations of a tale that has one more; `extra` is what it does last."""
    folder = tmp_path / "50% later" / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "next.py").write_text(NEXT.format(head=SCHEMA_REVISION, extra=extra))
    return folder


def query(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def insert_task(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO tasks (id, text, status, created_at, priority, timeout_s, attempt, failures)"
            " VALUES ('t', 'text', 'queued', 1.5, 0, 300, 1, 0)"
        )
        connection.execute("INSERT INTO attempts (task_id, number, started_at) VALUES ('t', 1, 2.5)")


def test_the_migrations_make_the_tables_that_the_code_expects(url: str) -> None:
    upgrade(url)
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


async def test_the_new_databases_of_other_tests_are_as_the_migrations_make_them(url: str, tmp_path: Path) -> None:
    def told(path: Path, database_id: str) -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            return [line.replace(database_id, "id") for line in connection.iterdump()]

    upgrade(url)
    migrated, filled = Database.open(url), Database.open(f"sqlite:///{tmp_path}/other.db")
    assert migrated.id != filled.id
    assert told(tmp_path / "tale.db", migrated.id) == told(tmp_path / "other.db", filled.id)
    for database in (migrated, filled):
        await database.close()


def test_the_constant_names_the_newest_migration() -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [SCHEMA_REVISION]


def test_a_new_database_needs_no_copy(url: str, tmp_path: Path) -> None:
    assert upgrade(url) == UpgradeReport(None, SCHEMA_REVISION)
    assert upgrade(url) == UpgradeReport(SCHEMA_REVISION, SCHEMA_REVISION)
    assert [path.name for path in tmp_path.iterdir()] == ["tale.db"]


def test_an_upgrade_keeps_the_rows_and_makes_a_copy_first(url: str, tmp_path: Path) -> None:
    upgrade(url)
    insert_task(tmp_path / "tale.db")
    report = upgrade(url, migrations=later_tale(tmp_path))
    assert (report.from_revision, report.to_revision) == (SCHEMA_REVISION, "next")
    assert query(tmp_path / "tale.db", "SELECT id, created_at, colour FROM tasks") == [("t", 1.5, None)]
    assert query(tmp_path / "tale.db", "SELECT task_id, number FROM attempts") == [("t", 1)]
    assert report.backup_path is not None
    assert report.backup_path.parent == tmp_path / "backups"
    assert query(report.backup_path, "SELECT version_num FROM alembic_version") == [(SCHEMA_REVISION,)]
    assert query(report.backup_path, "SELECT id, text FROM tasks") == [("t", "text")]
    assert report.backup_path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("op.execute('INSERT INTO nowhere VALUES (1)')", "no such table: nowhere"),
        ("op.execute('DELETE FROM tasks')", "would leave rows that refer to nothing"),
    ],
)
def test_an_upgrade_that_fails_changes_nothing_and_says_how_to_go_back(
    url: str, tmp_path: Path, extra: str, reason: str
) -> None:
    upgrade(url)
    insert_task(tmp_path / "tale.db")
    before = query(tmp_path / "tale.db", "SELECT sql FROM sqlite_master ORDER BY name")
    with pytest.raises(DatabaseException, match="go on with the version of tale used before") as caught:
        upgrade(url, tmp_path / "copies", migrations=later_tale(tmp_path, extra))
    assert reason in str(caught.value)
    assert query(tmp_path / "tale.db", "SELECT sql FROM sqlite_master ORDER BY name") == before
    assert query(tmp_path / "tale.db", "SELECT id FROM tasks") == [("t",)]
    copy = Path(str(caught.value.context["backup"]))
    assert copy.parent == tmp_path / "copies"
    assert query(copy, "SELECT id FROM tasks") == [("t",)]
    asyncio.run(Database.open(url).close())


def test_a_key_that_is_called_as_those_of_whoever_runs_tale_is_renamed(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = tmp_path / "older"
    shutil.copytree(MIGRATIONS, older, ignore=shutil.ignore_patterns("__pycache__", "0013_*", "0014_*"))
    upgrade(url, migrations=older)
    names = ("owner", "owner-1", "api_key", "ci")
    with closing(sqlite3.connect(tmp_path / "tale.db")) as connection, connection:
        connection.executemany(
            "INSERT INTO access_keys (id, name, scope, digest, created_at) VALUES (?, ?, 'submit', ?, 1.5)",
            [(f"{number}", name, f"digest {number}") for number, name in enumerate(names)],
        )
    upgrade(url)
    renamed = query(tmp_path / "tale.db", "SELECT name FROM access_keys ORDER BY id")
    assert renamed == [("owner-2",), ("owner-1",), ("api_key-1",), ("ci",)]
    assert "The key 'owner' is called 'owner-2' from now on" in caplog.text


def test_an_upgrade_without_room_for_the_copy_does_not_begin(url: str, tmp_path: Path) -> None:
    upgrade(url)
    (tmp_path / "backups").touch()
    with pytest.raises(DatabaseException, match="could not be copied"):
        upgrade(url, migrations=later_tale(tmp_path))
    assert query(tmp_path / "tale.db", "SELECT version_num FROM alembic_version") == [(SCHEMA_REVISION,)]


def test_only_the_latest_copies_are_kept(url: str, tmp_path: Path) -> None:
    upgrade(url)
    failing = later_tale(tmp_path, "op.execute('fail')")
    copies: list[str] = []
    for _ in range(KEPT_BACKUPS + 2):
        with pytest.raises(DatabaseException) as caught:
            upgrade(url, migrations=failing)
        copies.append(str(caught.value.context["backup"]))
    kept = sorted(str(path) for path in (tmp_path / "backups").iterdir())
    assert kept == copies[-KEPT_BACKUPS:]


def test_the_database_of_a_newer_tale_is_refused_and_left_alone(url: str, tmp_path: Path) -> None:
    upgrade(url)
    upgrade(url, migrations=later_tale(tmp_path))
    before = (tmp_path / "tale.db").read_bytes()
    with pytest.raises(DatabaseException, match="from a newer tale") as caught:
        Database.open(url, backup_folder=tmp_path / "backups")
    assert f"schema next; this one knows up to {SCHEMA_REVISION}" in caught.value.message
    assert str(tmp_path / "backups") in caught.value.message
    assert (tmp_path / "tale.db").read_bytes() == before


def test_an_upgrade_of_a_locked_database_is_refused(url: str, tmp_path: Path) -> None:
    upgrade(url)
    with closing(sqlite3.connect(tmp_path / "tale.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseException, match="locked by another program"):
            upgrade(url, busy_timeout_s=0.05, migrations=later_tale(tmp_path))


def test_an_installation_without_migrations_is_said_to_be_broken(url: str, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DatabaseException, match="not installed whole"):
        upgrade(url, migrations=tmp_path / "none")


async def test_a_database_in_use_can_be_copied(url: str, tmp_path: Path) -> None:
    database = Database.open(url)
    await database.write(lambda c: c.execute(insert(meta), {"key": "k", "value": "v"}).rowcount)
    copied = await asyncio.to_thread(backup, url, tmp_path / "copy.db")
    await database.close()
    assert copied == tmp_path / "copy.db"
    assert query(copied, "SELECT value FROM meta WHERE key = 'k'") == [("v",)]
    restored = Database.open(f"sqlite:///{copied}")
    assert restored.id == database.id
    await restored.close()


def test_a_copy_into_a_folder_gets_a_name_with_its_time(url: str, tmp_path: Path) -> None:
    upgrade(url)
    (tmp_path / "copies").mkdir()
    first, second = (backup(url, tmp_path / "copies") for _ in range(2))
    assert first.name.startswith("tale-2")
    assert sorted((tmp_path / "copies").iterdir()) == [first, second]


def test_a_copy_never_replaces_a_file(url: str, tmp_path: Path) -> None:
    upgrade(url)
    (tmp_path / "taken").write_text("precious")
    with pytest.raises(ValidationException, match="taken exists already"):
        backup(url, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "precious"


def test_only_files_that_are_there_can_be_copied(url: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseException, match="no database to copy"):
        backup(url, tmp_path / "copy.db")
    for other in ("sqlite://", "postgresql://host/tale"):
        with pytest.raises(DatabaseException, match="Only SQLite files"):
            backup(other, tmp_path / "copy.db")


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Not a database. " * 100)
    with pytest.raises(DatabaseException, match="could not be copied") as caught:
        backup(f"sqlite:///{tmp_path}/notes.txt", tmp_path / "copy.db")
    assert "not a database" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
