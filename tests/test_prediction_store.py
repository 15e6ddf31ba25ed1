"""Predictions are kept with the truth beside them, and the history is read as it can be learned from."""

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.servers import settings_for

from tale.ids import new_call_id
from tale.predictions import EngineVersion, LearningEvent, Outcome, Prediction
from tale.records import ModelCall, Task, TaskStatus
from tale.servers.upkeep import Upkeep
from tale.storage.database import Database
from tale.storage.learning_store import NOTHING_YET, LearningStore
from tale.storage.prediction_store import PredictionStore
from tale.storage.rows import values_of
from tale.storage.tables import model_calls
from tale.storage.task_store import TaskStore

EXPECTED = Prediction(
    version="v1",
    kind="code",
    complexity="simple",
    complexity_shares={"simple": 0.7, "medium": 0.2, "complex": 0.1},
    output_tokens=40,
    lower_tokens=10,
    upper_tokens=90,
    coverage=0.95,
    role="ux",
    reason="the small model does such tasks",
    cap_tokens=96,
    gain=0.01,
    neighbours=("a", "b"),
    took_s=0.004,
    variant="sentence",
    task_output_tokens=70,
)
CHECK = '{"regex": "x"}'


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield opened
    await opened.close()


async def running(store: TaskStore, *, expect: str | None = None, key_name: str = "ann") -> Task:
    new = Task(str(uuid.uuid4()), "Write a haiku", TaskStatus.QUEUED, 1.0, expect=expect, key_name=key_name)
    task = await store.insert(new)
    claimed = await store.claim(task.id, expected_attempt=None, now=2.0, max_failures=3)
    assert claimed is not None
    return claimed


async def called(
    database: Database,
    task: Task,
    *,
    at: float = 2.5,
    tokens: int | None = 30,
    role: str = "ux",
    asked_for: str | None = None,
) -> None:
    call = ModelCall(
        *(new_call_id(), at, role, "execute", "small", "scripted"),
        task_id=task.id,
        requested_model=asked_for,
        input_tokens=5,
        attempt=task.attempt,
        output_tokens=tokens,
        finish_reason="stop",
        ended_at=at + 1,
    )
    await database.insert(model_calls, values_of(call))


async def test_a_prediction_is_read_as_it_was_made_and_later_with_the_truth(database: Database) -> None:
    tasks, predictions = TaskStore(database), PredictionStore(database)
    task = await running(tasks)
    await predictions.add(task.id, 1, EXPECTED, now=2.1)
    (open_one,) = await predictions.of_task(task.id)
    assert (open_one.prediction, open_one.outcome, open_one.made_at) == (EXPECTED, None, 2.1)
    assert await predictions.newest(10) == []
    truth = Outcome(35, "stop", succeeded=True)
    await tasks.finish(task.id, 1, status=TaskStatus.COMPLETED, now=9.0, truth=truth)
    (settled,) = await predictions.newest(10)
    assert (settled.outcome, settled.ended_at) == (truth, 9.0)


async def test_a_late_end_of_another_attempt_leaves_the_truth_open(database: Database) -> None:
    tasks, predictions = TaskStore(database), PredictionStore(database)
    task = await running(tasks)
    await predictions.add(task.id, 1, EXPECTED, now=2.1)
    assert await tasks.finish(task.id, 7, status=TaskStatus.COMPLETED, now=9.0, truth=Outcome(1)) is None
    assert (await predictions.of_task(task.id))[0].outcome is None


async def test_a_user_s_word_is_the_truth_of_the_answer_that_was_handed_out_alone(database: Database) -> None:
    tasks, predictions = TaskStore(database), PredictionStore(database)
    task = await running(tasks, expect=CHECK)
    await predictions.add(task.id, 1, EXPECTED, now=2.1)
    failed = Outcome(30, "stop", succeeded=False)
    await tasks.release(task.id, 1, outcome="failed", now=3.0, max_failures=3, error_class="CheckFailed", truth=failed)
    await tasks.claim(task.id, expected_attempt=1, now=4.0, max_failures=3)
    await predictions.add(task.id, 2, EXPECTED, now=4.1)
    await tasks.finish(task.id, 2, status=TaskStatus.COMPLETED, now=9.0, truth=Outcome(35, "stop", succeeded=True))
    await tasks.add_feedback(task.id, "bad", None, 10.0)
    first, second = await predictions.of_task(task.id)
    assert first.outcome == failed
    assert second.outcome is not None and second.outcome.succeeded is False
    await tasks.add_feedback(task.id, "good", None, 11.0)
    assert [each.outcome and each.outcome.succeeded for each in await predictions.of_task(task.id)] == [False, True]


