"""Calls are kept whole, summed up honestly, and closed when their process died; conversations keep their order."""

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tale.exceptions import DatabaseException
from tale.records import McpCall, ModelCall, TokenTotals
from tale.storage.call_store import CallStore
from tale.storage.conversation_store import ConversationStore
from tale.storage.database import Database
from tale.storage.rows import values_of
from tale.storage.tables import mcp_calls


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    yield database
    await database.close()


@pytest.fixture
def calls(database: Database) -> CallStore:
    return CallStore(database)


@pytest.fixture
def conversations(database: Database) -> ConversationStore:
    return ConversationStore(database)


def new_call(started_at: float = 1.0, **values: Any) -> ModelCall:
    named = {"role": "task", "operation": "execute", "model": "m", "provider": "embedded", **values}
    return ModelCall(id=str(uuid.uuid4()), started_at=started_at, **named)


async def test_a_call_is_kept_from_its_beginning_and_read_as_it_ended(calls: CallStore) -> None:
    begun = new_call(task_id="t", attempt=1, priority=10, trace_id="trace")
    await calls.open_call(begun)
    assert await calls.calls() == [begun]
    ended = replace(
        begun,
        model="fallback",
        requested_model="m",
        input_tokens=10,
        output_tokens=20,
        cached_tokens=4,
        reasoning_tokens=0,
        queue_s=0.0,
        load_s=0.5,
        prefill_s=0.25,
        decode_s=2.0,
        other_s=0.01,
        time_to_first_token_s=0.75,
        total_s=2.76,
        ended_at=3.76,
        finish_reason="stop",
        route_reason="why",
        budget_tokens=100,
    )
    await calls.close_call(ended)
    assert await calls.calls() == [ended]


async def test_a_call_whose_beginning_was_not_kept_is_kept_at_its_end(calls: CallStore) -> None:
    ended = new_call(ended_at=2.0)
    await calls.close_call(ended)
    await calls.close_call(ended)
    assert await calls.calls() == [ended]


async def test_sums_are_over_what_was_reported(calls: CallStore) -> None:
    await calls.close_call(new_call(1.0, task_id="t", output_tokens=5, decode_s=1.0))
    await calls.close_call(new_call(3.0, task_id="t", input_tokens=7, output_tokens=1, time_to_first_token_s=0.5))
    await calls.close_call(new_call(2.0, task_id="t", time_to_first_token_s=0.25))
    await calls.close_call(new_call(1.0, task_id="other", input_tokens=100))
    assert await calls.totals(task_id="t") == TokenTotals(
        3, input_tokens=7, output_tokens=6, decode_s=1.0, time_to_first_token_s=0.25
    )
    assert await calls.totals(task_id="none") == TokenTotals(0)
    assert (await calls.totals()).calls == 4


async def test_the_sums_of_several_tasks_are_those_of_each(calls: CallStore) -> None:
    await calls.close_call(new_call(1.0, task_id="a", output_tokens=5, time_to_first_token_s=0.5))
    await calls.close_call(new_call(2.0, task_id="a", output_tokens=2, time_to_first_token_s=0.1))
    await calls.close_call(new_call(3.0, task_id="b", input_tokens=9))
    found = await calls.totals_of_tasks(["b", "none", "a"])
    assert list(found) == ["b", "none", "a"]
    assert found == {task_id: await calls.totals(task_id=task_id, since=0.0) for task_id in found}
    assert await calls.totals_of_tasks([]) == {}


async def test_an_acknowledgement_counts_with_its_tokens_but_not_with_its_times(calls: CallStore) -> None:
    times = {"queue_s": 1.0, "load_s": 1.0, "prefill_s": 1.0, "decode_s": 1.0, "time_to_first_token_s": 0.1}
    await calls.close_call(new_call(1.0, operation="acknowledge", task_id="t", output_tokens=5, **times))
    await calls.close_call(new_call(2.0, task_id="t", output_tokens=7, decode_s=3.0, time_to_first_token_s=0.5))
    assert await calls.totals(task_id="t") == TokenTotals(2, output_tokens=12, decode_s=3.0, time_to_first_token_s=0.5)


async def test_sums_are_by_conversation_and_by_time(calls: CallStore) -> None:
    for started_at, conversation in ((1.0, "a"), (2.0, "a"), (2.0, "b"), (3.0, "a")):
        await calls.close_call(new_call(started_at, conversation_id=conversation, output_tokens=1))
    assert (await calls.totals(conversation_id="a")).output_tokens == 3
    assert (await calls.totals(since=2.0)).output_tokens == 3
    assert (await calls.totals(until=2.0)).output_tokens == 1
    assert (await calls.totals(conversation_id="a", since=2.0, until=3.0)).output_tokens == 1


