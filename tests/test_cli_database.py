"""`tale db upgrade` and `tale db backup`, and what commands say about a database that cannot be used."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.command_line import Outcome, in_subprocess

from tale.storage.tables import SCHEMA_REVISION
from tale.storage.upgrade import MIGRATIONS, upgrade

Tale = Callable[..., Outcome]
NOBODY = 65_534


@pytest.fixture
def database(tale: Tale, tale_home: Path) -> Path:
    """A database of this version."""
    assert tale("db", "upgrade").code == 0
    return tale_home / "tale.db"


def revision_of(path: Path) -> str:
    """The revision that a database says it has."""
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    connection.close()
    return found


def set_revision(path: Path, revision: str) -> None:
    """Have a database say that it is of another version."""
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    connection.close()


def test_where_there_is_none_a_database_is_made(tale: Tale, tale_home: Path) -> None:
    done = tale("db", "upgrade")

    assert (done.code, done.out, done.err) == (0, f"The database was brought to schema {SCHEMA_REVISION}.\n", "")
    assert revision_of(tale_home / "tale.db") == SCHEMA_REVISION


def test_one_that_is_up_to_date_is_left_alone(tale: Tale, database: Path) -> None:
    before = database.read_bytes()

    done = tale("db", "upgrade")

    assert (done.code, done.out) == (0, f"The database is up to date (schema {SCHEMA_REVISION}).\n")
    assert database.read_bytes() == before


def first_version(home: Path, tmp_path: Path) -> Path:
    """Make a database of the first version that ever was; returns its path."""
    steps = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, steps, ignore=shutil.ignore_patterns("__pycache__", "000[2-9]*", "00[1-9]*"))
    upgrade(f"sqlite:///{home}/tale.db", migrations=steps)
    return home / "tale.db"


@pytest.fixture
def older(tale_home: Path, tmp_path: Path) -> Path:
    """A database of an earlier version."""
    return first_version(tale_home, tmp_path)


@pytest.fixture
def protected(tale_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same where nobody may write; root drops its powers meanwhile."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        database = first_version(Path(name), tmp_path)
        monkeypatch.setenv("TALE_HOME", name)
        database.chmod(0o444)
        database.parent.chmod(0o555)
        os.seteuid(NOBODY if is_root else os.geteuid())
        yield database
        os.seteuid(0 if is_root else os.geteuid())
        database.parent.chmod(0o755)


def test_an_older_one_is_copied_and_brought_up_to_date(tale: Tale, older: Path, tale_home: Path) -> None:
    before = revision_of(older)

    done = tale("db", "upgrade")

    (copy,) = (tale_home / "backups").glob("*.db")
    assert done.code == 0
    assert f"from schema {before} to schema {SCHEMA_REVISION}" in done.out
    assert f"A copy made before is {copy}." in done.out
    assert (revision_of(older), revision_of(copy)) == (SCHEMA_REVISION, before)


def test_one_that_may_not_be_written_is_left_alone(tale: Tale, protected: Path) -> None:
    done = tale("db", "upgrade")

    assert done.code == 3
    assert "make its file and its folder writable" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", [("db", "upgrade"), ("serve",), ("submit", "Work")])
def test_one_of_a_newer_tale_is_refused_and_left_alone(
    tale_home: Path, database: Path, command: tuple[str, ...]
) -> None:
    set_revision(database, "9999")

    done = in_subprocess(*command)

    assert (done.code, done.out) == (3, "")
    assert "from a newer tale (schema 9999" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert revision_of(database) == "9999"


def test_what_is_no_database_is_refused_and_left_alone(tale: Tale, tale_home: Path) -> None:
    tale_home.mkdir()
    (tale_home / "tale.db").write_text("this is not a database, however long it may be" * 100)

    done = tale("db", "upgrade")

    assert done.code == 3
    assert done.err.count("\n") == 1
    assert "tale.db" in done.err
    assert (tale_home / "tale.db").read_text().startswith("this is not a database")


def test_a_folder_that_cannot_hold_a_database_is_refused(tale: Tale, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = tale("--home", str(tmp_path / "file"), "db", "upgrade")

    assert done.code == 3
    assert done.err.count("\n") == 1


def test_a_backup_is_a_whole_database(tale: Tale, database: Path, tmp_path: Path) -> None:
    done = tale("db", "backup", str(tmp_path / "copy.db"))

    assert (done.code, done.out) == (0, f"Copied to {tmp_path / 'copy.db'}.\n")
    assert revision_of(tmp_path / "copy.db") == SCHEMA_REVISION


def test_backups_go_to_the_home_unless_told_otherwise(tale: Tale, database: Path, tale_home: Path) -> None:
    done = tale("db", "backup")

    (copy,) = (tale_home / "backups").glob("*.db")
    assert (done.code, done.out) == (0, f"Copied to {copy}.\n")


def test_a_backup_of_nothing_is_refused(tale: Tale, tale_home: Path) -> None:
    done = tale("db", "backup")

    assert done.code == 3
    assert done.err.count("\n") == 1
    assert not (tale_home / "tale.db").exists()


def test_a_backup_never_replaces_a_file(tale: Tale, database: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")

    done = tale("db", "backup", str(tmp_path / "copy.db"))

    assert done.code == 2
    assert f"{tmp_path / 'copy.db'} exists already; name another" in done.err
    assert (tmp_path / "copy.db").read_text() == "precious"


def test_a_backup_that_cannot_be_written_is_one_sentence(tale: Tale, database: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = tale("db", "backup", str(tmp_path / "file" / "copy.db"))

    assert done.code == 3
    assert "see that the disk has room and that the folder is writable" in done.err
    assert done.err.count("\n") == 1


def test_a_backup_of_another_kind_of_database_names_its_own_tool(tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALE_DATABASE_URL", "postgresql+psycopg://ann:hush@db/tale")

    done = tale("db", "backup")

    assert done.code == 3
    assert "pg_dump" in done.err
    assert "hush" not in done.err
