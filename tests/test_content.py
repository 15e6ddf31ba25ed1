"""The words of finished work stay, turn into digests, or go; figures stay in any case, and open work loses nothing."""

import hashlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.servers import settings_for
from sqlalchemy import Table, insert, select, union, update

from tale.records import Correction, McpCall, ModelCall, Task, TaskStatus
from tale.servers.upkeep import Upkeep
from tale.storage.call_store import CallStore
from tale.storage.content import BATCH_ROWS, erase, erased
from tale.storage.conversation_store import ConversationStore
from tale.storage.correction_store import CorrectionStore
from tale.storage.database import Database
from tale.storage.reader import reading
from tale.storage.tables import (
    attachments,
    attempts,
    conversations,
    feedback,
    mcp_calls,
    messages,
    model_calls,
    task_dependencies,
    tasks,
)
from tale.storage.task_store import TaskStore
from tale.storage.transfer import Period, export_all, files_of, import_file

DIGEST = f"sha256:{hashlib.sha256(b'words').hexdigest()}"
CUTOFF = 1_000.0


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    yield database
    await database.close()


async def stored(database: Database, ended_at: float | None, **values: Any) -> str:
    """The id of a task with words in all places."""
    status = TaskStatus.RUNNING if ended_at is None else TaskStatus.COMPLETED
    said = dict.fromkeys(("result", "error"), "words")
    task = Task(str(uuid.uuid4()), "words", status, 1.0, ended_at=ended_at, model="m", **said, **values)
    await TaskStore(database).insert(task)
    file = {"task_id": task.id, "position": 0, "name": "a.txt", "text": "words"}
    await add(database, attachments, file)
    await add(database, attempts, {"task_id": task.id, "number": 1, "started_at": 1.0, "error": "words"})
    await TaskStore(database).add_feedback(task.id, "good", "words", 2.0)
    return task.id


async def add(database: Database, table: Table, *rows: dict[str, Any]) -> None:
    await database.write(lambda connection: connection.execute(insert(table), list(rows)).rowcount)


def failed_call(name: str, at: float, **values: Any) -> ModelCall:
    named = {"ended_at": at, "error_class": "ValidationException", "error": "words", **values}
    return ModelCall(name, at - 5.0, "task", "execute", model="m", provider="p", **named)


def failed_request(name: str, at: float) -> McpCall:
    return McpCall(name, at, "gateway", "POST /v1/chat/completions", 5.0, "error", error="words")


async def errors_of(database: Database, table: Table) -> dict[str, set[str]]:
    rows = await database.read(lambda connection: connection.execute(select(table.c.error, table.c.id)).all())
    return {error: {name for each, name in rows if each == error} for error, _ in rows}


async def words_of(database: Database, task_id: str) -> set[str | None]:
    task = await TaskStore(database).get(task_id)
    assert task is not None
    columns = (attachments.c.text, attempts.c.error, feedback.c.comment)
    wanted = union(*(select(column).where(column.table.c.task_id == task_id) for column in columns))
    return {task.text, task.result, task.error, *await database.read(lambda c: c.scalars(wanted).all())}


def finished_task(task_id: str) -> dict[str, Any]:
    numbers = dict.fromkeys(("priority", "timeout_s", "attempt", "failures"), 0)
    return {"id": task_id, "text": "words", "status": "completed", "created_at": 1.0, "ended_at": 5.0, **numbers}


@pytest.mark.parametrize(("policy", "rest"), [("hash", DIGEST), ("none", "")])
async def test_of_finished_work_the_policy_says_what_stays(database: Database, policy: Any, rest: str) -> None:
    ended, fresh, running = [await stored(database, at) for at in (500.0, 2_000.0, None)]
    assert await erase(database, policy, CUTOFF) == 1
    assert await words_of(database, ended) == {rest}
    assert await words_of(database, fresh) == await words_of(database, running) == {"words"}
    task = await TaskStore(database).get(ended)
    assert task is not None and (task.model, task.ended_at) == ("m", 500.0)
    assert await erase(database, policy, CUTOFF) == 0
    assert await erase(database, policy, 3_000.0) == 1
    assert await words_of(database, ended) == await words_of(database, fresh) == {rest}


async def test_digests_can_be_dropped_later(database: Database) -> None:
    task_id = await stored(database, 500.0)
    await erase(database, "hash", CUTOFF)
    await erase(database, "none", CUTOFF)
    assert await words_of(database, task_id) == {""}


async def test_a_digest_is_not_digested_again() -> None:
    assert erased(DIGEST, "hash") == erased("words", "hash") == DIGEST


async def test_a_conversation_keeps_its_words_until_it_has_been_silent(database: Database) -> None:
    store = ConversationStore(database)
    for name, at in (("old", 500.0), ("new", 2_000.0)):
        await store.append(name, "user", "words", now=at)
    await erase(database, "hash", CUTOFF)
    assert [turn.content for turn in await store.turns("old")] == [DIGEST]
    assert [turn.content for turn in await store.turns("new")] == ["words"]
    await store.append("old", "user", "words", now=2_500.0)
    await erase(database, "hash", 3_000.0)
    assert [turn.content for turn in await store.turns("old")] == [DIGEST, DIGEST]


async def test_summaries_and_comments_go_with_the_words_of_their_conversation(database: Database) -> None:
    store = ConversationStore(database)
    await store.append("old", "assistant", "words", now=500.0)
    await store.sum_up("old", "words", until=1)
    await store.rate("old", "bad", position=None, comment="words")
    await erase(database, "hash", CUTOFF)
    said = select(messages.c.content, messages.c.comment, conversations.c.summary).join(conversations)
    assert await database.read(lambda connection: set(connection.execute(said).one())) == {DIGEST}


