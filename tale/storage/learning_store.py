"""Keeps the versions of what was learned and what happened to them, and reads the attempts it is learned from."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Subquery, and_, func, insert, or_, select, tuple_, update

from tale.credentials import OWN_KEYS
from tale.ids import new_call_id
from tale.predictions import EngineVersion, LearningEvent, PastAttempt, VersionState
from tale.storage.content import is_erased
from tale.storage.database import Database
from tale.storage.learning_tables import engine_versions, learning_events, predictions
from tale.storage.prediction_store import CHECK_FAILED, EXECUTE, is_retry, served_by
from tale.storage.tables import attempts, feedback, model_calls, tasks

SCHEMA_CHECK: Final = '"json_schema": '  # in a check, which is JSON, only its key reads so
KNOWN: Final = tuple(column.name for column in engine_versions.columns if column.name != "artefact")
NOTHING_YET: Final = (0.0, "", 0)

Cursor = tuple[float, str, int]  # when a task ended, its id, and the number of its attempt


class LearningStore:
    """Versions and events in the database. Changes are durable on return; all raise DatabaseException on failure."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def past_attempts(
        self, after: Cursor, *, limit: int, until: float | None = None
    ) -> tuple[list[PastAttempt], Cursor]:
        """The newest `limit` attempts at tasks that ended after the cursor, in order, and the cursor of what is read.

        Left out are those that broke off, of which nothing can be learned, and those whose words are erased;
        with `until` also those of later, which a clock that was ahead for a while has left.
        """
        return await self._database.read(lambda connection: _past_attempts(connection, after, limit, until))

    async def versions(self, limit: int) -> list[EngineVersion]:
        """The last so many versions, newest first, without their artefacts."""
        known = [engine_versions.c[name] for name in KNOWN]
        wanted = select(*known).order_by(engine_versions.c.created_at.desc(), engine_versions.c.id.desc()).limit(limit)
        return await self._database.read(
            lambda connection: [_version_of(row) for row in connection.execute(wanted).mappings()]
        )

    async def artefact(self, version_id: str) -> bytes | None:
        """What a version consists of; None where it is not kept."""
        wanted = select(engine_versions.c.artefact).where(engine_versions.c.id == version_id)
        return await self._database.read(lambda connection: connection.scalar(wanted))

    async def add_version(self, version: EngineVersion, artefact: bytes | None) -> None:
        """Keep a version; one that serves takes the place of the one that served."""
        values = {**asdict(version), "metrics": json.dumps(dict(version.metrics)), "artefact": artefact}

        def work(connection: Connection) -> None:
            if version.state == "serving":
                _make_room(connection, version.id)
            connection.execute(insert(engine_versions), values)

        await self._database.write(work)

    async def let_serve(self, version_id: str) -> None:
        """Have an earlier version serve again."""

        def work(connection: Connection) -> None:
            _make_room(connection, version_id)
            connection.execute(_changed(version_id, "serving"))

        await self._database.write(work)

    async def reject(self, version_id: str) -> None:
        """Never use a version again, nor keep what it consists of, which holds words of tasks."""
        rejected = _changed(version_id, "rejected").values(artefact=None)
        await self._database.write(lambda connection: connection.execute(rejected))

    async def forget(self, now: float) -> None:
        """Throw away all versions, which hold words of tasks, and note that it was done. How they did is kept."""
        held = engine_versions.c.artefact.is_not(None)
        gone = update(engine_versions).where(held).values(artefact=None, state="rejected")

        def work(connection: Connection) -> None:
            if count := connection.execute(gone).rowcount:
                told = f"{count} versions held words of tasks, which are no longer kept"
                connection.execute(insert(learning_events), asdict(LearningEvent(new_call_id(), now, "erased", told)))

        await self._database.write(work)

    async def add_event(self, event: LearningEvent) -> None:
        """Keep what happened."""
        await self._database.insert(learning_events, asdict(event))

    async def events(self, limit: int) -> list[LearningEvent]:
        """What happened last, newest first."""
        newest = learning_events.c.created_at.desc()
        wanted = select(learning_events).order_by(newest, learning_events.c.id.desc()).limit(limit)
        return await self._database.read(lambda c: [LearningEvent(**row) for row in c.execute(wanted).mappings()])


