"""Usage is exact: what was reported is summed up, what was not stays unknown and is counted apart."""

import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import Outcome
from hypothesis import given
from hypothesis import strategies as st

from tale.exceptions import DatabaseException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer
from tale.records import ModelCall
from tale.servers.usage_tools import UsageTools, add_usage_tools
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.reader import read_once
from tale.storage.usage import Usage, UsageLine, UsageQuery, UsageStore, merged, query_of, usage_of
from tale.validation import validate_age, validate_day, validate_moment

Tale = Callable[..., Outcome]
NOON = datetime(2026, 3, 5, 12).timestamp()


def new_call(started_at: float = NOON, **values: Any) -> ModelCall:
    named = {"role": "task", "operation": "execute", "model": "m", "provider": "p", "ended_at": started_at + 1}
    return ModelCall(id=str(uuid.uuid4()), started_at=started_at, **{**named, **values})


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    yield database
    await database.close()


@pytest.fixture
def time_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


async def keep(database: Database, *calls: ModelCall) -> UsageStore:
    for call in calls:
        await CallStore(database).close_call(call)
    return UsageStore(database)


async def test_what_was_reported_is_summed_up_and_the_rest_stays_unknown(database: Database) -> None:
    store = await keep(
        database,
        new_call(input_tokens=10, output_tokens=3, cached_tokens=4, prefill_s=0.5, total_s=1.0),
        new_call(input_tokens=5, output_tokens=2, total_s=2.0),
        new_call(error_class="NetworkException", total_s=1.0),
        new_call(error_class="Cancelled", input_tokens=1, output_tokens=0),
        new_call(ended_at=None),
    )
    assert (await store.usage(UsageQuery())).whole == UsageLine(
        calls=5,
        running=1,
        failed=1,
        cancelled=1,
        unreported=1,
        input_tokens=16,
        output_tokens=5,
        cached_tokens=4,
        prefill_s=0.5,
        total_s=4.0,
    )


async def test_where_nothing_was_called_nothing_is_known(database: Database) -> None:
    for by in (None, "model", "day"):
        assert await UsageStore(database).usage(UsageQuery(by=by)) == Usage(None, None, UsageLine())


async def test_usage_is_of_a_task_a_conversation_and_a_time(database: Database) -> None:
    store = await keep(
        database,
        new_call(task_id="t", output_tokens=1),
        new_call(task_id="t", conversation_id="c", output_tokens=10),
        new_call(NOON + 60, conversation_id="c", output_tokens=100),
    )

    async def output(**limits: Any) -> int | None:
        return (await store.usage(UsageQuery(**limits))).whole.output_tokens

    assert await output(task_id="t") == 11
    assert await output(conversation_id="c") == 110
    assert await output(task_id="t", conversation_id="c") == 10
    assert await output(since=NOON + 60) == 100
    assert await output(until=NOON + 60) == 11
    assert await output(since=NOON, until=NOON) is None


@pytest.mark.parametrize("by", ["model", "engine", "role", "operation", "key"])
async def test_groups_come_largest_first_and_add_up_to_the_whole(database: Database, by: Any) -> None:
    column = "key_name" if by == "key" else by
    store = await keep(
        database,
        new_call(**{column: "small", "input_tokens": 1, "output_tokens": 1}),
        new_call(**{column: "large", "input_tokens": 50, "output_tokens": 10}),
        new_call(**{column: "large", "input_tokens": 50, "output_tokens": 10}),
        new_call(**{column: "silent"}),
    )
    found = await store.usage(UsageQuery(by=by))
    assert [(line.name, line.calls, line.input_tokens) for line in found.groups] == [
        ("large", 2, 100),
        ("small", 1, 1),
        ("silent", 1, None),
    ]
    assert (found.whole.calls, found.whole.input_tokens, found.whole.unreported) == (4, 101, 1)


async def test_calls_that_no_key_asked_for_are_a_group_without_a_name(database: Database) -> None:
    store = await keep(database, new_call(input_tokens=2), new_call(key_name="laptop", input_tokens=1))
    assert [line.name for line in (await store.usage(UsageQuery(by="key"))).groups] == [None, "laptop"]


@pytest.mark.parametrize("time_zone", ["UTC", "Asia/Kathmandu", "America/New_York"], indirect=True)
async def test_days_are_those_of_this_machine_on_the_day_the_clock_changes_too(
    database: Database, time_zone: None
) -> None:
    begin, end = validate_day("2026-03-08", 0)  # in New York it has 23 hours
    moments = (begin - 0.5, begin, end - 0.5, end)
    store = await keep(database, *(new_call(at, output_tokens=2**n) for n, at in enumerate(moments)))
    found = await store.usage(UsageQuery(by="day"))
    assert [(line.name, line.output_tokens) for line in found.groups] == [
        ("2026-03-07", 1),
        ("2026-03-08", 6),
        ("2026-03-09", 8),
    ]
    assert (await store.usage(query_of(day="2026-03-08", now=0))).whole.output_tokens == 6


figures = st.builds(
    UsageLine,
    calls=st.integers(0, 5),
    failed=st.integers(0, 5),
    input_tokens=st.none() | st.integers(0, 9),
    cached_tokens=st.none() | st.integers(0, 9),
)


@given(st.lists(figures), st.lists(figures))
def test_sums_of_sums_are_sums(some: list[UsageLine], others: list[UsageLine]) -> None:
    assert merged([merged(some), merged(others)]) == merged([*some, *others])
    assert merged([*some, *others]).calls == sum(line.calls for line in (*some, *others))


