"""Attempts follow what is expected of them, and are made all the same where nobody knows anything."""

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_pool import ScriptedPool

from tale.exceptions import ModelException, ValidationException
from tale.learning.prompts import instruction_of
from tale.models.backend import ChatStream
from tale.models.pool import Beside
from tale.orchestration.attempt_plan import GO_ON, Seam, following
from tale.orchestration.executor import TaskExecutor
from tale.orchestration.plan_keys import question_key
from tale.orchestration.predicting import TaskPredictor
from tale.orchestration.task_prompt import TASK_INSTRUCTIONS
from tale.predictions import Outcome, Prediction, TaskQuestion
from tale.records import CallContext, ChatRequest, Reply, Task, TaskStatus, Usage
from tale.storage.database import Database
from tale.storage.prediction_store import PredictionStore
from tale.storage.task_store import TaskStore

EXPECTED = Prediction(
    *("v1", "story", "simple", {"simple": 1.0}, 2, 1, 3, 0.95, "ux", "the small model does such tasks"),
    cap_tokens=3,
)


class PlayedLearning:
    """Expects what it was told to; knows who asked."""

    def __init__(self, prediction: Prediction | None = EXPECTED) -> None:
        self.prediction = prediction
        self.questions: list[TaskQuestion] = []
        self.settlements = 0

    async def predict(self, question: TaskQuestion) -> Prediction | None:
        self.questions.append(question)
        found = self.prediction
        return replace(found, role=question.role) if found and question.role else found

    def settled(self) -> None:
        self.settlements += 1


class CuttingPool(ScriptedPool):
    """A piece is a token, and no answer has more of them than it may."""

    async def chat(self, request: ChatRequest, context: CallContext, *, beside: Beside | None = None) -> ChatStream:
        script = self.scripts[min(len(self.calls), len(self.scripts) - 1)]
        whole, most = len(script), request.max_tokens or len(script)
        cut: list[Sequence[str | Exception | asyncio.Event]] = [script[:most]]
        player = ScriptedPool(*cut)
        self.calls.append((request, context))
        async for event in player.chat(request, context, beside=beside):
            if isinstance(event, Reply):
                usage = Usage(12, min(most, whole), 0)
                event = replace(event, finish_reason="length" if most < whole else "stop", usage=usage)
            yield event


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield opened
    await opened.close()


async def done(database: Database, pool: ScriptedPool, learning: PlayedLearning, **given: Any) -> Task:
    """A task after its first attempt."""
    store = TaskStore(database)
    task = await store.insert(Task(str(uuid.uuid4()), "Write a haiku", TaskStatus.QUEUED, 1.0, timeout_s=300, **given))
    return await executor(database, pool, learning).execute(task.id)


def executor(database: Database, pool: ScriptedPool, learning: PlayedLearning, **given: Any) -> TaskExecutor:
    predictor = TaskPredictor(learning, PredictionStore(database), clock=lambda: 1000.0)
    limits = {"max_output_tokens": 20, "max_failures": 3, "clock": lambda: 1000.0, "routing": "auto", **given}
    return TaskExecutor(TaskStore(database), pool, predictor=predictor, **limits)


async def kept(database: Database, task: Task) -> list[tuple[Prediction, Outcome | None]]:
    return [(each.prediction, each.outcome) for each in await PredictionStore(database).of_task(task.id)]


async def test_the_model_and_the_limit_are_those_that_were_learned(database: Database) -> None:
    pool, learning = CuttingPool(["Old", " pond"]), PlayedLearning()
    task = await done(database, pool, learning)
    request, context = pool.calls[0]
    assert (context.role, context.route_reason, request.max_tokens) == ("ux", EXPECTED.reason, 3)
    assert (task.status, task.result, task.role) == (TaskStatus.COMPLETED, "Old pond", "ux")
    assert await kept(database, task) == [(EXPECTED, Outcome(2, "stop"))]
    assert learning.settlements == 1
    assert learning.questions == [TaskQuestion("Write a haiku", 20)]


