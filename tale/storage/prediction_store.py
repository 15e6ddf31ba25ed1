"""Keeps what was expected of attempts and beside it what came of them, and what tasks cost that were done both ways."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, case, exists, func, insert, select, update

from tale.predictions import KeptPrediction, Outcome, Prediction, Shadow
from tale.storage.database import Database
from tale.storage.learning_tables import predictions, shadows
from tale.storage.tables import attempts, feedback, model_calls, tasks

EXPECTED: Final = tuple(field.name for field in fields(Prediction))
AS_JSON: Final = ("complexity_shares", "neighbours")
TRUTH: Final = ("ended_at", "true_output_tokens", "finish_reason", "was_cut", "succeeded")
UNKNOWN_YET: Final[dict[str, None]] = dict.fromkeys(TRUTH)
EXECUTE: Final = "execute"  # the operation of the calls that do a task
CHECK_FAILED: Final = "CheckFailed"  # the error class of attempts whose answer failed a check
# Made once: to put a statement together takes longer than to run it.
SETTLE: Final = update(predictions).where(
    predictions.c.task_id == bindparam("of_task"), predictions.c.attempt == bindparam("of_attempt")
)
# The role of the model that served a call: the other one where it stood in for the model that was asked for.
stood_in: Final = and_(model_calls.c.requested_model.is_not(None), model_calls.c.requested_model != model_calls.c.model)
served_by: Final = case(
    (and_(stood_in, model_calls.c.role == "ux"), "task"),
    (and_(stood_in, model_calls.c.role == "task"), "ux"),
    else_=model_calls.c.role,
)
# The role of the model that gave the answer of an attempt with a prediction; null where no call of it is known.
answered_by: Final = (
    select(served_by)
    .where(
        model_calls.c.task_id == predictions.c.task_id,
        model_calls.c.attempt == predictions.c.attempt,
        model_calls.c.operation == EXECUTE,
    )
    .order_by(model_calls.c.started_at.desc())
    .limit(1)
    .correlate(predictions)
    .scalar_subquery()
)
RATED: Final = case((feedback.c.rating == "good", True), (feedback.c.rating == "bad", False), else_=None)


def is_retry(task_id: ColumnElement[str], number: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether an earlier answer of the task failed its check: the attempt of that number has one of the hard tasks."""
    earlier = attempts.alias()
    of_task = (earlier.c.task_id == task_id, earlier.c.number < number)
    return exists().where(*of_task, earlier.c.error_class == CHECK_FAILED)


class PredictionStore:
    """Predictions in the database. One is durable on return; all raise DatabaseException when it fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, task_id: str, attempt: int, prediction: Prediction, *, now: float) -> None:
        """Keep what is expected of an attempt; to be called before its model is asked."""
        told: dict[str, Any] = {name: getattr(prediction, name) for name in EXPECTED}
        told["complexity_shares"] = json.dumps(dict(prediction.complexity_shares))
        told["neighbours"] = json.dumps(prediction.neighbours)
        values = {"task_id": task_id, "attempt": attempt, "made_at": now, **told, **UNKNOWN_YET}
        await self._database.insert(predictions, values)

    async def of_task(self, task_id: str) -> list[KeptPrediction]:
        """What was expected of each attempt at a task, in their order."""
        wanted = _kept().where(predictions.c.task_id == task_id).order_by(predictions.c.attempt)
        return await self._read(wanted)

    async def newest(self, limit: int) -> list[KeptPrediction]:
        """The last so many whose truth is known, in the order in which it became known."""
        ended = predictions.c.ended_at
        wanted = _kept().where(ended.is_not(None)).order_by(ended.desc(), predictions.c.task_id).limit(limit)
        return (await self._read(wanted))[::-1]

    async def add_shadow(
        self, task_id: str, *, succeeded: bool, naive_tokens: int | None, naive_succeeded: bool, now: float
    ) -> None:
        """Keep what a task cost without learning, beside what all calls for it have cost; once a task."""

        def work(connection: Connection) -> None:
            has_one = select(shadows.c.task_id).where(shadows.c.task_id == task_id)
            task = select(tasks.c.id).where(tasks.c.id == task_id)
            if connection.scalar(task) is None or connection.scalar(has_one) is not None:
                return
            small, large = (_cost(connection, task_id, role) for role in ("ux", "task"))
            made = Shadow(task_id, now, small, large, succeeded, naive_tokens, naive_succeeded)
            connection.execute(insert(shadows), asdict(made))

        await self._database.write(work)

    async def newest_shadows(self, limit: int) -> list[Shadow]:
        """The last so many tasks that were done both ways, newest first."""
        wanted = select(shadows).order_by(shadows.c.made_at.desc(), shadows.c.task_id).limit(limit)
        return await self._database.read(lambda c: [Shadow(**row) for row in c.execute(wanted).mappings()])

    async def _read(self, wanted: Select[Any]) -> list[KeptPrediction]:
        return await self._database.read(
            lambda connection: [_prediction_of(row) for row in connection.execute(wanted).mappings()]
        )


def settle(connection: Connection, task_id: str, attempt: int, outcome: Outcome, *, now: float) -> None:
    """Add the truth to the prediction of an attempt, if there is one; part of the move that ends the attempt."""
    truth = (now, outcome.output_tokens, outcome.finish_reason, outcome.was_cut, outcome.succeeded)
    values: dict[str, Any] = dict(zip(TRUTH, truth, strict=True))
    connection.execute(SETTLE, {"of_task": task_id, "of_attempt": attempt, **values})


def _cost(connection: Connection, task_id: str, role: str) -> int | None:
    """Tokens read and written by the model of a role for a task; None where a call has not told them."""
    call = model_calls.c
    untold = func.sum(case((call.output_tokens.is_(None) | call.input_tokens.is_(None), 1), else_=0))
    sums = select(func.sum(call.input_tokens + call.output_tokens), untold)
    found = connection.execute(sums.where(call.task_id == task_id, served_by == role)).one()
    return None if found[1] else int(found[0] or 0)


def _kept() -> Select[Any]:
    """Predictions with the ratings of their tasks."""
    rated = predictions.outerjoin(feedback, feedback.c.task_id == predictions.c.task_id)
    return select(predictions, RATED.label("rated")).select_from(rated)


def _prediction_of(row: Mapping[Any, Any]) -> KeptPrediction:
    expected: dict[str, Any] = {name: row[name] for name in EXPECTED}
    for name in AS_JSON:
        expected[name] = json.loads(expected[name])
    expected["neighbours"] = tuple(expected["neighbours"])
    outcome = None
    if row["ended_at"] is not None:
        succeeded = row["succeeded"]
        if row["rated"] is not None and succeeded is not False:  # the word is about the answer that was handed out
            succeeded = bool(row["rated"])
        outcome = Outcome(row["true_output_tokens"], row["finish_reason"], bool(row["was_cut"]), succeeded)
    known = (row["task_id"], row["attempt"], row["made_at"])
    return KeptPrediction(*known, Prediction(**expected), row["ended_at"], outcome)
