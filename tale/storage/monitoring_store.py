"""Keeps what the monitor measures, when targets were missed, and what was said of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, delete, select, update

from tale.storage.database import Database
from tale.storage.monitoring_tables import monitor_samples, target_alerts, target_violations
from tale.storage.rows import upsert

TOLD: Final = 50  # alerts looked back at
BATCH: Final = 500  # rows thrown away in one transaction

AlertKind = Literal["missed", "burning", "met"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What the machine and the service were doing at a time (Unix seconds); unknown is None."""

    id: str
    at: float
    owner: str
    memory_bytes: int | None
    cpu_share: float | None
    free_memory_bytes: int | None
    queued: int | None
    running: int | None
    models_bytes: int | None
    models: str  # JSON: [{"name", "role", "state", "memory_bytes"}]


@dataclass(frozen=True, slots=True)
class Violation:
    """A time in which a target was missed; it lasts while `ended_at` is None. `measured` counts its values."""

    id: str
    target: str
    profile: str
    began_at: float
    ended_at: float | None
    limit_value: float
    worst: float
    measured: int
    action: str


@dataclass(frozen=True, slots=True)
class TargetAlert:
    """What was said of a target, once."""

    id: str
    created_at: float
    violation_id: str | None
    target: str
    kind: AlertKind
    text: str
    acknowledged_at: float | None = None


class MonitoringStore:
    """The monitor's tables. Every change is durable on return; all raise DatabaseException when it fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_sample(self, sample: Sample) -> None:
        """Keep a sample."""
        await self._database.insert(monitor_samples, asdict(sample))

    async def open_violations(self) -> list[Violation]:
        """The targets that are missed now."""
        wanted = select(target_violations).where(target_violations.c.ended_at.is_(None))
        return await self._database.read(lambda c: [Violation(**row) for row in c.execute(wanted).mappings()])

    async def latest_alerts(self, limit: int = TOLD) -> list[TargetAlert]:
        """What was said last, newest first."""
        wanted = select(target_alerts).order_by(target_alerts.c.created_at.desc(), target_alerts.c.id).limit(limit)
        return await self._database.read(lambda c: [TargetAlert(**row) for row in c.execute(wanted).mappings()])

    async def keep(self, violations: Sequence[Violation], alerts: Sequence[TargetAlert]) -> None:
        """Keep violations, in place of what was known of them, and alerts; all of them or none."""

        def work(connection: Connection) -> None:
            for violation in violations:
                upsert(connection, target_violations, asdict(violation), keys=["id"])
            for alert in alerts:
                upsert(connection, target_alerts, asdict(alert), keys=["id"])

        if violations or alerts:
            await self._database.write(work)

    async def acknowledge(self, now: float) -> int:
        """Mark all alerts as seen; returns how many were not."""
        unseen = update(target_alerts).where(target_alerts.c.acknowledged_at.is_(None)).values(acknowledged_at=now)
        return await self._database.write(lambda connection: connection.execute(unseen).rowcount)

    async def prune(self, before: float) -> int:
        """Throw away the samples from before that time, a batch; returns how many. Again until there are none."""

        def work(connection: Connection) -> int:
            old = select(monitor_samples.c.id).where(monitor_samples.c.at < before).limit(BATCH)
            ids: list[Any] = list(connection.scalars(old))
            return connection.execute(delete(monitor_samples).where(monitor_samples.c.id.in_(ids))).rowcount

        return await self._database.write(work)
