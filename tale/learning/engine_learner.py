"""Holds the engine that serves, keeps it up to date with the history, and has new versions learned and judged."""

import asyncio
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from tale.exceptions import ModelException, ServerException, TaleBaseException
from tale.ids import new_call_id
from tale.learning.drift import CoverageWatch
from tale.learning.engine_training import NEW, PREVIOUS, SERVING, VERDICT, as_json
from tale.learning.performance_engine import COVERAGE, LEAST_ROWS, PerformanceEngine
from tale.predictions import EngineVersion, EventKind, LearningEvent, PastAttempt, Prediction, TaskQuestion

# -P: a file of the user's in the working folder must not stand in for a module of the same name.
COMMAND: Final = (sys.executable, "-P", "-m", "tale.learning.engine_training")
TRAINING_LIMIT_S: Final = 1_800.0  # of a process that yields to all others
MOST_ROWS: Final = 20_000  # the latest attempts that are learned from
LEAST_NEW: Final = 40  # attempts since the last round, before there is another
GROWTH: Final = 0.2  # the same, as a share of those that were learned from and did not come with tale
VERSIONS_READ: Final = 50
AFTER_ALL: Final = "g"  # ids are hexadecimal: none comes after that

Cursor = tuple[float, str, int]
Train = Callable[[Path, list[PastAttempt], list[PastAttempt]], Awaitable[None]]
"""Learns from rows and priors and leaves the outcome in a folder, as `engine_training` describes."""

logger = logging.getLogger(__name__)


class History(Protocol):
    """Where the history, the versions and the events are kept; every method may raise DatabaseException."""

    async def past_attempts(
        self, after: Cursor, *, limit: int, until: float | None = None
    ) -> tuple[list[PastAttempt], Cursor]:
        """The newest attempts after the cursor and until then, oldest first, and the next cursor."""
        ...

    async def versions(self, limit: int) -> list[EngineVersion]:
        """The last versions, newest first."""
        ...

    async def artefact(self, version_id: str) -> bytes | None:
        """What a version consists of."""
        ...

    async def add_version(self, version: EngineVersion, artefact: bytes | None) -> None:
        """Keep a version."""
        ...

    async def let_serve(self, version_id: str) -> None:
        """Have an earlier version serve again."""
        ...

    async def reject(self, version_id: str) -> None:
        """Never use a version again."""
        ...

    async def add_event(self, event: LearningEvent) -> None:
        """Keep what happened."""
        ...


@dataclass(frozen=True)
class LearnerStatus:
    """How the learning of tasks stands: `rows` are the attempts known, `next_at` those that a round takes."""

    state: str
    version: str | None
    rows: int
    next_at: int
    covered: float | None
    last: str | None  # what came of the last round


