"""The learner takes up what serves, learns when there is enough of new, and tells what came of it."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.past_attempts import past
from fakes.servers import LEARNING_PATIENCE_S, until

from tale.exceptions import ServerException
from tale.learning import engine_training
from tale.learning.engine_learner import LEAST_NEW, EngineLearner, trained_apart
from tale.learning.priors import read_priors
from tale.predictions import EngineVersion, PastAttempt, TaskQuestion
from tale.storage.database import Database
from tale.storage.learning_store import Cursor, LearningStore

HAIKU = TaskQuestion("Write a haiku about snow", 2_048)


class PlayedHistory(LearningStore):
    """A store of versions and events whose attempts are told by the test."""

    def __init__(self, database: Database, rows: list[PastAttempt]) -> None:
        super().__init__(database)
        self.rows = rows

    async def past_attempts(
        self, after: Cursor, *, limit: int, until: float | None = None
    ) -> tuple[list[PastAttempt], Cursor]:
        ended = [row for row in self.rows if until is None or row.ended_at <= until]
        found = [row for row in ended if (row.ended_at, row.task_id, 1) > after][-limit:]
        return found, (found[-1].ended_at, found[-1].task_id, 1) if found else after


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield opened
    await opened.close()


async def trained_here(folder: Path, rows: list[PastAttempt], priors: list[PastAttempt]) -> None:
    """Learns without the seconds that a process takes to start."""
    await asyncio.to_thread(engine_training.train, folder, rows, priors)


@pytest.fixture
async def learning(database: Database) -> AsyncIterator[Callable[[list[PastAttempt]], EngineLearner]]:
    made: list[EngineLearner] = []

    def start(rows: list[PastAttempt], **given: object) -> EngineLearner:
        given = {"train": trained_here, "clock": lambda: 1_000.0 + len(made), **given}
        learner = EngineLearner(**given)
        made.append(learner)
        learner.start(PlayedHistory(database, rows))
        return learner

    yield start
    for learner in made:
        await learner.stop()


async def test_a_learner_learns_as_soon_as_there_is_enough_and_takes_it_up_after_a_restart(
    database: Database, learning: Callable[..., EngineLearner]
) -> None:
    rows = past(10)
    first = learning(rows, train=trained_apart)
    await until(lambda: first.state == "waiting")
    assert first.predict(HAIKU) is None
    rows += past(70, seed=2, begin=100)
    first.look_again()
    await until(lambda: first.predict(HAIKU), patience_s=LEARNING_PATIENCE_S)
    expected = first.predict(HAIKU)
    assert expected is not None and expected.took_s is not None
    (version,) = await LearningStore(database).versions(5)
    assert (expected.version, version.state) == (version.id, "serving")
    second = learning(rows)
    await until(lambda: second.state == "ready")
    assert second.status().rows == 80
    assert [event.kind for event in await LearningStore(database).events(5)] == ["promoted"]


async def test_what_is_stored_but_cannot_be_read_is_learned_anew(
    database: Database, learning: Callable[..., EngineLearner]
) -> None:
    store = LearningStore(database)
    await store.add_version(EngineVersion("old", 1.0, "serving", 9, 5.0, "0.1"), b"another scikit-learn's")
    learner = learning(past(80))
    await until(lambda: learner.state == "ready")
    states = {version.id: version.state for version in await store.versions(5)}
    assert states.pop("old") == "rejected"
    assert list(states.values()) == ["serving"]
    assert {event.kind for event in await store.events(5)} == {"unreadable", "promoted"}


async def test_learning_on_demand_says_what_came_of_it_and_a_broken_history_stops_nothing(
    database: Database, learning: Callable[..., EngineLearner]
) -> None:
    learner = learning(past(5))
    assert "are needed" in str((await learner.learn_now()).last)
    chance = random.Random(2)
    learner = learning(
        [replace(row, text=f"{chance.random()}", output_tokens=chance.choice([3, 900])) for row in past(80)]
    )
    status = await learner.learn_now()
    assert str(status.last).startswith("rejected") and status.version is None
    await database.close()
    learner.look_again()
    await until(lambda: learner.state == "failed")
    assert "closed" in str(learner.status().last)


async def test_drift_is_told_once_and_stays_on_record(
    database: Database, learning: Callable[..., EngineLearner]
) -> None:
    rows = past(80)
    learner = learning(rows)
    await until(lambda: learner.state == "ready")
    rows += [replace(row, text=f"{row.text} {row.task_id}") for row in past(18, seed=3, begin=200, stretch=30.0)]
    learner.look_again()
    store = LearningStore(database)

    async def told() -> bool:
        return [event.kind for event in await store.events(5)] == ["drifted", "promoted"]

    await until(told)
    observed = learner.status().covered
    assert observed is not None and observed < 0.9
    again = learning(rows)
    await until(lambda: again.state == "ready")
    assert again.status().covered == observed
    assert await told()
    rows += [replace(row, text=f"{row.text} {row.task_id}") for row in past(60, seed=4, begin=300, stretch=30.0)]
    assert str((await learner.learn_now()).last).startswith("promoted")
    assert [event.kind for event in await store.events(5)][:2] == ["promoted", "recovered"]


async def test_a_new_version_serves_even_if_that_cannot_be_told(
    database: Database, learning: Callable[..., EngineLearner]
) -> None:
    rows = past(80)
    learner = learning(rows)
    await until(lambda: learner.state == "ready")
    rows += [replace(row, text=f"{row.text} {row.task_id}") for row in past(18, seed=3, begin=200, stretch=30.0)]
    store = LearningStore(database)
    learner.look_again()

    async def drifted() -> bool:
        return [event.kind for event in await store.events(1)] == ["drifted"]

    await until(drifted)
    rows += [replace(row, text=f"{row.text} {row.task_id}") for row in past(60, seed=4, begin=300, stretch=30.0)]
    await database.write(lambda connection: connection.exec_driver_sql("DROP TABLE learning_events").close())
    status = await learner.learn_now()
    assert status.state == "failed"
    assert [version.id for version in await store.versions(9) if version.state == "serving"] == [status.version]


async def test_training_that_fails_is_not_repeated_with_every_task(learning: Callable[..., EngineLearner]) -> None:
    begun: list[int] = []

    async def train(folder: Path, rows: list[PastAttempt], priors: list[PastAttempt]) -> None:
        begun.append(len(rows))
        raise ServerException("The process that learns was killed.")

    rows = past(60)
    learner = learning(rows, train=train)
    await until(lambda: learner.state == "failed")
    for at, known in ((100, 73), (200, 86), (300, 99)):
        rows += past(13, seed=at, begin=at)
        learner.look_again()
        await until(lambda known=known: learner.status().rows == known)
    rows += past(1, seed=9, begin=400)
    learner.look_again()
    await until(lambda: len(begun) == 2)
    assert begun == [60, 100]


async def test_a_clock_that_goes_backwards_harms_nothing(learning: Callable[..., EngineLearner]) -> None:
    rows = past(80, begin=1_000)
    learner = learning(rows, clock=lambda: 2_000.0)
    await until(lambda: learner.state == "ready")
    rows[:0] = past(20, seed=4)
    assert (await learner.learn_now()).version is not None
    assert learner.predict(HAIKU) is not None


async def test_a_task_that_ended_while_the_clock_was_ahead_stops_no_learning(
    learning: Callable[..., EngineLearner],
) -> None:
    now = [2_000.0]
    rows = [*past(80, begin=1_000), *past(1, seed=5, begin=1e9)]
    learner = learning(rows, clock=lambda: now[0])
    await until(lambda: learner.state == "ready" and learner.status().rows == 80)
    now[0] = 2e9
    learner.look_again()
    await until(lambda: learner.status().rows == 81)
    now[0] = 2_000.0
    known = (await learner.learn_now()).rows
    now[0] = 2_010.0
    rows[80:80] = past(9, seed=2, begin=2_000)
    learner.look_again()
    await until(lambda: learner.status().rows == known + 9)
    now[0] = 2e9
    rows += past(1, seed=3, begin=1.5e9)
    learner.look_again()
    await until(lambda: learner.status().rows == known + 10)  # the one of 1e9 is known


async def test_a_version_of_a_clock_that_was_ahead_is_replaced_by_what_came_since(
    database: Database, learning: Callable[..., EngineLearner]
) -> None:
    now = [2e9]
    rows = past(80, begin=1e9)
    learner = learning(rows, clock=lambda: now[0])
    await until(lambda: learner.state == "ready")
    now[0] = 2_000.0
    rows[:0] = past(100, seed=3, begin=1_000)
    assert str((await learner.learn_now()).last).startswith("promoted")
    (version,) = [each for each in await LearningStore(database).versions(5) if each.state == "serving"]
    assert version.trained_until < 2_000
    before = learner.status().rows
    rows[100:100] = past(5, seed=4, begin=1_500)
    learner.look_again()
    await until(lambda: learner.status().rows == before + 5)


async def test_how_many_examples_come_with_tale_does_not_delay_learning_from_ones_own_tasks(
    learning: Callable[..., EngineLearner],
) -> None:
    learner = learning([], priors=past(400))
    await until(lambda: learner.state == "ready")
    status = learner.status()
    assert status.next_at == status.rows + LEAST_NEW


async def test_priors_that_come_with_tale_serve_before_there_is_a_history(
    tmp_path: Path, learning: Callable[..., EngineLearner]
) -> None:
    from dataclasses import asdict

    folder = tmp_path / "priors"
    assert read_priors(folder) == []
    folder.mkdir()
    (folder / "runs.jsonl").write_text("".join(f"{json.dumps(asdict(row))}\n" for row in past(80)))
    learner = learning([], priors=read_priors(folder))
    await until(lambda: learner.state == "ready")
    assert learner.predict(HAIKU) is not None


async def test_a_learner_can_be_stopped_while_it_learns(learning: Callable[..., EngineLearner]) -> None:
    never = asyncio.Event()

    async def train(folder: Path, rows: list[PastAttempt], priors: list[PastAttempt]) -> None:
        await never.wait()

    learner = learning(past(80), train=train)
    await until(lambda: learner.state == "learning")
    await learner.stop()
    assert learner.predict(HAIKU) is None


async def test_a_learner_that_may_not_learn_says_why() -> None:
    learner = EngineLearner()
    learner.decline("content = none keeps no words to learn from")
    status = await learner.learn_now()
    assert (status.state, status.last) == ("off", "content = none keeps no words to learn from")
    assert learner.predict(HAIKU) is None
    await learner.stop()
