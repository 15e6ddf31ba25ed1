"""Some checked tasks are done a second time, in quiet moments alone; what both ways cost tells what learning saves."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.scripted_pool import ScriptedPool
from fakes.servers import until

from tale.ids import new_call_id
from tale.learning.live_figures import LiveFigures, estimated_savings, live_figures, verified_savings
from tale.models.pool import ModelState, PoolStatus
from tale.orchestration.predicting import TaskPredictor
from tale.orchestration.shadows import SHADOW, Shadows, is_sampled
from tale.orchestration.task_prompt import SECOND_TRY, TASK_INSTRUCTIONS
from tale.predictions import KeptPrediction, Outcome, Prediction, Shadow, TaskQuestion
from tale.records import ModelCall, Task, TaskStatus
from tale.storage.database import Database
from tale.storage.prediction_store import PredictionStore
from tale.storage.rows import values_of
from tale.storage.tables import model_calls
from tale.storage.task_store import TaskStore

CHECK = '{"regex": "yes"}'
EXPECTED = Prediction("v1", "other", "simple", {}, 30, 10, 60, 0.95, "ux", "small enough", task_output_tokens=40)


class ReadyPool(ScriptedPool):
    """Its models are loaded; `others` is how many calls of somebody else's run."""

    others = 0
    looks = 0

    async def status(self) -> PoolStatus:
        self.looks += 1
        models = tuple(ModelState(role, role, "ready", running=self.others) for role in ("ux", "task"))
        return PoolStatus("scripted", "It is a test.", None, models)


class Expecting:
    """Expects the same of every task."""

    async def predict(self, question: TaskQuestion) -> Prediction | None:
        return EXPECTED

    def settled(self) -> None:
        """Nobody learns."""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield opened
    await opened.close()


class Execution:
    """What an executor has of a predictor with shadows."""

    def __init__(self, database: Database, pool: ScriptedPool, *, rate: float = 1.0) -> None:
        self.database, self.tasks, self.store = database, TaskStore(database), PredictionStore(database)
        self.shadows = Shadows(
            self.tasks, self.store, pool, rate=rate, max_failures=3, clock=lambda: 50.0, quiet_s=0.001
        )
        self.predictor = TaskPredictor(Expecting(), self.store, clock=lambda: 1.0, shadows=self.shadows)

    async def began(self, *, expect: str | None = CHECK) -> Task:
        task = Task(str(uuid.uuid4()), "Say yes", TaskStatus.QUEUED, 1.0, timeout_s=300, expect=expect)
        await self.tasks.insert(task)
        claimed = await self.tasks.claim(task.id, expected_attempt=None, now=2.0, max_failures=3)
        assert claimed is not None
        await self.predictor.expected(claimed, TaskQuestion(task.text, 2_048, has_check=True))
        return claimed

    async def ended(self, task: Task, **ending: str) -> None:
        for role, tokens in (("ux", 10), ("task", 20)):
            call = ModelCall(
                *(new_call_id(), 2.0, role, "execute", role, "scripted"),
                task_id=task.id,
                input_tokens=5,
                output_tokens=tokens,
                ended_at=3.0,
            )
            await self.database.insert(model_calls, values_of(call))
        status = TaskStatus.FAILED if ending else TaskStatus.COMPLETED
        await self.tasks.finish(task.id, task.attempt, status=status, now=3.0, **ending)
        self.predictor.settled()

    async def made(self, count: int) -> list[Shadow]:
        async def are_made() -> bool:
            return len(await self.store.newest_shadows(10)) == count

        await until(are_made)
        return await self.store.newest_shadows(10)