async def test_the_latest_calls_come_first(calls: CallStore) -> None:
    made = [new_call(float(number), task_id="t" if number % 2 else None) for number in range(6)]
    await asyncio.gather(*(calls.open_call(call) for call in made))
    assert await calls.calls(limit=2) == [made[5], made[4]]
    assert await calls.calls(task_id="t") == [made[5], made[3], made[1]]


async def test_calls_of_a_dead_process_are_closed_once(calls: CallStore) -> None:
    left, ended = new_call(), new_call(ended_at=2.0)
    await calls.open_call(left)
    await calls.close_call(ended)
    assert await calls.close_orphans(9.0, owner="") == 1
    assert await calls.close_orphans(10.0, owner="") == 0
    closed = next(call for call in await calls.calls() if call.id == left.id)
    assert (closed.ended_at, closed.error_class) == (9.0, "ProcessDied")
    assert closed.output_tokens is None


async def test_calls_of_other_hosts_are_left_alone_unless_they_are_older_than_any_call(calls: CallStore) -> None:
    mine, theirs, of_nobody, long_gone = (
        new_call(10_000.0, owner="a:/home"),
        new_call(10_000.0, owner="b:/home"),
        new_call(10_000.0),
        new_call(1.0, owner="b:/home"),
    )
    for call in (mine, theirs, of_nobody, long_gone):
        await calls.open_call(call)
    assert await calls.close_orphans(10_001.0, owner="a:/home") == 3
    assert [call.id for call in await calls.calls() if call.ended_at is None] == [theirs.id]


async def test_a_call_that_was_taken_for_dead_may_still_end(calls: CallStore) -> None:
    call = new_call()
    await calls.open_call(call)
    await calls.close_orphans(2.0, owner="")
    ended = replace(call, ended_at=3.0, output_tokens=4)
    await calls.close_call(ended)
    assert await calls.calls() == [ended]


async def test_one_bad_row_among_many_fails_alone(calls: CallStore) -> None:
    made = [new_call(float(number)) for number in range(50)]
    rows = [*made[:25], made[0], *made[25:]]
    results = await asyncio.gather(*(calls.open_call(call) for call in rows), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [DatabaseException]
    assert len(await calls.calls()) == 50


async def test_an_mcp_call_is_kept(calls: CallStore, database: Database) -> None:
    call = McpCall("id", 1.5, "gateway", "tools/call", 0.25, "tool_error", "submit_task", "t", "trace", "E", "e")
    await calls.record_mcp(call)
    rows = await database.read(lambda c: [dict(row) for row in c.execute(select(mcp_calls)).mappings()])
    assert rows == [values_of(call)]


async def test_open_calls_and_sums_are_found_by_index(database: Database, tmp_path: Path) -> None:
    statements = {
        "SELECT * FROM model_calls WHERE ended_at IS NULL AND started_at <= 5": "ix_model_calls_open",
        "SELECT min(ended_at) FROM model_calls WHERE ended_at >= 5": "ix_model_calls_ended_at",
        "SELECT sum(output_tokens) FROM model_calls WHERE task_id = 't'": "ix_model_calls_task_id_started_at",
        "SELECT sum(load_s) FROM model_calls WHERE started_at >= 1 AND started_at < 2": "ix_model_calls_started_at",
        "SELECT * FROM mcp_calls WHERE started_at >= 1": "ix_mcp_calls_started_at",
    }
    with closing(sqlite3.connect(tmp_path / "tale.db")) as connection:
        for statement, index in statements.items():
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            assert index in plan[0][3], plan


async def test_a_conversation_keeps_its_order(conversations: ConversationStore) -> None:
    first = await conversations.append("a", "user", "Hello", now=1.0)
    second = await conversations.append("a", "assistant", "Hi", now=2.0, model_call_id="call")
    assert (first.position, second.position) == (0, 1)
    assert await conversations.turns("a") == [first, second]
    assert await conversations.turns("a", limit=1) == [second]
    assert await conversations.turns("b") == []


async def test_turns_that_come_at_once_get_places_of_their_own(
    conversations: ConversationStore, tmp_path: Path
) -> None:
    other = Database.open(f"sqlite:///{tmp_path}/tale.db")
    stores = [conversations, ConversationStore(other)]
    await asyncio.gather(*(stores[n % 2].append("a", "user", str(n), now=float(n)) for n in range(40)))
    assert [turn.position for turn in await conversations.turns("a")] == list(range(40))
    await other.close()


async def test_the_latest_conversation_is_the_one_last_added_to(conversations: ConversationStore) -> None:
    assert await conversations.latest() is None
    await conversations.append("a", "user", "1", now=1.0)
    await conversations.append("b", "user", "2", now=2.0)
    assert await conversations.latest() == "b"
    await conversations.append("a", "user", "3", now=3.0)
    assert await conversations.latest() == "a"
