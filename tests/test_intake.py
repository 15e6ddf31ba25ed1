"""What no context holds is refused when it is handed in, as far as that can be told then."""

from pathlib import Path

import pytest
from fakes.scripted_pool import ScriptedPool

from tale.exceptions import ValidationException
from tale.models.pool import ModelState
from tale.orchestration.intake import Intake, Submission
from tale.records import Attachment
from tale.settings import load_settings

BIG = Submission("x", attachments=[Attachment("big.log", "word " * 2_000)])


@pytest.fixture
def pool() -> ScriptedPool:
    return ScriptedPool()


@pytest.fixture
def intake(pool: ScriptedPool, tmp_path: Path) -> Intake:
    settings = load_settings({"home": str(tmp_path), "task_context_tokens": 1_024}, environment={})
    return Intake(settings, pool, clock=lambda: 1000.0)


async def test_what_surely_does_not_fit_is_refused_though_the_engine_cannot_count(
    intake: Intake, pool: ScriptedPool
) -> None:
    pool.states = (ModelState("m", "ux", "ready", context_tokens=1_200),)  # of both roles
    with pytest.raises(ValidationException, match="The task has at least about 1") as caught:
        await intake.accept([BIG])
    assert "tokens with its files; the model's context holds 1,136" in caught.value.message
    assert caught.value.context["context_tokens"] == 1_200


async def test_what_may_fit_is_accepted(intake: Intake, pool: ScriptedPool) -> None:
    assert await intake.accept([BIG])  # nobody knows how much the model holds
    pool.states = (ModelState("m", "task", "ready", context_tokens=131_072),)  # whatever the settings say
    assert await intake.accept([BIG])
    pool.tokens = 100_000
    assert await intake.accept([BIG])
