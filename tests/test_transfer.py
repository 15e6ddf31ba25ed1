"""Histories move between machines: out into files, in again, whole, once, and each bad row told by its number."""

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import COMMAND, Outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, delete, insert, select

from tale.exceptions import ValidationException
from tale.records import ModelCall, Task, TaskStatus
from tale.storage import learning_tables, monitoring_tables
from tale.storage.call_store import CallStore
from tale.storage.columns import metadata
from tale.storage.conversation_store import ConversationStore
from tale.storage.database import Database
from tale.storage.reader import reading
from tale.storage.rows import values_of
from tale.storage.tables import messages, model_calls, tasks
from tale.storage.task_store import TaskStore
from tale.storage.transfer import (
    MOVING,
    Moved,
    Period,
    export_all,
    export_table,
    files_of,
    import_file,
    kind_of,
    moving_tables,
    table_of,
)
from tale.storage.transfer_files import pieces_of, writing

Tale = Callable[..., Outcome]
# The database's own and secrets; what was learned and measured here; predictions name versions that stay here.
STAYING = {"meta", "access_keys", "alerts", "predictions", "engine_versions", "learning_events"}
STAYING |= {"monitor_samples", "target_violations", "target_alerts"}
ALL_TABLES = (learning_tables.metadata, monitoring_tables.metadata)  # those of all modules are the one metadata


def new_call(number: int = 0, **values: Any) -> ModelCall:
    times = {"started_at": float(number), "ended_at": number + 1.0}
    named = {"role": "task", "operation": "execute", "model": "m", "provider": "p", **times}
    return ModelCall(**{"id": str(uuid.UUID(int=number, version=4)), **named, **values})


def new_task(number: int, **values: Any) -> Task:
    named = {"text": "t", "status": TaskStatus.COMPLETED, "created_at": float(number), "ended_at": number + 1.0}
    return Task(**{"id": str(uuid.UUID(int=number, version=4)), **named, **values})


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/here/tale.db")
    yield database
    await database.close()


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/elsewhere/tale.db")
    yield database
    await database.close()


def exported(database: Database, table: Table, path: Path, **period: float) -> Moved:
    with reading(database.url) as reader:
        assert reader is not None
        return export_table(reader, table, path, Period(**period))


async def rows_of(database: Database, table: Table) -> list[dict[str, Any]]:
    wanted = select(table).order_by(*table.primary_key.columns)
    return await database.read(lambda connection: [dict(row) for row in connection.execute(wanted).mappings()])


async def add(database: Database, table: Table, *rows: dict[str, Any]) -> None:
    await database.write(lambda connection: connection.execute(insert(table), list(rows)).rowcount)


def test_each_table_moves_or_stays_for_a_reason() -> None:
    derived = {name for name in metadata.tables if name.startswith(("rollup", "budget"))}
    assert set(metadata.tables) == set(MOVING) | STAYING | derived


storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
VALUES = {
    "text": storable,
    "whole": st.integers(-(2**31), 2**31 - 1),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "truth": st.booleans(),
}
optional_values = st.fixed_dictionaries(
    {
        column.name: st.none() | VALUES[kind_of(column)]
        for column in model_calls.columns
        if column.nullable and column.name != "ended_at"
    }
)


@pytest.mark.parametrize("form", ["parquet", "csv"])
@given(st.lists(optional_values, min_size=1, max_size=3))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_goes_out_and_in_again_is_the_same(
    database: Database, elsewhere: Database, tmp_path: Path, form: str, drawn: list[dict[str, Any]]
) -> None:
    path = tmp_path / f"{uuid.uuid4().hex}.{form}"
    for each in (database, elsewhere):
        await each.write(lambda connection: connection.execute(delete(model_calls)).rowcount)
    await add(database, model_calls, *({**values_of(new_call(number)), **row} for number, row in enumerate(drawn)))
    exported(database, model_calls, path)
    await import_file(elsewhere, model_calls, path)
    assert await rows_of(elsewhere, model_calls) == await rows_of(database, model_calls)


async def fill(database: Database) -> None:
    """A little of everything that moves, and of what does not."""
    store, calls = TaskStore(database), CallStore(database)
    conversations = ConversationStore(database)
    for number in (1, 2):
        await store.insert(new_task(number, status=TaskStatus.QUEUED, ended_at=None, text='a "task",\nwith lines'))
        claimed = await store.claim(new_task(number).id, expected_attempt=None, now=2.0, max_failures=3)
        assert claimed is not None
    await store.finish(new_task(1).id, 1, status=TaskStatus.COMPLETED, now=3.0, result="", model="m")
    await store.add_feedback(new_task(1).id, "good", None, 4.0)
    await calls.close_call(new_call(1, task_id=new_task(1).id, output_tokens=7))
    await calls.open_call(new_call(2, ended_at=None))
    await conversations.append("c", "user", "Hello", now=5.0)
    await conversations.append("c", "assistant", "", now=6.0)


