"""`tale trace` shows where the time of a task or a request went."""

import asyncio
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fakes.command_line import Outcome

from tale.records import McpCall, ModelCall, Task, TaskStatus
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.task_store import TaskStore

Tale = Callable[..., Outcome]
TRACE, OTHER = "a" * 32, "b" * 32
TASK = str(uuid.UUID(int=1))
T = 1_700_000_000.0


def request(started_at: float, latency_s: float, **told: object) -> McpCall:
    given: dict[str, object] = {"server": "tale-gateway", "method": "tools/call", "outcome": "ok", **told}
    return McpCall(id=str(uuid.uuid4()), started_at=started_at, latency_s=latency_s, **given)


def call(started_at: float, **told: object) -> ModelCall:
    given: dict[str, object] = {
        "role": "task",
        "operation": "execute",
        "model": "large",
        "provider": "scripted",
        **told,
    }
    return ModelCall(id=str(uuid.uuid4()), started_at=started_at, **given)


def keep(home: Path, rows: Sequence[McpCall | ModelCall], *, task: Task | None = None) -> None:
    async def kept() -> None:
        database = Database.open(f"sqlite:///{home / 'tale.db'}")
        calls = CallStore(database)
        if task is not None:
            await TaskStore(database).insert(task)
        for row in rows:
            await (calls.record_mcp(row) if isinstance(row, McpCall) else calls.close_call(row))
        await database.close()

    home.mkdir(parents=True, exist_ok=True)
    asyncio.run(kept())


@pytest.fixture
def a_task(tale_home: Path) -> str:
    """A task of 3 s with two requests and a model call; another trace lies beside it."""
    parts = {"queue_s": 0.25, "load_s": 0.5, "prefill_s": 0.25, "decode_s": 1.0, "total_s": 2.1, "ended_at": T + 2.9}
    rows = [
        request(T - 0.01, 0.02, tool="submit_task", trace_id=TRACE),
        request(T + 0.2, 2.7, server="tale-execution", tool="execute_task", task_id=TASK, trace_id="c" * 32),
        call(T + 0.5, trace_id=TRACE, task_id=TASK, input_tokens=1_200, output_tokens=34, **parts),
        call(T + 0.5, trace_id=OTHER, model="elsewhere"),
    ]
    times = {"created_at": T, "started_at": T + 0.25, "ended_at": T + 3}
    task = Task(TASK, "Write a haiku", TaskStatus.COMPLETED, trace_id=TRACE, **times)
    keep(tale_home, rows, task=task)
    return TASK


def test_a_task_is_shown_with_all_that_happened_for_it(tale: Tale, a_task: str) -> None:
    shown = tale("trace", a_task)
    assert shown.code == 0
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[:4] == [f"trace {TRACE}", f"task {TASK}", "text Write a haiku", "what begin took"]
    table = lines[4:]
    assert table == [
        "tale-gateway submit_task 0.00 s 0.02 s ok",
        "task 0.01 s 3.00 s completed",
        "in the queue 0.01 s 0.25 s",
        "tale-execution execute_task 0.21 s 2.70 s ok",
        "execute on large 0.51 s 2.10 s 1,200 in, 34 out",
        "queue 0.51 s 0.25 s",
        "load 0.76 s 0.50 s",
        "prefill 1.26 s 0.25 s",
        "decode 1.51 s 1.00 s",
    ]


def test_a_trace_s_own_id_finds_the_same(tale: Tale, a_task: str) -> None:
    assert tale("trace", TRACE.upper()).out == tale("trace", a_task).out


def test_programs_get_the_spans_as_they_are(tale: Tale, a_task: str) -> None:
    told = json.loads(tale("trace", a_task, "--json").out)
    assert (told["trace_id"], told["task"]["id"]) == (TRACE, TASK)
    kinds = [span["kind"] for span in told["spans"]]
    assert kinds == ["request", "task", "queue", "request", "call", "queue", "load", "prefill", "decode"]
    assert told["spans"][4]["begin_s"] == pytest.approx(0.51)


def test_a_narrow_screen_has_a_line_for_each(tale: Tale, a_task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = tale("trace", a_task).out.splitlines()
    assert "  decode: 1.00 s from 1.51 s" in lines
    assert max(len(line) for line in lines) <= 60


def test_a_request_without_a_task_has_a_trace_too(tale: Tale, tale_home: Path) -> None:
    http = request(T, 0.4, method="POST /v1/chat/completions", trace_id=OTHER)
    failed = call(T + 0.1, trace_id=OTHER, total_s=0.2, ended_at=T + 0.3, error_class="NetworkException")
    running = call(T + 0.2, trace_id=OTHER, operation="chat")
    keep(tale_home, [http, failed, running])
    shown = tale("trace", OTHER).out
    assert "POST /v1/chat/completions" in shown
    assert "NetworkException" in shown
    assert "running" in shown
    assert "task" not in shown


def test_what_is_not_on_record_is_refused(tale: Tale, a_task: str) -> None:
    missing = tale("trace", str(uuid.UUID(int=9)))
    assert missing.code == 2
    assert "tale list" in missing.err


def test_where_no_database_is_there_is_no_trace_either(tale: Tale, tale_home: Path) -> None:
    assert tale("trace", TASK).code == 2
    assert not (tale_home / "tale.db").exists()


def test_the_traces_of_another_machine_s_gateway_are_read_there(tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALE_GATEWAY_URL", "http://gateway.example:8080")
    refused = tale("trace", TASK)
    assert (refused.code, "where the gateway runs" in refused.err) == (2, True)