async def test_a_shadow_is_done_as_if_nothing_was_learned_and_is_no_task_of_the_user_s(database: Database) -> None:
    pool = ReadyPool(["no"], ["yes"])
    execution = Execution(database, pool)
    await execution.shadows.start()
    unchecked, checked = await execution.began(expect=None), await execution.began()
    await execution.ended(unchecked)
    await execution.ended(checked)
    (made,) = await execution.made(1)
    assert made == Shadow(checked.id, 50.0, 15, 25, True, 2 * (12 + 1), True)
    first, second = pool.calls
    assert {(context.role, context.operation, context.task_id) for _, context in pool.calls} == {("task", SHADOW, None)}
    assert (first[0].messages[0].content, first[0].max_tokens) == (TASK_INSTRUCTIONS, 2_048)
    assert SECOND_TRY in second[0].messages[0].content
    assert len(await execution.tasks.list(limit=10)) == 2
    await execution.shadows.stop()


async def test_a_task_that_ends_while_it_is_looked_at_is_not_forgotten(database: Database) -> None:
    execution = Execution(database, ReadyPool(["yes"]))
    task, look = await execution.began(), execution.tasks.get

    async def outdated(task_id: str) -> Task | None:
        stood = await look(task_id)
        if stood and not stood.status.is_final:
            await execution.ended(task)
        return stood

    execution.tasks.get = outdated  # type: ignore[method-assign] - an answer that was on its way as the task ended
    await execution.shadows.start()
    execution.shadows.look()
    (made,) = await execution.made(1)
    assert made.task_id == task.id
    await execution.shadows.stop()


async def test_a_task_that_failed_its_check_has_a_shadow_and_one_that_broke_off_has_none(database: Database) -> None:
    execution = Execution(database, ReadyPool(["no"]))
    await execution.shadows.start()
    broken, failed = await execution.began(), await execution.began()
    await execution.ended(broken, error_class="ModelException")
    await execution.ended(failed, error_class="CheckFailed")
    (made,) = await execution.made(1)
    assert (made.task_id, made.succeeded, made.naive_succeeded, made.naive_tokens) == (failed.id, False, False, 39)
    await execution.shadows.stop()


async def test_a_shadow_gives_way_to_a_task_and_is_done_anew(database: Database) -> None:
    never = asyncio.Event()
    pool = ReadyPool([never], ["yes"])
    execution = Execution(database, pool)
    await execution.shadows.start()
    await execution.ended(await execution.began())
    await pool.started.wait()
    other = await execution.began()
    await until(lambda: pool.stopped == 1)
    await execution.ended(other)
    assert len(await execution.made(2)) == 2
    await execution.shadows.stop()


async def test_a_shadow_is_not_begun_while_a_model_is_at_work_and_ends_when_one_begins(database: Database) -> None:
    never = asyncio.Event()
    pool = ReadyPool([never], ["yes"])
    execution = Execution(database, pool)
    pool.others = 1
    await execution.shadows.start()
    await execution.ended(await execution.began())
    await until(lambda: pool.looks == 3)
    assert pool.calls == []
    pool.others = 0
    await pool.started.wait()
    pool.others = 1
    await until(lambda: pool.stopped == 1)
    pool.others = 0
    await execution.made(1)
    await execution.shadows.stop()


async def test_without_a_rate_there_are_no_shadows_and_a_task_that_is_gone_harms_nothing(database: Database) -> None:
    pool = ReadyPool(["yes"])
    execution = Execution(database, pool, rate=0.0)
    await execution.shadows.start()
    await execution.ended(await execution.began())
    assert pool.calls == []
    store = PredictionStore(database)
    await store.add_shadow("gone", succeeded=True, naive_tokens=1, naive_succeeded=True, now=1.0)
    assert await store.newest_shadows(5) == []
    await execution.shadows.stop()


def test_the_share_of_tasks_that_have_shadows_is_the_rate() -> None:
    sampled = [is_sampled(str(number), 0.02) for number in range(20_000)]
    assert 0.015 < sum(sampled) / len(sampled) < 0.025


def shadow(number: int, *, small: int | None, large: int, naive: int, right: bool = True) -> Shadow:
    return Shadow(str(number), float(number), small, large, right, naive, naive_succeeded=True)