@pytest.mark.parametrize("form", ["parquet", "csv"])
async def test_a_whole_history_moves_and_what_is_open_stays(
    database: Database, elsewhere: Database, tmp_path: Path, form: Any
) -> None:
    await fill(database)
    with reading(database.url) as reader:
        assert reader is not None
        moved = export_all(reader, tmp_path / "out", Period(), form)
    assert {each.table: each.rows for each in moved} == {
        **dict.fromkeys(MOVING, 0),
        **{"tasks": 1, "attempts": 1, "feedback": 1, "model_calls": 1, "conversations": 1, "messages": 2},
    }
    for table, path in files_of(tmp_path / "out"):
        first = await import_file(elsewhere, table, path)
        again = await import_file(elsewhere, table, path)
        assert (first.new, again.new, again.rows) == (first.rows, 0, first.rows)
    task = await TaskStore(elsewhere).get(new_task(1).id)
    assert task == await TaskStore(database).get(new_task(1).id)
    assert task is not None and task.result == ""  # not unknown
    assert await rows_of(elsewhere, messages) == await rows_of(database, messages)
    assert await TaskStore(elsewhere).open_tasks() == []


async def test_tasks_of_two_machines_that_were_handed_in_with_the_same_key_come_together(
    database: Database, elsewhere: Database, tmp_path: Path
) -> None:
    for number, each in enumerate((database, elsewhere)):
        await TaskStore(each).insert(new_task(number, idempotency_key="a"))
    await TaskStore(database).insert(new_task(2, idempotency_key="b"))
    path = tmp_path / "tasks.csv"
    exported(database, tasks, path)
    assert [(await import_file(elsewhere, tasks, path)).new for _ in range(2)] == [2, 0]
    keys = {row["id"]: row["idempotency_key"] for row in await rows_of(elsewhere, tasks)}
    assert keys == {new_task(0).id: None, new_task(1).id: "a", new_task(2).id: "b"}


async def test_a_period_takes_along_what_belongs_to_its_tasks(
    database: Database, elsewhere: Database, tmp_path: Path
) -> None:
    for number in range(4):
        await TaskStore(database).insert(new_task(number))
        await TaskStore(database).add_feedback(new_task(number).id, "good", None, 99.0)
    with reading(database.url) as reader:
        assert reader is not None
        export_all(reader, tmp_path / "out", Period(since=1.0, until=3.0), "parquet")
    for table, path in files_of(tmp_path / "out"):
        await import_file(elsewhere, table, path)
    assert [row["created_at"] for row in await rows_of(elsewhere, tasks)] == [1.0, 2.0]
    assert len(await rows_of(elsewhere, metadata.tables["feedback"])) == 2


@pytest.mark.parametrize("form", ["parquet", "csv"])
async def test_many_rows_go_page_by_page_without_loss(database: Database, tmp_path: Path, form: str) -> None:
    rows = [values_of(new_call(number, started_at=float(number // 700))) for number in range(1_500)]
    await add(database, model_calls, *rows)
    assert exported(database, model_calls, tmp_path / f"calls.{form}").rows == 1_500
    ids = [row["id"] for piece in pieces_of(tmp_path / f"calls.{form}") for row in piece]
    assert sorted(ids) == sorted(row["id"] for row in rows)


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("table", moving_tables(), ids=lambda table: table.name)
def test_an_empty_file_of_each_table_tells_which_it_is(
    database: Database, tmp_path: Path, form: str, table: Any
) -> None:
    exported(database, table, tmp_path / f"rows.{form}")
    assert table_of(tmp_path / f"rows.{form}") is table


async def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writing(tmp_path / "x.csv", {"a": "text"}, {}) as writer:
        writer.write([{"a": "1"}])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


HEADER = "id,started_at,role,operation,model,provider,ended_at,output_tokens"
GOOD = "{},1.5,task,chat,m,p,2.5,3"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x,1.5,task,chat,m,p,2.5,many", "output_tokens is 'many', and must be a whole number"),
        ("x,soon,task,chat,m,p,2.5,3", "started_at is 'soon', and must be a number"),
        ("x,1.5,task,chat,,p,2.5,3", "model is empty, and must not be"),
        ("x,1.5,task,chat,m,p,,3", "it has not ended"),
        ("x,1.5,task,chat,m,p,2.5,9999999999999999999999", "a value that it cannot keep"),
    ],
)
async def test_a_bad_row_is_told_by_its_number_and_those_before_it_are_in(
    database: Database, tmp_path: Path, line: str, said: str
) -> None:
    path = tmp_path / "calls.csv"
    path.write_text("\n".join([HEADER, *(GOOD.format(number) for number in range(600)), line, GOOD.format("last")]))
    with pytest.raises(ValidationException) as refused:
        await import_file(database, table_of(path), path)
    assert f"Row 601 of {path}: " in refused.value.message
    assert said in refused.value.message
    assert len(await rows_of(database, model_calls)) >= 500


async def test_a_row_that_breaks_a_rule_of_the_database_is_told_by_its_number(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "attempts.csv"
    path.write_text(f"task_id,number,started_at,ended_at\n{new_task(1).id},1,1.0,2.0\nunknown,1,1.0,2.0\n")
    await TaskStore(database).insert(new_task(1))
    with pytest.raises(ValidationException, match=r"Row 2 of .*breaks one of its rules"):
        await import_file(database, table_of(path), path)
    assert len(await TaskStore(database).attempts(new_task(1).id)) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "is damaged, or no file of that kind"),
        ("a.csv", "id,what\n1,2\n", "are those of no table of this tale"),
        ("a.csv", f"{HEADER}\n1,2\n", "is damaged, or no file of that kind"),
        ("a.parquet", "no parquet", "is damaged, or no file of that kind"),
        ("a.txt", "", "let its name end in .parquet or .csv"),
    ],
)
async def test_what_is_no_export_is_refused(
    database: Database, tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValidationException, match=said):
        await import_file(database, table_of(tmp_path / name), tmp_path / name)