def _make_room(connection: Connection, newcomer: str) -> None:
    """The version that serves becomes the one before; what was before that, or was rejected, keeps no artefact."""
    table = engine_versions.c
    older = and_(table.state != "serving", table.id != newcomer, table.artefact.is_not(None))
    connection.execute(update(engine_versions).where(older).values(artefact=None))
    connection.execute(update(engine_versions).where(table.state == "serving").values(state="retired"))


def _changed(version_id: str, state: VersionState) -> Any:
    return update(engine_versions).where(engine_versions.c.id == version_id).values(state=state)


def _version_of(row: Mapping[Any, Any]) -> EngineVersion:
    return EngineVersion(**{**row, "metrics": json.loads(row["metrics"])})


def _past_attempts(
    connection: Connection, after: Cursor, limit: int, until: float | None
) -> tuple[list[PastAttempt], Cursor]:
    attempt = attempts.c
    learnable = or_(
        attempt.outcome == "completed", and_(attempt.outcome == "failed", attempt.error_class == CHECK_FAILED)
    )
    key = (tasks.c.ended_at, attempt.task_id, attempt.number)
    ended: list[ColumnElement[bool]] = [
        tasks.c.ended_at.is_not(None),
        tasks.c.ended_at >= after[0],
        tuple_(*key) > after,
    ]
    if until is not None:
        ended.append(tasks.c.ended_at <= until)
    newest = (
        select(
            *key,
            *(attempt.outcome, tasks.c.text, tasks.c.expect, tasks.c.key_name),
            *(feedback.c.rating, feedback.c.key_name.label("rated_by")),
            func.coalesce(predictions.c.variant, "default").label("variant"),
        )
        .join(tasks, tasks.c.id == attempt.task_id)
        .outerjoin(predictions, and_(predictions.c.task_id == attempt.task_id, predictions.c.attempt == attempt.number))
        .outerjoin(feedback, feedback.c.task_id == attempt.task_id)
        .where(*ended, learnable)
        .order_by(*(column.desc() for column in key))
        .limit(limit)
        .subquery()
    )
    rows = _with_calls(connection, newest)
    cursor = (rows[-1]["ended_at"], rows[-1]["task_id"], rows[-1]["number"]) if rows else after
    return list(_together(rows)), cursor


def _with_calls(connection: Connection, newest: Subquery) -> Sequence[Mapping[Any, Any]]:
    """These attempts in order, a row for each call made for them; and whether an earlier answer failed its check."""
    call, found = model_calls.c, newest.c
    again = is_retry(found.task_id, found.number).label("is_retry")
    told = ("model", "output_tokens", "finish_reason")
    wanted = (
        select(newest, again, served_by.label("role"), *(call[name] for name in told))
        .join(
            model_calls,
            and_(call.task_id == found.task_id, call.attempt == found.number, call.operation == EXECUTE),
        )
        .where(call.ended_at.is_not(None), call.error_class.is_(None))
        .order_by(found.ended_at, found.task_id, found.number, call.started_at)
    )
    return connection.execute(wanted).mappings().all()


def _together(rows: Sequence[Mapping[Any, Any]]) -> Iterator[PastAttempt]:
    """The calls of each attempt as one: an answer that was cut and gone on with has the tokens of both."""
    for _, calls in groupby(rows, key=lambda row: (row["task_id"], row["number"])):
        first, *more = calls
        if is_erased(first["text"]):
            continue
        known = _past(first)
        for each in more:
            counts = (known.output_tokens, each["output_tokens"])
            total = None if None in counts else sum(count for count in counts if count is not None)
            known = replace(known, output_tokens=total, finish_reason=each["finish_reason"])
        yield known


def _past(row: Mapping[Any, Any]) -> PastAttempt:
    """The attempt; a rating is the word of the key that gave it, or of the task's where that is not known."""
    completed = row["outcome"] == "completed"
    rated = completed and row["rating"] is not None
    checked = completed if not completed or row["expect"] else None
    key_name = (row["rated_by"] if rated else None) or row["key_name"]
    return PastAttempt(
        task_id=row["task_id"],
        ended_at=row["ended_at"],
        text=row["text"],
        role=row["role"],
        model=row["model"],
        output_tokens=row["output_tokens"],
        finish_reason=row["finish_reason"],
        succeeded=row["rating"] == "good" if rated else checked,
        rated=rated,
        key_name=None if key_name in OWN_KEYS else key_name,
        variant=row["variant"],
        is_retry=bool(row["is_retry"]),
        has_schema=SCHEMA_CHECK in (row["expect"] or ""),
    )