def test_times_are_said_as_dates_moments_and_ages() -> None:
    assert validate_moment("2026-03-05T12:00", 0) == NOON
    assert validate_moment("2026-03-05T12:00:00+00:00", 0) == 1772712000
    assert validate_moment("24h", NOON) == NOON - 86_400
    assert validate_day("today", NOON) == validate_day("2026-03-05", 0)
    assert validate_day("yesterday", NOON)[1] == validate_day("today", NOON)[0]
    assert query_of(day="today", since="1h", now=NOON) == UsageQuery(
        since=NOON - 3_600, until=validate_day("today", NOON)[1]
    )


@pytest.mark.parametrize(
    ("reads", "text"),
    [
        *((validate_day, text) for text in ("", "2026-13-01", "tomorrow", "9999-12-31")),
        *((validate_moment, text) for text in ("", "noon", "24y", "2026-03-05T25:00", "99999999999d")),
    ],
)
def test_what_is_no_time_is_refused_with_what_would_be(reads: Callable[[str, float], Any], text: str) -> None:
    with pytest.raises(ValidationException, match="use "):
        reads(text, NOON)
    with pytest.raises(ValidationException, match="such as 90d"):
        validate_age(text)


async def test_the_tool_answers_programs_that_may_only_look(database: Database) -> None:
    store = await keep(database, new_call(input_tokens=10, output_tokens=3), new_call(NOON - 86_400, output_tokens=5))

    async def health() -> dict[str, Any]:
        return {}

    server = HTTPMCPServer("tale-gateway", version="1", port=0, health=health)
    add_usage_tools(server, UsageTools(store, clock=lambda: NOON))
    await server.start()
    async with HTTPMCPClient(f"http://127.0.0.1:{server.port}") as client:
        told = await client.call_tool("get_usage", {"day": "today", "by": "model"})
        (listed,) = await client.list_tools()
    await server.stop()
    assert listed["annotations"]["readOnlyHint"]
    assert (told["whole"]["calls"], told["whole"]["input_tokens"], told["whole"]["cached_tokens"]) == (1, 10, None)
    assert [line["name"] for line in told["groups"]] == ["m"]
    assert told["until"] - told["since"] == 86_400


def test_a_database_that_is_not_there_is_not_made_for_a_look(tmp_path: Path) -> None:
    assert read_once(f"sqlite:///{tmp_path}/none.db", lambda c: usage_of(c, UsageQuery()), absent=None) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("revision", "way"), [("0001", "; bring it up to date with `tale db upgrade`.$"), ("9999", "; update tale.$")]
)
async def test_a_database_of_another_version_is_named(
    tmp_path: Path, database: Database, revision: str, way: str
) -> None:
    from sqlalchemy import text

    renamed = text("UPDATE alembic_version SET version_num = :revision")
    await database.write(lambda c: c.execute(renamed, {"revision": revision}).rowcount)
    with pytest.raises(DatabaseException, match=way):
        read_once(f"sqlite:///{tmp_path}/tale.db", lambda c: usage_of(c, UsageQuery()), absent=None)


@pytest.fixture
def recorded(tale: Tale, tale_home: Path) -> None:
    """A home with three calls, whose servers do not run."""
    import asyncio

    async def fill() -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        await keep(
            database,
            new_call(model="big", input_tokens=1_200, output_tokens=34, cached_tokens=40, total_s=2.0, load_s=0.25),
            new_call(model="small", input_tokens=3, output_tokens=4, total_s=1.0),
            new_call(model="small", error_class="NetworkException"),
        )
        await database.close()

    asyncio.run(fill())


def test_the_command_tells_it_without_servers(tale: Tale, recorded: None) -> None:
    done = tale("usage")
    assert done.code == 0
    shown = " ".join(done.out.split())
    assert "calls 3 (1 failed)" in shown
    assert "input 1,203 tokens, 40 of them cached output 38 tokens, - of them reasoning" in shown
    assert "busy 3.00 s" in shown
    assert "load 0.25 s, prefill -" in shown
    assert done.err == "1 call reported no usage.\n"


def test_the_command_sums_up_by_model(tale: Tale, recorded: None) -> None:
    lines = [line.split() for line in tale("usage", "--by", "model").out.splitlines()]
    assert lines[0] == ["model", "calls", "failed", "input", "cached", "output", "reasoning", "busy"]
    assert lines[1] == ["big", "1", "0", "1,200", "40", "34", "-", "2.00", "s"]
    assert lines[2] == ["small", "2", "1", "3", "-", "4", "-", "1.00", "s"]
    assert lines[3] == ["all", "3", "1", "1,203", "40", "38", "-", "3.00", "s"]


def test_on_a_narrow_terminal_nothing_is_cut(tale: Tale, recorded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    done = tale("usage", "--by", "model", "--since", "2026-03-05")
    assert "1,200 tokens" in " ".join(done.out.split())
    assert all(len(line.rstrip()) <= 40 for line in done.out.splitlines())


def test_programs_get_numbers_and_nulls(tale: Tale, recorded: None) -> None:
    told = json.loads(tale("usage", "--json", "--by", "model", "--day", "2026-03-05").out)
    assert told["whole"]["input_tokens"] == 1_203
    assert told["whole"]["reasoning_tokens"] is None
    assert told["groups"][0]["name"] == "big"


def test_where_nothing_is_on_record_that_is_said(tale: Tale, tale_home: Path) -> None:
    assert tale("usage").out == "No calls are on record yet.\n"
    assert not os.path.exists(tale_home / "tale.db")
    assert tale("usage", "--day", "2026-03-05").out == "No calls are on record for that.\n"
    assert json.loads(tale("usage", "--json").out)["whole"]["calls"] == 0


def test_what_cannot_be_meant_is_refused(tale: Tale, tale_home: Path) -> None:
    assert tale("usage", "--day", "someday").code == 2
    done = tale("usage", "--task", "7")
    assert (done.code, done.err.count("\n")) == (2, 1)
