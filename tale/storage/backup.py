"""Copies a SQLite database while it is in use."""

import os
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tale.exceptions import DatabaseException, ValidationException
from tale.storage.engines import file_of, parse_url

KEPT_BACKUPS: Final = 5
BACKUP_PREFIX: Final = "before-upgrade-"


def backup(url: str, target: Path) -> Path:
    """Copy the database into the file `target`, or into the folder `target` under a name with the time of day (UTC).

    The copy appears whole or not at all. Raises DatabaseException for a database without a file, and where reading or
    writing fails; ValidationException where `target` exists.
    """
    source = file_of(parse_url(url))
    if source is None:
        raise DatabaseException("Only SQLite files are copied here; for PostgreSQL use its own pg_dump.")
    if not source.is_file():
        raise DatabaseException("There is no database to copy yet.", {"database": str(source)})
    if target.is_dir():
        target = target / f"{source.stem}-{_stamp()}{source.suffix}"
    if target.exists():
        raise ValidationException(f"{target} exists already; name another file, or move it away.")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, draft)
        os.replace(draft, target)
    except (OSError, sqlite3.Error) as error:
        raise DatabaseException(
            "The database could not be copied; see that the disk has room and that the folder is writable.",
            {"database": str(source), "target": str(target), "cause": str(error)},
        ) from error
    finally:
        with suppress(OSError):  # it is gone where all went well, and was never there where its folder cannot be made
            draft.unlink()
    return target


def backup_before_upgrade(url: str, folder: Path, revision: str) -> Path:
    """Copy the database into `folder` under a name with its revision; only the five latest such copies are kept."""
    source = file_of(parse_url(url))
    suffix = source.suffix if source else ""
    made = backup(url, folder / f"{BACKUP_PREFIX}{_stamp()}-{revision}{suffix}")
    for old in sorted(folder.glob(f"{BACKUP_PREFIX}*"))[:-KEPT_BACKUPS]:
        old.unlink(missing_ok=True)
    return made


def _copy(source: Path, draft: Path) -> None:
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as reading,
        closing(sqlite3.connect(draft)) as writing,
    ):
        reading.backup(writing)  # reads one state of the database; in WAL mode others go on writing
        writing.execute("PRAGMA journal_mode=DELETE")  # one file holds it all; opening it sets the WAL again
    with draft.open("rb") as copied:
        os.fsync(copied.fileno())


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