@pytest.mark.parametrize("before", [CUTOFF, 3_000.0])
async def test_words_that_come_late_go_the_next_time(database: Database, before: float) -> None:
    """Comments on what was gone through already, and on what was not."""
    store, task_id = ConversationStore(database), await stored(database, 500.0)
    await store.append("old", "assistant", "words", now=500.0)
    await stored(database, 900.0)
    await erase(database, "none", CUTOFF)
    await TaskStore(database).add_feedback(task_id, "bad", "words", 2_000.0)
    await store.rate("old", "bad", position=None, comment="words")
    await erase(database, "none", before)
    assert await words_of(database, task_id) == {""}
    assert [turn.comment for turn in await store.turns("old")] == [""]


async def test_words_that_come_while_others_go_are_not_forgotten(database: Database) -> None:
    await add(database, tasks, *(finished_task(f"{number:03}") for number in range(BATCH_ROWS + 3)))

    async def comment(_: float) -> None:
        await TaskStore(database).add_feedback("000", "bad", "words", 2_000.0)

    await erase(database, "none", CUTOFF, pause=comment)
    await erase(database, "none", CUTOFF)
    assert await database.read(lambda connection: connection.scalar(select(feedback.c.comment))) == ""


async def test_words_that_are_imported_go_as_well(database: Database, tmp_path: Path) -> None:
    other = Database.open(f"sqlite:///{tmp_path}/other.db")
    task_id = await stored(other, 500.0)
    await ConversationStore(other).append("old", "user", "words", now=500.0)
    await CallStore(other).close_call(failed_call("old", 500.0))
    with reading(other.url) as reader:
        assert reader is not None
        export_all(reader, tmp_path / "out", Period(), "parquet")
    await other.close()
    for table, path in files_of(tmp_path / "out"):
        await erase(database, "none", CUTOFF)  # what belongs to a task may come after it was gone through
        await import_file(database, table, path)
    await erase(database, "none", CUTOFF)
    assert await words_of(database, task_id) == {""}
    assert [turn.content for turn in await ConversationStore(database).turns("old")] == [""]
    assert await errors_of(database, model_calls) == {"": {"old"}}


@pytest.mark.parametrize(("policy", "rest"), [("hash", DIGEST), ("none", "")])
async def test_why_calls_failed_goes_with_what_it_quotes(database: Database, policy: Any, rest: str) -> None:
    """Those of tasks and of nobody, and of a request whose row comes when others have been erased."""
    store = CallStore(database)
    for name, at in (("old", 500.0), ("new", 2_000.0)):
        await store.close_call(failed_call(name, at, task_id=name))
        await store.close_call(failed_call(f"{name}, of nobody", at))
        await store.record_mcp(failed_request(name, at))
    await store.close_call(failed_call("open", 500.0, ended_at=None))
    await store.record_mcp(failed_request("ended late", CUTOFF - 1.0))
    await erase(database, policy, CUTOFF)
    assert await errors_of(database, model_calls) == {
        "words": {"new", "new, of nobody", "open"},
        rest: {"old", "old, of nobody"},
    }
    assert await errors_of(database, mcp_calls) == {"words": {"new", "ended late"}, rest: {"old"}}
    await store.record_mcp(failed_request("long", 900.0))
    await erase(database, policy, 3_000.0)
    assert await errors_of(database, mcp_calls) == {rest: {"old", "new", "long", "ended late"}}
    classes = await database.read(lambda c: set(c.scalars(select(model_calls.c.error_class))))
    assert classes == {"ValidationException"}


async def test_what_users_put_right_goes_as_a_whole(database: Database) -> None:
    store = CorrectionStore(database)
    for name, at in (("old", 500.0), ("new", 2_000.0)):
        await store.add(Correction(name, at, "words", label="task", detected="chat"))
    await erase(database, "none", CUTOFF)
    assert [correction.id for correction in await store.newest(10)] == ["new"]


async def test_a_result_that_another_task_waits_for_stays_until_that_has_ended(database: Database) -> None:
    first, second = await stored(database, 500.0), await stored(database, None)
    row = {"task_id": second, "after_id": first, "position": 0}
    await database.write(lambda connection: connection.execute(insert(task_dependencies), row).rowcount)
    assert await erase(database, "none", CUTOFF) == 0
    assert await words_of(database, first) == {"words"}
    ended = update(tasks).where(tasks.c.id == second).values(ended_at=1_500.0)
    await database.write(lambda connection: connection.execute(ended).rowcount)
    assert await erase(database, "none", 2_000.0) == 2
    assert await words_of(database, first) == {""}


async def test_many_tasks_go_batch_by_batch(database: Database) -> None:
    await add(database, tasks, *(finished_task(str(uuid.uuid4())) for _ in range(BATCH_ROWS + 3)))
    assert await erase(database, "none", CUTOFF) == BATCH_ROWS + 3
    texts = await database.read(lambda connection: set(connection.scalars(select(tasks.c.text))))
    assert texts == {""}


@pytest.mark.parametrize(("policy", "rest"), [("full", "words"), ("hash", DIGEST), ("none", "")])
async def test_the_servers_do_what_the_setting_says(database: Database, tmp_path: Path, policy: str, rest: str) -> None:
    ended, fresh = await stored(database, 500.0), await stored(database, 900.0)
    settings = settings_for(tmp_path, content=policy, content_hold_s=200.0)
    await Upkeep(settings, database, clock=lambda: CUTOFF).do_chores()
    assert await words_of(database, ended) == {rest}
    assert await words_of(database, fresh) == {"words"}
