"""Brings the tables of a database to this version of tale: all changes in one transaction, after a copy of the file."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from tale.exceptions import DatabaseException
from tale.storage.backup import backup_before_upgrade
from tale.storage.engines import create_file, file_of, is_in_memory, make_engine, parse_url
from tale.storage.faults import faults_named, named, place
from tale.storage.tables import SCHEMA_REVISION

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS: Final = Path(__file__).parent / "migrations"
ADVISORY_LOCK: Final = 0x7A1E_DB  # one upgrade at a time on a PostgreSQL database
BUSY_TIMEOUT_S: Final = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What an upgrade did: the revisions before (None: there were no tables) and after, and the copy it made."""

    from_revision: str | None
    to_revision: str
    backup_path: Path | None = None


def upgrade(
    url: str,
    backup_folder: Path | None = None,
    *,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
    migrations: Path = MIGRATIONS,
) -> UpgradeReport:
    """Create the tables or bring them up to date; a no-op on a database that is.

    The copy goes into `backup_folder`, by default `backups` beside the file. Raises DatabaseException, with the
    database as it was, when anything fails or a newer tale has changed the tables.
    """
    parsed = parse_url(url)
    engine = make_engine(parsed, "write", busy_timeout_s=busy_timeout_s)
    try:
        return upgrade_engine(engine, parsed, backup_folder, busy_timeout_s=busy_timeout_s, migrations=migrations)
    finally:
        engine.dispose()


def current_revision(url: str) -> str | None:
    """The schema revision the database is at; None where there is no file or no table yet. Changes nothing.

    Raises DatabaseException where it cannot be read, or belongs to another program.
    """
    parsed = parse_url(url)
    path = file_of(parsed)
    if is_in_memory(parsed) or (path is not None and not path.is_file()):
        return None
    engine = make_engine(parsed, "read", busy_timeout_s=BUSY_TIMEOUT_S)
    try:
        with faults_named(parsed), engine.begin() as connection:
            return _revision(connection, parsed)
    finally:
        engine.dispose()


def upgrade_engine(
    engine: Engine, url: URL, backup_folder: Path | None, *, busy_timeout_s: float, migrations: Path = MIGRATIONS
) -> UpgradeReport:
    """The same for an engine that is open already, whose connection is used where that is enough."""
    path = file_of(url)
    if path:
        create_file(path)
    head = SCHEMA_REVISION if migrations == MIGRATIONS else _head(migrations)
    with faults_named(url):
        with engine.begin() as connection:
            revision = _revision(connection, url)
        if revision == head:
            return UpgradeReport(head, head)
    config = _config(migrations)
    _refuse_unknown(config, revision, url, backup_folder)
    copy = None
    if path and revision:
        copy = backup_before_upgrade(place_url(url), backup_folder or path.parent / "backups", revision)
    with _upgrade_connection(engine, url, busy_timeout_s) as connection, _told_how_to_go_back(url, revision, copy):
        _migrate(connection, config)
    logger.info("The database was brought from schema %s to %s.", revision or "none", head)
    return UpgradeReport(revision, head, copy)


def place_url(url: URL) -> str:
    """The URL as text, with its password: for functions that take text."""
    return url.render_as_string(hide_password=False)


def _revision(connection: Connection, url: URL) -> str | None:
    """The revision the database is at; None where there are no tables at all."""
    present = inspect(connection).get_table_names()
    if "alembic_version" in present:
        return connection.scalar(text("SELECT version_num FROM alembic_version"))
    if present:
        raise DatabaseException(
            "The database belongs to another program; name one of tale's own with TALE_DATABASE_URL.",
            {"database": place(url), "tables": ", ".join(present[:3])},
        )
    return None


def _head(migrations: Path) -> str:
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(_config(migrations)).get_current_head()
    if head is None:
        raise DatabaseException("tale is not installed whole: its migrations are missing; install it again.")
    return head


def _config(migrations: Path) -> "Config":
    from alembic.config import Config  # 0.2 s that only an upgrade needs

    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    return config


def _refuse_unknown(config: "Config", revision: str | None, url: URL, backup_folder: Path | None) -> None:
    if revision is None:
        return
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(config)
    if revision in {step.revision for step in script.walk_revisions()}:
        return
    where = f" in {backup_folder}" if backup_folder else ""
    raise DatabaseException(
        f"The database is from a newer tale (schema {revision}; this one knows up to {script.get_current_head()}). "
        f"Upgrade tale, or put back a copy made before{where}.",
        {"database": place(url)},
    )


@contextmanager
def _upgrade_connection(engine: Engine, url: URL, busy_timeout_s: float) -> Generator[Connection]:
    """One transaction on a connection fit for changing tables."""
    own = None if is_in_memory(url) else make_engine(url, "upgrade", busy_timeout_s=busy_timeout_s)
    try:
        with faults_named(url), (own or engine).begin() as connection:
            yield connection
    finally:
        if own is not None:
            own.dispose()


def _migrate(connection: Connection, config: "Config") -> None:
    from alembic import command

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})

    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise DatabaseException("The upgrade would leave rows that refer to nothing; it was undone.")


@contextmanager
def _told_how_to_go_back(url: URL, revision: str | None, copy: Path | None) -> Generator[None]:
    try:
        yield
    except (SQLAlchemyError, DatabaseException) as error:
        cause = named(error, url) if isinstance(error, SQLAlchemyError) else error
        back = "Nothing was changed: go on with the version of tale used before, and report this."
        raise DatabaseException(
            f"The database could not be upgraded from schema {revision or 'none'}: {cause.message} {back}",
            {**cause.context, "database": place(url), **({"backup": str(copy)} if copy else {})},
        ) from error