async def test_a_file_of_a_newer_tale_is_refused(tmp_path: Path) -> None:
    with writing(tmp_path / "a.parquet", {"id": "text"}, {"tale.table": "tasks", "tale.schema": "9999"}):
        pass
    with pytest.raises(ValidationException, match="newer tale"):
        table_of(tmp_path / "a.parquet")


@pytest.fixture
def history(tale: Tale, tale_home: Path) -> None:
    """A home with a little of everything."""

    async def made() -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        await fill(database)
        await database.close()

    asyncio.run(made())


def test_the_commands_move_a_history_to_another_home(tale: Tale, history: None, tmp_path: Path) -> None:
    done = tale("export", str(tmp_path / "out"))
    assert done.code == 0
    assert f"Wrote 1 row of model_calls to {tmp_path / 'out' / 'model_calls.parquet'}.\n" in done.out
    done = tale("--home", str(tmp_path / "other"), "import", str(tmp_path / "out"))
    assert (done.code, done.err) == (0, "")
    assert "Read 2 rows of messages from" in done.out
    assert json.loads(tale("--home", str(tmp_path / "other"), "usage", "--json").out)["whole"]["output_tokens"] == 7
    again = json.loads(tale("--home", str(tmp_path / "other"), "import", str(tmp_path / "out"), "--json").out)
    assert {each["new"] for each in again} == {0}


def test_the_commands_move_one_table_as_csv(tale: Tale, history: None, tmp_path: Path) -> None:
    assert tale("export", str(tmp_path / "tasks.csv"), "--table", "tasks").code == 0
    done = tale("--home", str(tmp_path / "other"), "import", str(tmp_path / "tasks.csv"))
    assert done.out == f"Read 1 row of tasks from {tmp_path / 'tasks.csv'}: 1 new, 0 there already.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "rows.txt"), "let its name end in"),
        (("export", "rows.csv", "--table", "meta"), "choose from tasks"),
        (("export", "rows.csv", "--table", "all"), "all go into a folder"),
        (("export", "folder", "--table", "tasks"), "one table goes into a .parquet or .csv file"),
        (("export", "rows.csv", "--since", "noon"), "no point in time"),
        (("import", "absent.csv"), "There is no absent.csv"),
    ],
)
def test_what_cannot_be_meant_is_refused(tale: Tale, history: None, arguments: tuple[str, ...], said: str) -> None:
    done = tale(*arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err


def test_a_file_that_is_there_is_never_replaced(tale: Tale, history: None, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("precious")
    assert tale("export", str(tmp_path / "rows.csv")).code == 2
    assert tale("export", str(tmp_path)).code == 2
    assert (tmp_path / "rows.csv").read_text() == "precious"


def test_a_disk_that_takes_no_more_leaves_no_half_of_a_history(tale_home: Path, tmp_path: Path) -> None:
    async def made() -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        await fill(database)
        await ConversationStore(database).append("c", "user", "x" * 300_000, now=7.0)
        await database.close()

    asyncio.run(made())
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)"
    command = [*COMMAND, "export", str(tmp_path / "out"), "--format", "csv"]
    limited = [sys.executable, "-c", f"{limit}; os.execv(sys.argv[1], sys.argv[1:])", *command]

    done = subprocess.run(limited, capture_output=True, text=True)

    assert done.returncode == 2
    assert "messages.csv cannot be written: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_where_there_is_no_history_nothing_is_exported(tale: Tale, tale_home: Path, tmp_path: Path) -> None:
    done = tale("export", str(tmp_path / "rows.csv"))
    assert (done.code, done.err) == (3, "tale: There is no history yet; nothing was exported.\n")
    assert not (tmp_path / "rows.csv").exists()
