"""Rows put into a database past SQLAlchemy are the rows that SQLAlchemy would have put there, or none at all."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.postgres import run_on
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, insert, select

from tale.exceptions import DatabaseException
from tale.records import McpCall, ModelCall, Task, TaskStatus
from tale.storage.columns import metadata
from tale.storage.database import Database
from tale.storage.engines import make_engine, parse_url
from tale.storage.quick_rows import MOST_ROWS, QuickRows
from tale.storage.rows import upsert_statement, values_of
from tale.storage.tables import mcp_calls, model_calls, task_dependencies, tasks

CALL = McpCall("id", 1.5, "gateway", "tools/call", 0.25, "ok")
MODEL_CALL = ModelCall("a", 1.0, "task", "chat", "m", "p", 0)
TEXTS = st.none() | st.text(st.characters() | st.sampled_from("\x00\ud800\udc00"))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/q.db"
    engine = made(url if request.param == "sqlite" else request.getfixturevalue("empty_postgres_url"))
    yield engine
    engine.dispose()


def made(url: str) -> Engine:
    engine = make_engine(parse_url(url), "write", busy_timeout_s=0.05)
    metadata.create_all(engine)
    return engine


def stored(engine: Engine) -> list[dict[str, Any]]:
    with engine.begin() as connection:
        rows = connection.execute(select(mcp_calls).order_by(mcp_calls.c.id)).mappings()
        return [dict(row) for row in rows]


def call(number: int, **changed: Any) -> dict[str, Any]:
    return values_of(replace(CALL, id=f"{number:04}", **changed))


@given(calls=st.lists(st.tuples(NUMBERS, TEXTS, TEXTS, TEXTS), min_size=1, max_size=MOST_ROWS))
def test_the_rows_are_those_that_sqlalchemy_writes(calls: list[tuple[Any, ...]]) -> None:
    rows = [
        call(number, latency_s=latency_s, tool=tool, error=error, key_name=key_name)
        for number, (latency_s, tool, error, key_name) in enumerate(calls)
    ]
    found: list[list[dict[str, Any]]] = []
    for is_quick in (True, False):
        engine = make_engine(parse_url("sqlite://"), "write", busy_timeout_s=0.05)
        metadata.create_all(engine, tables=[mcp_calls])
        if is_quick:
            assert QuickRows(engine).add([(insert(mcp_calls), rows)])
        else:
            with engine.begin() as connection:
                connection.execute(insert(mcp_calls), rows)
        found.append(stored(engine))
        engine.dispose()
    assert found[0] == found[1]


def test_a_bad_row_keeps_the_others_out(engine: Engine) -> None:
    quick_rows, statement = QuickRows(engine), insert(mcp_calls)
    assert quick_rows.add([(statement, [call(1)])])
    assert not quick_rows.add([(statement, [call(2), call(1), call(3)])])
    assert not quick_rows.add([(statement, [call(4, outcome=None)])])
    assert [row["id"] for row in stored(engine)] == ["0001"]


def test_rows_that_leave_a_column_out_are_left_to_sqlalchemy(engine: Engine) -> None:
    quick_rows, statement = QuickRows(engine), insert(mcp_calls)
    partial = {name: value for name, value in call(1).items() if name != "tool"}
    assert not quick_rows.add([(statement, [call(2)]), (statement, [partial])])
    assert stored(engine) == []
    with engine.begin() as connection:
        quick_rows.add_within(connection, (statement, [partial]))
    assert [row["id"] for row in stored(engine)] == ["0001"]


def test_many_rows_of_several_statements_are_one_transaction(engine: Engine) -> None:
    quick_rows, added = QuickRows(engine), (insert(mcp_calls), [call(number) for number in range(MOST_ROWS + 1)])
    replaced = upsert_statement(engine.dialect.name, mcp_calls), [call(0, tool="a"), call(MOST_ROWS, tool="b")]
    assert not quick_rows.add([added, replaced, (added[0], [call(3)])])
    assert stored(engine) == []
    assert quick_rows.add([added, replaced])
    assert [row["tool"] for row in stored(engine)] == ["a", *[None] * (MOST_ROWS - 1), "b"]
    assert quick_rows.add([(added[0], [call(MOST_ROWS + 1)])])  # the connection is as it was


def test_rows_go_quickly_into_an_open_transaction_and_end_with_it(engine: Engine) -> None:
    quick_rows, rows = QuickRows(engine), (insert(mcp_calls), [call(number) for number in range(MOST_ROWS + 1)])
    with engine.connect() as connection, connection.begin() as transaction:
        quick_rows.add_within(connection, rows)
        transaction.rollback()
    assert stored(engine) == []
    with engine.begin() as connection:
        quick_rows.add_within(connection, rows)
    assert len(stored(engine)) == MOST_ROWS + 1


def test_of_one_row_put_in_twice_the_later_stays(engine: Engine) -> None:
    quick_rows, statement = QuickRows(engine), upsert_statement(engine.dialect.name, mcp_calls)
    assert quick_rows.add([(statement, [call(1, tool="a")])])
    assert quick_rows.add([(statement, [call(1, tool="b"), call(2)])])
    both_at_once = quick_rows.add([(statement, [call(1, tool="c"), call(1, tool="d")])])
    assert both_at_once is (engine.dialect.name == "sqlite")  # PostgreSQL changes no row twice in one statement
    assert [(row["id"], row["tool"]) for row in stored(engine)] == [
        ("0001", "d" if both_at_once else "b"),
        ("0002", None),
    ]


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_on_postgresql_texts_are_those_that_sqlalchemy_writes(engine: Engine) -> None:
    odd = ["", "ü \u2028", "a\x00b", "half \ud800", "%s %(id)s", "'; --"]
    assert QuickRows(engine).add([(insert(mcp_calls), [call(number, error=text) for number, text in enumerate(odd)])])
    quick = stored(engine)
    with engine.begin() as connection:
        connection.execute(mcp_calls.delete())
        connection.execute(insert(mcp_calls), [call(number, error=text) for number, text in enumerate(odd)])
    assert quick == stored(engine)


@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_a_broken_connection_costs_one_attempt(engine: Engine, empty_postgres_url: str) -> None:
    quick_rows, statement = QuickRows(engine), insert(mcp_calls)
    assert quick_rows.add([(statement, [call(1)])])
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    run_on(empty_postgres_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
    assert quick_rows.add([(statement, [call(2)])]) or quick_rows.add([(statement, [call(2)])])
    assert len(stored(engine)) == 2


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_while_the_file_is_locked_nothing_is_in_and_afterwards_it_works(engine: Engine, tmp_path: Path) -> None:
    quick_rows, statement = QuickRows(engine), insert(mcp_calls)
    other = make_engine(parse_url(f"sqlite:///{tmp_path}/q.db"), "write", busy_timeout_s=0.05)
    with other.begin():
        assert not quick_rows.add([(statement, [call(1)])])
    other.dispose()
    assert quick_rows.add([(statement, [call(1)])])
    assert len(stored(engine)) == 1


async def test_the_calls_of_a_service_take_the_quick_way(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/t.db")
    slow: list[str] = []
    event.listen(Engine, "before_cursor_execute", note := lambda *given: slow.append(given[2]))
    try:
        await database.insert(mcp_calls, values_of(CALL))
        await database.insert(model_calls, values_of(MODEL_CALL))
        await database.upsert(model_calls, values_of(replace(MODEL_CALL, output_tokens=3)))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    tokens = await database.read(lambda connection: connection.scalar(select(model_calls.c.output_tokens)))
    await database.close()
    assert (slow, tokens) == ([], 3)


@pytest.mark.parametrize("with_bad_rows", [False, True])
@pytest.mark.parametrize("with_a_work", [False, True])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_rows_of_many_kinds_in_one_commit_end_as_if_each_came_alone(
    kind: str, with_a_work: bool, with_bad_rows: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/t.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database.open(url)
    entered, opened = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        entered.set()
        opened.wait(10)

    held = asyncio.create_task(database.write(hold))  # what comes meanwhile shares a commit
    await asyncio.to_thread(entered.wait)
    works = [database.write(lambda connection: connection.scalar(select(tasks.c.id)))] if with_a_work else []
    first, second = MODEL_CALL, replace(MODEL_CALL, id="b")
    early = {"task_id": "u", "after_id": "t", "position": 0}
    writes = [
        database.insert(model_calls, values_of(first)),
        database.upsert(model_calls, values_of(replace(first, output_tokens=3))),
        database.insert(mcp_calls, call(1)),
        database.insert(tasks, values_of(Task("t", "Task", TaskStatus.QUEUED, 1.0, timeout_s=60))),
        database.insert(task_dependencies, {"task_id": "t", "after_id": "t", "position": 0}),
        *works,
        *([database.insert(mcp_calls, call(1)), database.insert(task_dependencies, early)] if with_bad_rows else []),
        database.insert(tasks, values_of(Task("u", "Task", TaskStatus.QUEUED, 1.0, timeout_s=60))),
        database.insert(model_calls, values_of(second)),
        database.upsert(model_calls, values_of(replace(second, output_tokens=4))),
    ]
    waiting = [asyncio.ensure_future(each) for each in writes]
    await asyncio.sleep(0)
    opened.set()
    await held
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    calls = select(model_calls.c.id, model_calls.c.output_tokens).order_by(model_calls.c.id)
    found = await database.read(lambda connection: [tuple(row) for row in connection.execute(calls)])
    await database.close()
    refused = [number - len(works) for number, result in enumerate(ended) if isinstance(result, DatabaseException)]
    assert found == [("a", 3), ("b", 4)]
    assert refused == ([5, 6] if with_bad_rows else [])  # the second row of an id, and one that came too early
