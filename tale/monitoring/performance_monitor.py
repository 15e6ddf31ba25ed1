"""Watches the machine and the targets while the servers run: a sample at each interval, a judgement each minute."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from tale.exceptions import TaleBaseException
from tale.ids import new_call_id
from tale.monitoring.alerts import judged
from tale.monitoring.evaluation import standings
from tale.monitoring.evidence import Evidence
from tale.monitoring.profiles import Profile
from tale.monitoring.targets import Target
from tale.storage.monitoring_store import Sample, TargetAlert, Violation

JUDGE_INTERVAL_S: Final = 60.0
HOUR_S: Final = 3_600.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """What the processes of the service take: bytes, cores kept busy since the last look, bytes free on the machine."""

    memory_bytes: int | None
    cpu_share: float | None
    free_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Work:
    """What the service has to do: tasks by status, and the models as mappings with name, role, state, memory_bytes."""

    queued: int | None
    running: int | None
    models: Sequence[Mapping[str, Any]]


class Store(Protocol):
    """Where samples, violations and alerts are kept; MonitoringStore does."""

    async def add_sample(self, sample: Sample) -> None: ...

    async def open_violations(self) -> list[Violation]: ...

    async def latest_alerts(self) -> list[TargetAlert]: ...

    async def keep(self, violations: Sequence[Violation], alerts: Sequence[TargetAlert]) -> None: ...


class MachineProbe:
    """Looks at this process and its children."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._cpu_s: float | None = None
        self._looked_at = clock()

    def look(self) -> Load:
        """What they take now; the first look tells no cores."""
        import psutil

        own = psutil.Process()
        memory_bytes, cpu_s = 0, 0.0
        for process in (own, *own.children(recursive=True)):
            try:
                memory_bytes += process.memory_info().rss
                cpu_s += sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:  # it ended in between
                continue
        now, before = self._clock(), self._cpu_s
        elapsed_s, self._looked_at, self._cpu_s = now - self._looked_at, now, cpu_s
        known = before is not None and elapsed_s > 0
        cpu_share = max(0.0, cpu_s - before) / elapsed_s if known and before is not None else None
        return Load(memory_bytes, cpu_share, psutil.virtual_memory().available)


class PerformanceMonitor:
    """Keeps samples of the machine, and judges the targets. A failure is logged, and the next turn comes all the same.

    `look` tells the load, `work` what there is to do, `evidence` is read in a thread. Times are Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        evidence: Evidence,
        *,
        profile: Profile,
        owner: str,
        look: Callable[[], Load],
        work: Callable[[], Awaitable[Work]],
        clock: Callable[[], float],
        interval_s: float,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self._store = store
        self._evidence = evidence
        self._profile = profile
        self._targets: Sequence[Target] = profile.targets(limits)
        self._owner = owner
        self._look = look
        self._work = work
        self._clock = clock
        self._interval_s = interval_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in the background."""
        self._tasks = [
            asyncio.create_task(self._each(self._interval_s, self.sample), name="monitor samples"),
            asyncio.create_task(self._each(JUDGE_INTERVAL_S, self.judge), name="monitor targets"),
        ]

    async def stop(self) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def sample(self) -> Sample:
        """Measure once, and keep it. Raises DatabaseException."""
        load = await asyncio.to_thread(self._look)
        work = await self._work()
        known = [model["memory_bytes"] for model in work.models if model.get("memory_bytes") is not None]
        told = [{name: each.get(name) for name in ("name", "role", "state", "memory_bytes")} for each in work.models]
        sample = Sample(
            id=new_call_id(),
            at=self._clock(),
            owner=self._owner,
            memory_bytes=load.memory_bytes,
            cpu_share=load.cpu_share,
            free_memory_bytes=load.free_memory_bytes,
            queued=work.queued,
            running=work.running,
            models_bytes=sum(known) if known else None,
            models=json.dumps(told),
        )
        await self._store.add_sample(sample)
        return sample

    async def judge(self) -> Sequence[TargetAlert]:
        """Hold the targets against the history once, and keep what changed; returns what is to be said.

        Raises DatabaseException.
        """
        now, targets = self._clock(), self._targets
        found = await _in_thread(partial(standings, self._evidence, targets, now=now))
        hour = await _in_thread(partial(standings, self._evidence, targets, now=now, window_s=HOUR_S))
        changes = judged(
            found,
            hour,
            open_violations=await self._store.open_violations(),
            told=await self._store.latest_alerts(),
            profile=self._profile.name,
            now=now,
            ids=[new_call_id() for _ in range(2 * len(found))],
        )
        await self._store.keep(changes.violations, changes.alerts)
        for alert in changes.alerts:
            logger.warning("%s", alert.text)
        return changes.alerts

    async def _each(self, interval_s: float, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await work()
            except TaleBaseException as error:
                logger.warning("The monitor could not do its work, which is tried again: %s", error)
            except Exception:  # the edge of who looks on: the servers go on, and the next turn comes
                logger.exception("The monitor broke off, and tries again.")
            await asyncio.sleep(interval_s)


async def _in_thread(read: Callable[[], T]) -> T:
    """Read in a thread, whose end is waited for in any case: what it reads from is closed after that."""
    reading = asyncio.create_task(asyncio.to_thread(read))
    try:
        return await asyncio.shield(reading)
    finally:
        await asyncio.wait([reading])