async def test_a_plan_is_made_by_the_task_model_though_the_small_one_would_do(database: Database) -> None:
    pool, learning = CuttingPool(["{}"]), PlayedLearning()
    task = await done(database, pool, learning, idempotency_key=question_key("a-plan"))
    assert (pool.calls[0][1].role, task.role) == ("task", "task")
    assert learning.questions == [TaskQuestion("Write a haiku", 20, role="task")]


async def test_where_nothing_is_known_all_is_as_without_learning(database: Database) -> None:
    pool = CuttingPool(["Old", " pond"])
    task = await done(database, pool, PlayedLearning(None))
    request, context = pool.calls[0]
    assert (context.role, context.route_reason, request.max_tokens) == ("task", None, 20)
    assert task.status is TaskStatus.COMPLETED
    assert await kept(database, task) == []


async def test_a_limit_that_was_learned_never_exceeds_the_user_s(database: Database) -> None:
    pool = CuttingPool(["Old", " pond", ", frog"])
    task = await done(database, pool, PlayedLearning(), max_output_tokens=2)
    assert [request.max_tokens for request, _ in pool.calls] == [2]
    assert (task.result, task.finish_reason) == ("Old pond", "length")


async def test_an_answer_that_was_cut_goes_on_once_and_the_user_sees_all_of_it(database: Database) -> None:
    pool, heard = CuttingPool(list("abcde"), list("def")), list[str]()
    store = TaskStore(database)
    task = await store.insert(Task(str(uuid.uuid4()), "Write a haiku", TaskStatus.QUEUED, 1.0, timeout_s=300))
    runner = executor(database, pool, PlayedLearning(), on_text=lambda _, __, text: heard.append(text))
    ended = await runner.execute(task.id)
    assert ended.result == "".join(heard) == "abcdef"
    (_, first), (again, second) = (call for call in pool.calls)
    assert first == second
    assert [message.content for message in again.messages[-2:]] == ["abc", GO_ON]
    assert again.max_tokens == 20 - 3
    assert await kept(database, task) == [(EXPECTED, Outcome(6, "stop", was_cut=True))]


async def test_an_answer_that_goes_round_in_circles_is_not_gone_on_with(database: Database) -> None:
    pool = CuttingPool(["It is so, as everybody knows. "] * 20)
    task = await done(database, pool, PlayedLearning(replace(EXPECTED, cap_tokens=15)))
    assert len(pool.calls) == 1
    assert (task.status, task.finish_reason) == (TaskStatus.COMPLETED, "length")
    assert (await kept(database, task))[0][1] == Outcome(15, "length")


async def test_a_context_that_is_full_ends_the_answer_where_it_was_cut(database: Database) -> None:
    pool = CuttingPool(list("abcde"), [ValidationException("The prompt does not fit.")])
    task = await done(database, pool, PlayedLearning())
    assert (task.status, task.result, task.finish_reason) == (TaskStatus.COMPLETED, "abc", "length")
    assert (await kept(database, task))[0][1] == Outcome(3, "length", was_cut=True)


async def test_an_engine_that_breaks_on_the_way_fails_the_attempt_with_all_that_was_written(database: Database) -> None:
    pool = CuttingPool(list("abcde"), ["d" * 300, ModelException("The engine broke.")])
    task = await done(database, pool, PlayedLearning())
    assert (task.status, task.result) == (TaskStatus.QUEUED, "abc" + "d" * 300)
    assert (await kept(database, task))[0][1] == Outcome(was_cut=True)


async def test_json_that_could_not_go_on_is_cut_at_no_learned_limit(database: Database) -> None:
    pool, learning = CuttingPool(["{}"]), PlayedLearning()
    await done(database, pool, learning, expect='{"json_schema": {"type": "object"}}')
    assert learning.questions == [TaskQuestion("Write a haiku", 20, has_check=True, has_schema=True)]
    assert pool.calls[0][0].max_tokens == 20