async def test_a_prediction_goes_with_its_task(database: Database) -> None:
    from tale.storage.retention import prune

    tasks, predictions = TaskStore(database), PredictionStore(database)
    task = await running(tasks)
    await predictions.add(task.id, 1, EXPECTED, now=2.1)
    await tasks.finish(task.id, 1, status=TaskStatus.COMPLETED, now=9.0, truth=Outcome(1))
    await prune(database, 100.0)
    assert await predictions.of_task(task.id) == []


async def test_the_history_tells_what_can_be_learned_from_and_in_order(database: Database) -> None:
    tasks, learning = TaskStore(database), LearningStore(database)
    plain, checked, broken = await running(tasks), await running(tasks, expect=CHECK), await running(tasks)
    for task in (plain, checked, broken):
        await called(database, task)
    await tasks.release(checked.id, 1, outcome="failed", now=3.0, max_failures=3, error_class="CheckFailed")
    again = await tasks.claim(checked.id, expected_attempt=1, now=4.0, max_failures=3)
    assert again is not None
    await called(database, again, at=4.5, tokens=60, role="task")
    await tasks.finish(plain.id, 1, status=TaskStatus.COMPLETED, now=5.0)
    assert [each.task_id for each in (await learning.past_attempts(NOTHING_YET, limit=10))[0]] == [plain.id]
    await tasks.finish(checked.id, 2, status=TaskStatus.COMPLETED, now=6.0)
    await tasks.finish(broken.id, 1, status=TaskStatus.FAILED, now=7.0, error_class="ModelException")
    found, cursor = await learning.past_attempts(NOTHING_YET, limit=10)
    assert [(each.task_id, each.succeeded, each.role, each.output_tokens, each.is_retry) for each in found] == [
        (plain.id, None, "ux", 30, False),
        (checked.id, False, "ux", 30, False),
        (checked.id, True, "task", 60, True),
    ]
    assert (found[0].text, found[0].key_name, found[0].ended_at) == ("Write a haiku", "ann", 5.0)
    assert await learning.past_attempts(cursor, limit=10) == ([], cursor)
    assert len((await learning.past_attempts(NOTHING_YET, limit=1))[0]) == 1


async def test_a_rating_is_the_word_of_its_key_and_those_of_whoever_runs_tale_are_none(database: Database) -> None:
    tasks, learning = TaskStore(database), LearningStore(database)
    made = [await running(tasks, key_name=name) for name in ("ann", "owner", "api_key")]
    for task in made:
        await called(database, task)
        await tasks.finish(task.id, 1, status=TaskStatus.COMPLETED, now=5.0)

    async def told() -> list[tuple[str | None, bool | None]]:
        found = {each.task_id: each for each in (await learning.past_attempts(NOTHING_YET, limit=10))[0]}
        return [(found[task.id].key_name, found[task.id].succeeded) for task in made]

    assert await told() == [("ann", None), (None, None), (None, None)]
    for task in made[:2]:
        await tasks.add_feedback(task.id, "bad", None, 6.0, key_name="bob")
    assert await told() == [("bob", False), ("bob", False), (None, None)]
    await tasks.add_feedback(made[0].id, "good", None, 7.0)
    await tasks.add_feedback(made[1].id, "good", None, 7.0, key_name="api_key")
    assert await told() == [("ann", True), (None, True), (None, None)]


async def test_attempts_are_read_up_to_a_moment_and_it_is_told_whose_answer_was_to_be_json(
    database: Database,
) -> None:
    tasks, learning = TaskStore(database), LearningStore(database)
    checks = (json.dumps({name: "json_schema"}) for name in ("regex", "json_schema"))
    made = [await running(tasks, expect=expect) for expect in checks]
    for task, ended_at in zip(made, (5.0, 1e9), strict=True):
        await called(database, task)
        await tasks.finish(task.id, 1, status=TaskStatus.COMPLETED, now=ended_at)
    found, cursor = await learning.past_attempts(NOTHING_YET, limit=10, until=100.0)
    assert ([each.task_id for each in found], cursor[0]) == ([made[0].id], 5.0)
    later, _ = await learning.past_attempts(cursor, limit=10, until=1e9)
    assert [each.has_schema for each in (*found, *later)] == [False, True]


