"""Reads a database that this process does not hold open: nothing is made, upgraded or written."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine

from tale.exceptions import DatabaseException
from tale.storage.engines import make_engine, parse_url
from tale.storage.faults import faults_named
from tale.storage.tables import SCHEMA_REVISION
from tale.storage.upgrade import BUSY_TIMEOUT_S, current_revision

T = TypeVar("T")


class Reader:
    """A database that is only looked at; made by `reading`."""

    def __init__(self, url: URL, engine: Engine) -> None:
        self._url = url
        self._engine = engine

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a connection that sees one state of the database; raises DatabaseException."""
        with faults_named(self._url), self._engine.begin() as connection:
            return work(connection)


@contextmanager
def reading(url: str) -> Generator[Reader | None]:
    """A reader of the database of a SQLAlchemy URL; None where there is none.

    Raises DatabaseException for one that cannot be read, or is of another version of tale.
    """
    parsed = parse_url(url)
    revision = current_revision(url)
    if revision is None:
        yield None
        return
    if revision != SCHEMA_REVISION:
        way = "update tale" if revision > SCHEMA_REVISION else "bring it up to date with `tale db upgrade`"
        raise DatabaseException(f"The database is of schema {revision}, this tale reads {SCHEMA_REVISION}; {way}.")
    engine = make_engine(parsed, "read", busy_timeout_s=BUSY_TIMEOUT_S)
    try:
        yield Reader(parsed, engine)
    finally:
        engine.dispose()


def read_once(url: str, work: Callable[[Connection], T], *, absent: T) -> T:
    """What `work` finds in the database; `absent` where there is none. Raises DatabaseException likewise."""
    with reading(url) as reader:
        return absent if reader is None else reader.read(work)