async def test_an_answer_that_fails_its_check_is_a_truth_too_and_the_task_model_s_turn_comes(
    database: Database,
) -> None:
    pool, learning = CuttingPool(["no"], ["yes"]), PlayedLearning()
    task = await done(database, pool, learning, expect='{"regex": "yes"}')
    assert task.status is TaskStatus.QUEUED
    ended = await executor(database, pool, learning).execute(task.id, attempt=1)
    assert (ended.status, ended.result) == (TaskStatus.COMPLETED, "yes")
    assert [context.role for _, context in pool.calls] == ["ux", "task"]
    assert "failed its check" in str(pool.calls[1][1].route_reason)
    truths = [outcome for _, outcome in await kept(database, task)]
    assert truths == [Outcome(1, "stop", succeeded=False), Outcome(1, "stop", succeeded=True)]


async def test_with_routing_off_only_the_limit_is_learned(database: Database) -> None:
    pool, learning = CuttingPool(["x"]), PlayedLearning()
    store = TaskStore(database)
    task = await store.insert(Task(str(uuid.uuid4()), "Write a haiku", TaskStatus.QUEUED, 1.0, timeout_s=300))
    await executor(database, pool, learning, routing="off").execute(task.id)
    assert learning.questions[0].role == "task"
    assert (pool.calls[0][1].role, pool.calls[0][0].max_tokens) == ("task", 3)


async def test_the_instructions_are_those_that_were_learned_and_a_stated_length_is_not_the_limit(
    database: Database,
) -> None:
    pool, expected = CuttingPool(["x"]), replace(EXPECTED, variant="limited", stated_tokens=40)
    task = await done(database, pool, PlayedLearning(expected))
    request = pool.calls[0][0]
    assert (request.messages[0].content, request.max_tokens) == (instruction_of("limited", 40), 3)
    assert await kept(database, task) == [(expected, Outcome(1, "stop"))]
    await done(database, pool, PlayedLearning(replace(EXPECTED, variant="of a later tale")))
    assert pool.calls[1][0].messages[0].content == TASK_INSTRUCTIONS


async def test_what_failed_its_check_is_done_again_with_what_was_wrong_beside_the_instructions(
    database: Database,
) -> None:
    pool, learning = CuttingPool(["no"], ["no"], ["yes"]), PlayedLearning(replace(EXPECTED, variant="sentence"))
    task = await done(database, pool, learning, expect='{"regex": "yes"}')
    for attempt in (1, 2):
        await executor(database, pool, learning).execute(task.id, attempt=attempt)
    first, second, _ = (request.messages[0].content for request, _ in pool.calls)
    assert [question.again for question in learning.questions] == [False, False, True]
    assert second == first + "\nAn earlier answer to this task was not accepted. Take care to get it right."
    schema = '{"json_schema": {"type": "object"}}'
    await done(database, CuttingPool(["{}"]), learning, expect=schema)
    assert learning.questions[-1].has_schema


async def test_a_prediction_that_cannot_be_kept_does_not_count_and_fails_nothing(
    database: Database, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "tale.db") as connection:
        connection.execute("DROP TABLE predictions")
    connection.close()
    pool = CuttingPool(["Old", " pond"])
    task = await done(database, pool, PlayedLearning())
    assert (task.status, pool.calls[0][1].role) == (TaskStatus.COMPLETED, "task")


def test_a_block_of_code_that_was_cut_goes_on_in_one_block() -> None:
    before = "```python\ndef add(a, b):\n"
    assert following(before, "```python\n    return a + b\n```") == "    return a + b\n```"
    assert following("Done.\n", "```python\nx\n```") == "```python\nx\n```"


def test_what_was_said_is_not_said_twice_and_streams_as_it_is_kept() -> None:
    seam = Seam("The quick brown fox")
    pieces = ["quick ", "brown fox", " jumps over", " the dog." + " It sleeps." * 30, " End."]
    told = [seam.pass_on(piece) for piece in pieces]
    assert told[:3] == ["", "", ""]
    assert "".join(told) + seam.end() == " jumps over the dog." + " It sleeps." * 30 + " End."
    short = Seam("abc")
    assert short.pass_on("def") + short.end() == "def"
