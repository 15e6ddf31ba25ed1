"""Puts what a database driver raises into one sentence with the way out."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tale.exceptions import DatabaseException

RESTORE: Final = "put back a copy from the backups folder, or move the file away to begin anew"

# By the beginning of SQLite's extended result name; the longer beginning stands first.
SQLITE_FAULTS: Final = (
    ("SQLITE_FULL", "The disk is full; free some space and try again."),
    ("SQLITE_BUSY", "The database is locked by another program; close it and try again."),
    ("SQLITE_LOCKED", "The database is locked by another program; close it and try again."),
    ("SQLITE_READONLY", "The database is read-only; make its file and its folder writable."),
    ("SQLITE_PERM", "The database may not be opened; give this user the right to its file and its folder."),
    (
        "SQLITE_CANTOPEN",
        "The database cannot be opened; see that its folder exists and that this user may write there.",
    ),
    ("SQLITE_NOTADB", "The file is not a SQLite database; name another with TALE_DATABASE_URL, or move it away."),
    ("SQLITE_CORRUPT", f"The database is damaged; {RESTORE}."),
    ("SQLITE_IOERR", "The disk reports an error while the database is read or written; check the disk and its space."),
    ("SQLITE_TOOBIG", "A value is too large for the database; shorten it."),
    ("SQLITE_CONSTRAINT", "The database refused a row that breaks one of its rules."),
)
# By the beginning of PostgreSQL's SQLSTATE.
POSTGRESQL_FAULTS: Final = (
    ("53100", "The disk of the database server is full; free some space there and try again."),
    ("53300", "The database server has no connection left; raise its max_connections or stop other clients."),
    ("25006", "The database is read-only; use its primary server."),
    ("28", "The database server refused user or password; check the database URL."),
    ("3D000", "There is no such database on the server; create it, or check the database URL."),
    ("42501", "The database user lacks a right; grant it the right to create and change tables."),
    ("55P03", "The database is locked by another program; try again."),
    ("57", "The database server is stopping or starting; try again in a moment."),
    ("23", "The database refused a row that breaks one of its rules."),
    ("22", "The database refused a value that it cannot keep."),
)


@contextmanager
def faults_named(url: URL) -> Generator[None]:
    """Raise DatabaseException in place of what SQLAlchemy, its drivers and unstorable values raise inside."""
    try:
        yield
    except (SQLAlchemyError, OverflowError, UnicodeEncodeError) as error:
        raise named(error, url) from error


def named(error: SQLAlchemyError | OverflowError | UnicodeEncodeError, url: URL) -> DatabaseException:
    """The sentence for an error; context names the database (without its password) and the cause."""
    context: dict[str, object] = {"database": place(url)}
    if isinstance(error, DBAPIError):
        cause = str(error.orig).strip().split("\n", maxsplit=1)[0]
        return DatabaseException(_sentence(error), {**context, "cause": cause})
    if isinstance(error, OverflowError | UnicodeEncodeError):
        return DatabaseException("The database refused a value that it cannot keep.", {**context, "cause": str(error)})
    return DatabaseException("The database could not do what was asked.", {**context, "cause": str(error)})


def place(url: URL) -> str:
    """The file of a SQLite database, else the URL without its password."""
    if url.get_backend_name() == "sqlite":
        return url.database or ":memory:"
    return url.render_as_string(hide_password=True)


def _sentence(error: DBAPIError) -> str:
    code = getattr(error.orig, "sqlite_errorname", None)
    faults = SQLITE_FAULTS
    if code is None:
        code = getattr(error.orig, "sqlstate", None)
        faults = POSTGRESQL_FAULTS
        if code is None and type(error.orig).__name__ == "OperationalError":
            return (
                "There is no connection to the database server; check that it runs and that the database URL is right."
            )
    for beginning, sentence in faults:
        if code is not None and code.startswith(beginning):
            return sentence
    return "The database could not do what was asked."
