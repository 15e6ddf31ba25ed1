"""Keeps what users put right about the detection of what their messages ask for."""

from dataclasses import asdict

from sqlalchemy import Connection, select

from tale.records import Correction
from tale.storage.database import Database
from tale.storage.reader import read_once
from tale.storage.tables import corrections

NEWEST = select(corrections).order_by(corrections.c.created_at.desc(), corrections.c.id)


class CorrectionStore:
    """Corrections in the database. One is durable on return; all raise DatabaseException when it fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, correction: Correction) -> None:
        """Keep a correction."""
        await self._database.insert(corrections, asdict(correction))

    async def newest(self, limit: int) -> list[Correction]:
        """The last so many corrections, newest first."""
        return await self._database.read(lambda connection: _newest(connection, limit))


def read_corrections(url: str, *, limit: int) -> list[Correction]:
    """The last so many corrections, newest first, for a process that does not hold the database open; blocks.

    There are none where there is no database yet. Raises DatabaseException for one that cannot be read.
    """
    nothing: list[Correction] = []
    return read_once(url, lambda connection: _newest(connection, limit), absent=nothing)


def _newest(connection: Connection, limit: int) -> list[Correction]:
    return [Correction(**row) for row in connection.execute(NEWEST.limit(limit)).mappings()]
