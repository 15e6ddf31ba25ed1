"""What was learned counts as in the report: whole answers, by the models that gave them, at what their tokens cost."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.learned_history import keep_learned
from fakes.sample_history import LARGE, NOW, SMALL
from polars.testing import assert_frame_equal
from sqlalchemy import Update, func, select, update

from tale.analytics import open_history
from tale.analytics.learned import Learned, learned
from tale.figures.learning import curve_points, error_points, reliability_points
from tale.learning.live_figures import live_figures
from tale.storage.database import Database
from tale.storage.learning_tables import predictions
from tale.storage.prediction_store import PredictionStore
from tale.storage.tables import attempts, model_calls

HOURS = 6.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tale.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    await keep_learned(f"sqlite:///{path}", now=NOW)
    database = Database.open(f"sqlite:///{path}")
    yield database
    await database.close()


async def change(database: Database, *changes: Update) -> None:
    for each in changes:
        await database.write(lambda c, each=each: c.execute(each).rowcount)


def seen(path: Path, hours: float = HOURS, *, now: float = NOW) -> Learned:
    with open_history(path, clock=lambda: now) as history:
        return learned(history, hours)


async def test_answers_that_were_cut_at_somebodys_limit_count_as_little_as_in_the_report(
    path: Path, database: Database
) -> None:
    """Of one that was longer than its budget already, it is known that it did not fit."""
    of, tokens = predictions.c, predictions.c.true_output_tokens
    cut, too_long = of.true_output_tokens % 2 == 0, of.true_output_tokens % 10 == 0
    at_limit = update(predictions).values(finish_reason="length")
    await change(
        database,
        at_limit.where(cut, too_long).values(true_output_tokens=of.upper_tokens + 5),
        at_limit.where(cut, ~too_long, of.finish_reason == "stop").values(true_output_tokens=16),
    )
    told = live_figures(await PredictionStore(database).newest(1_000))
    found = seen(path)
    points = error_points(found.predictions, found.window)
    known = found.predictions.filter("tells")
    answers = sum(each.answers for each in told)
    assert points["count"].sum() == curve_points(found.predictions)["answers"][-1] == answers < len(found.predictions)
    assert set(known.filter(known["output_tokens"] > known["budget_tokens"])["was_cut"]) == {False}
    for column, name in (("covered", "covered"), ("error", "mean_error_tokens"), ("plain", "plain_error_tokens")):
        mean = (points[column] * points["count"]).sum() / answers
        assert mean == pytest.approx(sum(getattr(each, name) * each.answers for each in told) / answers, rel=0.02)
    assert 0 < points["covered"].mean() < 1
    hour = seen(path, 1.0).predictions.select("task_id", "plain_tokens")
    assert_frame_equal(hour, found.predictions.tail(len(hour)).select("task_id", "plain_tokens"))
    assert await database.read(lambda c: c.scalar(select(func.count()).where(tokens == 16))) > 10


async def test_the_answer_of_a_stand_in_is_held_against_that_models_chance(path: Path, database: Database) -> None:
    """A call of the sample tells of no attempt; then the answer counts for the model that was chosen."""
    before = seen(path).predictions
    assert before["served_by"].equals(before["role"].alias("served_by"))
    begun = (attempts.c.task_id == model_calls.c.task_id, attempts.c.started_at == model_calls.c.started_at)
    number = select(attempts.c.number).where(*begun).scalar_subquery()
    await change(database, update(model_calls).where(model_calls.c.operation == "execute").values(attempt=number))
    points = reliability_points(seen(path).predictions)
    assert {model: round(chance, 6) for model, chance in points.select("model", "chance").iter_rows()} == {
        SMALL: 0.6,
        LARGE: 0.9,
    }


async def test_what_is_tried_again_says_nothing_of_the_chance_of_a_first_answer(path: Path, database: Database) -> None:
    before = seen(path).predictions.drop_nulls("succeeded")
    failed = before["task_id"][0]
    again = update(predictions).where(predictions.c.task_id == failed).values(attempt=2)
    other = before["task_id"][1]
    restarted = update(predictions).where(predictions.c.task_id == other).values(attempt=2)
    failing = update(attempts).where(attempts.c.task_id == failed, attempts.c.number == 1)
    begun_anew = update(attempts).where(attempts.c.task_id == other).values(number=2)
    await change(database, again, restarted, begun_anew, failing.values(error_class="CheckFailed"))
    found = seen(path).predictions
    chances = dict(found.select("task_id", "chance").iter_rows())
    assert chances[failed] is None and chances[other] is not None
    assert reliability_points(found)["count"].sum() == len(before) - 1


async def test_the_models_are_those_that_filled_the_roles_last_whatever_the_window(
    path: Path, database: Database
) -> None:
    """The small one did no task in its own role."""
    models = {"ux": SMALL, "task": LARGE}
    assert [seen(path, hours).models for hours in (0.25, 1.0, HOURS)] == [models] * 3
    assert seen(path, 1.0, now=NOW + 100_000).models == models
    later = update(model_calls).where(model_calls.c.role == "task", model_calls.c.started_at > NOW - 3_000)
    await change(database, later.values(model="another", requested_model="another"))
    assert seen(path).models == {"ux": SMALL, "task": "another"}