class EngineLearner:
    """Predicts with the version that serves, once `start` has read it; without one there is nothing to tell.

    `priors` are attempts that come with tale, older than all others. Call `look_again` when tasks have ended. `train`
    learns, by default in a process of its own.
    """

    def __init__(
        self,
        *,
        priors: Sequence[PastAttempt] = (),
        clock: Callable[[], float] = time.time,
        randomness: random.Random | None = None,
        train: Train | None = None,
    ) -> None:
        self.state = "starting"
        self._priors = list(priors)
        self._clock = clock
        self._randomness = randomness
        self._train = train or trained_apart
        self._engine: PerformanceEngine | None = None
        self._version: EngineVersion | None = None
        self._cursor: Cursor = (0.0, "", 0)
        self._known_ahead: set[str] = set()  # tasks that are known, though they are said to have ended later than now
        self._rows = len(self._priors)
        self._next_at = LEAST_ROWS  # rows with which the next round of learning comes
        self._last: str | None = None
        self._watch = CoverageWatch(COVERAGE)
        self._wanted = asyncio.Event()
        self._asked, self._answered = 0, 0  # by people, who need not wait for more rows
        self._rounded = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    def start(self, history: History) -> None:
        """Take up the version that serves and go on learning; call within the event loop."""
        self._history: History = history
        self._task = asyncio.create_task(self._keep_learning(), name="engine-learner")

    async def stop(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def decline(self, reason: str) -> None:
        """Never learn, for that reason."""
        self.state, self._last = "off", reason

    def look_again(self) -> None:
        """Tasks may have ended: take in what came of them."""
        self._wanted.set()

    async def learn_now(self) -> LearnerStatus:
        """Learn from all there is, and return how things stand after that."""
        if self._task is None:
            return self.status()
        self._asked += 1
        mine = self._asked
        self._wanted.set()
        async with self._rounded:
            await self._rounded.wait_for(lambda: self._answered >= mine)
        return self.status()

    def status(self) -> LearnerStatus:
        """How things stand."""
        version = self._version.id if self._version else None
        return LearnerStatus(self.state, version, self._rows, self._next_at, self._watch.observed, self._last)

    def predict(self, question: TaskQuestion) -> Prediction | None:
        """What is expected of a task; None while nothing was learned."""
        if self._engine is None or self._version is None:
            return None
        began = time.perf_counter()
        made = self._engine.predict(question, version=self._version.id, randomness=self._randomness)
        return replace(made, took_s=time.perf_counter() - began)

    @property
    def engine(self) -> PerformanceEngine | None:
        """The engine that serves."""
        return self._engine

    async def _keep_learning(self) -> None:
        while True:
            self._wanted.clear()
            asked = self._asked
            try:
                await self._round(is_asked=asked > self._answered)
                self.state = "ready" if self._engine else "waiting"
            except (OSError, ValueError, TaleBaseException) as error:
                logger.exception("What came of tasks could not be learned from.")
                self.state, self._last = "failed", str(error)
            async with self._rounded:
                self._answered = asked
                self._rounded.notify_all()
            await self._wanted.wait()

    async def _round(self, *, is_asked: bool) -> None:
        is_start = self._version is None
        if is_start:
            await self._take_up()
        await self._catch_up(is_start=is_start)
        if is_asked or self._rows >= self._next_at:
            self.state = "learning"
            try:
                if await self._learn():
                    await self._catch_up()
            finally:  # what fails is not to be tried again with each task that ends
                self._next_at = self._rows + max(LEAST_NEW, int(GROWTH * self._own(self._rows)))

    async def _take_up(self) -> None:
        """Have the stored version serve, with all that came after it learned in addition."""
        serving = next((each for each in await self._history.versions(VERSIONS_READ) if each.state == "serving"), None)
        artefact = None if serving is None else await self._history.artefact(serving.id)
        if serving is None or artefact is None:
            return
        try:
            engine = await asyncio.to_thread(PerformanceEngine.from_bytes, artefact)
        except ModelException as error:
            await self._history.reject(serving.id)
            await self._tell("unreadable", str(error), serving.id)
            return
        await self._serve(engine, serving)

    async def _serve(self, engine: PerformanceEngine, version: EngineVersion) -> None:
        """From now on this one predicts; what came after it was made is taken in anew."""
        has_drifted = self._watch.drifted
        self._engine, self._version = engine, version
        self._watch = CoverageWatch(COVERAGE)
        self._cursor, self._known_ahead = (version.trained_until, AFTER_ALL, 0), set()
        self._rows = version.rows
        # Twice as many, as some were kept out to judge it.
        self._next_at = self._rows + max(LEAST_NEW, int(2 * GROWTH * self._own(self._rows)))
        if has_drifted:
            await self._tell("recovered", "the version that missed its limits serves no more", version.id)

    def _own(self, rows: int) -> int:
        return max(0, rows - len(self._priors))

    async def _catch_up(self, *, is_start: bool = False) -> None:
        """Take in what came of tasks since the last look, and tell if predictions are not as good as they say any more.

        What was taken in before the last start was told then. Where the clock has been set back, what ends from now on
        counts all the same, and what is said to have ended later than now waits, unless it is known already.
        """
        now = self._clock()
        if self._cursor > (latest := (now, AFTER_ALL, 0)):
            known, _ = await self._history.past_attempts(latest, limit=MOST_ROWS, until=self._cursor[0])
            self._known_ahead |= {row.task_id for row in known}
            self._cursor = latest
        found, self._cursor = await self._history.past_attempts(self._cursor, limit=MOST_ROWS, until=now)
        rows = [row for row in found if row.task_id not in self._known_ahead]
        self._rows += len(rows)
        if self._engine is None or not rows:
            return
        before = self._watch.drifted
        for checked in await asyncio.to_thread(self._engine.update, rows):
            self._watch.observe(covered=checked.covered)
        if self._watch.drifted != before and not is_start:
            await self._tell_drift()

    async def _tell_drift(self) -> None:
        observed = f"{self._watch.observed:.0%} of the latest answers stayed within limits meant for {COVERAGE:.0%}"
        version = self._version.id if self._version else None
        await self._tell("drifted" if self._watch.drifted else "recovered", observed, version)

    async def _learn(self) -> bool:
        """One round of learning and judging, in a process of its own; whether another version serves after it."""
        rows, _ = await self._history.past_attempts((0.0, "", 0), limit=MOST_ROWS, until=self._clock())
        with tempfile.TemporaryDirectory(prefix="tale-learning-") as name:
            folder = Path(name)
            previous = await self._put_versions(folder)
            await self._train(folder, rows, self._priors)
            told: dict[str, Any] = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
            artefact = (folder / NEW).read_bytes() if told["verdict"] == "promoted" else None
        verdict, self._last = told["verdict"], f"{told['verdict']}: {told['reason']}"
        if verdict == "waiting":
            return False
        known = (told["rows"], told["trained_until"], told["library"], told["metrics"], told["reason"])
        version = EngineVersion(new_call_id(), self._clock(), "serving" if artefact else "rejected", *known)
        await self._history.add_version(version, artefact)
        if artefact:
            await self._serve(await asyncio.to_thread(PerformanceEngine.from_bytes, artefact), version)
        if verdict == "rolled_back" and previous and self._version:
            await self._history.let_serve(previous.id)
            await self._history.reject(self._version.id)
            await self._take_up()
        await self._tell(verdict, told["reason"], version.id)
        return verdict != "rejected"

    async def _put_versions(self, folder: Path) -> EngineVersion | None:
        """Put the artefacts of the version that serves and the one before it into the folder; returns the latter.

        One that was made while the clock was ahead cannot be judged by what came later, and is no rival.
        """
        if self._version is None or self._version.trained_until > self._clock():
            return None
        versions = await self._history.versions(VERSIONS_READ)
        previous = next((each for each in versions if each.state == "retired"), None)
        for version, name in ((self._version, SERVING), (previous, PREVIOUS)):
            if version is not None and (artefact := await self._history.artefact(version.id)):
                (folder / name).write_bytes(artefact)
        return previous

    async def _tell(self, kind: EventKind, text: str, version: str | None) -> None:
        logger.log(
            logging.WARNING if kind in ("drifted", "unreadable") else logging.INFO, "Learning: %s, %s", kind, text
        )
        await self._history.add_event(LearningEvent(new_call_id(), self._clock(), kind, text, version))


async def trained_apart(folder: Path, rows: list[PastAttempt], priors: list[PastAttempt]) -> None:
    """Learn in a process of its own, of low priority. Raises ServerException where that fails."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, str(folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(TRAINING_LIMIT_S):
            await process.communicate(as_json(rows, priors))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ServerException(f"The process that learns ended with {process.returncode}; the log says why.")