def test_verified_savings_are_told_with_their_intervals_and_not_of_a_few_tasks() -> None:
    half = [shadow(n, small=0, large=40 + n % 5, naive=80 + 2 * (n % 5), right=n != 3) for n in range(20)]
    untold = shadow(99, small=None, large=10_000, naive=1)
    found = verified_savings([*half, untold])
    assert found is not None and found.tasks == 20
    assert found.saved == found.saved_lower == found.saved_upper == 0.5
    assert (found.success_lost, found.success_lost_lower < 0 < found.success_lost_upper) == (0.05, True)
    all_right = verified_savings([shadow(n, small=0, large=40, naive=80) for n in range(10)])
    assert all_right is not None and all_right.success_lost == 0.0
    assert (all_right.success_lost_lower, all_right.success_lost_upper) == (-0.1633, 0.1633)  # 1.96 / 12
    all_lost = verified_savings([shadow(n, small=0, large=40, naive=80, right=False) for n in range(10)])
    assert all_lost is not None and (all_lost.success_lost, all_lost.success_lost_upper) == (1.0, 1.0)
    assert 0.5 < all_lost.success_lost_lower < 0.9
    mixed = [shadow(n, small=100 * (n % 2), large=50 * (n % 3), naive=100 + n) for n in range(60)]
    some, more = verified_savings(mixed), verified_savings(mixed * 4)
    assert some is not None and more is not None
    assert 0 < some.saved_lower < some.saved < some.saved_upper < 1
    assert more.saved_upper - more.saved_lower < 0.6 * (some.saved_upper - some.saved_lower)
    itself = [shadow(n, small=100, large=0, naive=100) for n in range(10)]
    assert [getattr(verified_savings(itself, small_cost=cost), "saved", None) for cost in (1.0, 0.5)] == [0.0, 0.5]
    assert verified_savings(half[:9]) is None


def test_an_answer_that_was_cut_tells_of_its_prediction_only_where_it_was_too_long_already() -> None:
    def figures(tokens: int, finish_reason: str) -> list[LiveFigures]:
        return live_figures(
            [KeptPrediction(str(n), 1, 0.0, EXPECTED, 1.0, Outcome(tokens, finish_reason)) for n in range(10)]
        )

    assert figures(16, "length") == []
    assert [(each.answers, each.covered) for each in figures(16, "stop")] == [(10, 1.0)]
    assert [each.covered for each in figures(61, "length")] == [0.0]  # of 60


def test_estimated_savings_go_by_what_was_expected_of_the_task_model() -> None:
    small = [KeptPrediction(str(n), 1, 0.0, EXPECTED, 1.0, Outcome(50)) for n in range(10)]
    found = estimated_savings(small)
    assert found is not None and (found.tasks, found.saved) == (10, 0.76)  # 0.32 x 50 of 50 x 40 / 30
    large = Prediction("v1", "other", None, {}, 9, 1, 60, 0.95, "task", "", task_output_tokens=9)
    again = [KeptPrediction(str(n), 2, 0.0, large, 1.0, Outcome(24)) for n in range(10)]
    assert getattr(estimated_savings(small, small_cost=1.0), "saved", None) == 0.25
    retried = estimated_savings([*small, *again])
    assert retried is not None and (retried.tasks, retried.saved) == (10, 0.4)
    broken = [KeptPrediction(str(n), 1, 0.0, large, 1.0, Outcome()) for n in range(10)]
    assert getattr(estimated_savings([*broken, *again]), "saved", None) == 0.0  # the second attempt is the first answer
    as_ever = [KeptPrediction(str(n), 1, 0.0, large, 1.0, Outcome(70)) for n in range(20, 30)]
    assert estimated_savings(as_ever) == estimated_savings(as_ever[::-1])
    assert getattr(estimated_savings(as_ever), "saved", None) == 0.0
    assert estimated_savings(small[:9]) is None