async def test_an_answer_of_a_stand_in_counts_as_its_own_and_not_as_the_task_model_s(database: Database) -> None:
    tasks, predictions = TaskStore(database), PredictionStore(database)
    task = await running(tasks, expect=CHECK)
    await called(database, task, role="task", asked_for="large")
    await called(database, task, at=3.5, tokens=20, role="ux", asked_for="small")
    await tasks.finish(task.id, 1, status=TaskStatus.COMPLETED, now=5.0)
    ((found,), _) = await LearningStore(database).past_attempts(NOTHING_YET, limit=10)
    assert (found.role, found.model) == ("ux", "small")
    await predictions.add_shadow(task.id, succeeded=True, naive_tokens=90, naive_succeeded=True, now=9.0)
    (shadow,) = await predictions.newest_shadows(1)
    assert (shadow.small_tokens, shadow.large_tokens) == (60, 0)


async def test_the_history_tells_which_instructions_an_attempt_went_out_with(database: Database) -> None:
    tasks, learning = TaskStore(database), LearningStore(database)
    told, untold = await running(tasks), await running(tasks)
    await PredictionStore(database).add(told.id, 1, EXPECTED, now=2.1)
    for task in (told, untold):
        await called(database, task)
        await tasks.finish(task.id, 1, status=TaskStatus.COMPLETED, now=5.0)
    found, _ = await learning.past_attempts(NOTHING_YET, limit=10)
    assert {each.task_id: each.variant for each in found} == {told.id: "sentence", untold.id: "default"}


async def test_an_answer_that_was_gone_on_with_counts_as_one_and_unknown_tokens_stay_unknown(
    database: Database,
) -> None:
    tasks, learning = TaskStore(database), LearningStore(database)
    whole, unknown = await running(tasks), await running(tasks)
    for task, tokens in ((whole, 20), (unknown, None)):
        await called(database, task)
        await called(database, task, at=3.5, tokens=tokens)
        await tasks.finish(task.id, 1, status=TaskStatus.COMPLETED, now=5.0)
    found, _ = await learning.past_attempts(NOTHING_YET, limit=10)
    assert {each.task_id: each.output_tokens for each in found} == {whole.id: 50, unknown.id: None}


async def test_erased_words_are_not_learned_from(database: Database) -> None:
    from tale.storage.content import erase

    tasks, learning = TaskStore(database), LearningStore(database)
    task = await running(tasks)
    await called(database, task)
    await tasks.finish(task.id, 1, status=TaskStatus.COMPLETED, now=5.0)
    await erase(database, "hash", 100.0)
    assert (await learning.past_attempts(NOTHING_YET, limit=10))[0] == []


async def test_one_version_serves_and_the_one_before_it_can_again(database: Database) -> None:
    learning = LearningStore(database)
    made = [EngineVersion(f"v{n}", float(n), "serving", 10 * n, float(n), "1.9", {"error": n}) for n in (1, 2, 3)]
    for version in made:
        await learning.add_version(version, version.id.encode())
    await learning.add_version(replace(made[0], id="v4", created_at=4.0, state="rejected"), b"v4")
    states = {each.id: each.state for each in await learning.versions(10)}
    assert states == {"v4": "rejected", "v3": "serving", "v2": "retired", "v1": "retired"}
    assert [await learning.artefact(name) for name in ("v1", "v2", "v3", "v4")] == [None, b"v2", b"v3", b"v4"]
    await learning.let_serve("v2")
    await learning.reject("v3")
    states = {each.id: each.state for each in await learning.versions(3)}
    assert states == {"v4": "rejected", "v3": "rejected", "v2": "serving"}
    assert [await learning.artefact(name) for name in ("v2", "v3", "v4")] == [b"v2", None, None]
    assert (await learning.versions(1))[0].metrics == {"error": 1}


async def test_where_no_words_are_kept_versions_that_hold_some_are_thrown_away(
    database: Database, tmp_path: Path
) -> None:
    store = LearningStore(database)
    await store.add_version(EngineVersion("v1", 1.0, "serving", 10, 1.0, "1.9", {"error": 1}), b"words")
    for _ in range(2):  # the second time there is nothing left
        await Upkeep(settings_for(tmp_path, content="hash"), database, clock=lambda: 50.0).do_chores()
    (version,) = await store.versions(5)
    assert (version.state, version.metrics, await store.artefact("v1")) == ("rejected", {"error": 1}, None)
    assert [(event.kind, event.created_at) for event in await store.events(5)] == [("erased", 50.0)]


async def test_events_are_told_newest_first(database: Database) -> None:
    learning = LearningStore(database)
    events = [LearningEvent(str(n), float(n), "promoted", "It is better.", "v1") for n in (1, 2)]
    for event in events:
        await learning.add_event(event)
    assert await learning.events(5) == events[::-1]
