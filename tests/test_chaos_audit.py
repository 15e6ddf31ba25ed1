"""The audit of the chaos runs finds what must not be: it is shown each such thing once."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.audit import Audit
from chaos.deaths import planned
from sqlalchemy import create_engine, text

from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.records import CallContext, Task, TaskStatus
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.task_store import TaskStore


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path}/tale.db"


@pytest.fixture
async def done(url: str) -> str:
    """The id of a task that was done at the second attempt, the audit being a witness."""
    database = Database.open(url)
    store, task = TaskStore(database), Task(str(uuid.uuid4()), "Hi", TaskStatus.QUEUED, 1.0, timeout_s=9)
    audit = Audit(url)
    audit.witness()
    await store.insert(task)
    for attempt in (0, 1):
        assert await store.claim(task.id, expected_attempt=attempt, now=2.0, max_failures=3)
        assert audit.at_work(1.0) == 1
    await store.finish(task.id, 2, status=TaskStatus.COMPLETED, now=3.0, result="Hello")
    call = TokenTracker(Recorder(CallStore(database)), clock=time.time).begin(
        CallContext("task", "execute"), model="m", provider="p", budget_tokens=None
    )
    await call.failed(RuntimeError("It broke."))
    await database.close()
    audit.close()
    return task.id


@pytest.fixture
def audit(url: str, done: str) -> Iterator[Audit]:
    audit = Audit(url)
    yield audit
    audit.close()


def spoil(url: str, *statements: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_what_is_as_it_should_be_gives_no_complaint(audit: Audit, done: str) -> None:
    found = audit.findings({"key": done}, {done: "Hello"})
    assert found.complaints == []
    assert (found.statuses, found.outcomes) == ({"completed": 1}, {"lost": 1, "completed": 1})
    assert (audit.ended(), found.most_attempts, found.most_failures, found.calls) == (1, 2, 1, {"RuntimeError": 1})


@pytest.mark.parametrize(
    ("spoiled", "complaint"),
    [
        ("UPDATE tasks SET status = 'failed'", "ended 2 times"),
        ("UPDATE tasks SET status = 'running'", "is left running"),
        ("UPDATE attempts SET ended_at = NULL WHERE number = 2", "an attempt that was left open"),
        ("UPDATE attempts SET outcome = 'completed'", "2 completed attempts"),
        ("UPDATE attempts SET outcome = 'failed'", "2 attempts that failed; its row says 1"),
        ("DELETE FROM attempts WHERE number = 1", "not numbered from 1 to 2"),
        ("UPDATE tasks SET attempt = 7", "took 7 attempts; 6 are the most"),
        ("UPDATE model_calls SET ended_at = NULL", "1 model calls are left open"),
        ("UPDATE tasks SET result = 'Hell'", "'Hell'"),
    ],
)
def test_what_must_not_be_is_found(audit: Audit, done: str, url: str, spoiled: str, complaint: str) -> None:
    spoil(url, spoiled)
    assert any(complaint in each for each in audit.findings({"key": done}, {done: "Hello"}).complaints)


def test_a_task_that_is_gone_or_was_never_acknowledged_is_found(audit: Audit, done: str) -> None:
    assert audit.findings({"key": done, "other": "gone"}, None).complaints == ["task gone was acknowledged and is gone"]
    assert audit.findings({}, None).complaints == [f"task {done} is there and was never acknowledged"]


def test_a_seed_gives_the_same_deaths_each_time_and_leaves_no_target_out() -> None:
    deaths = planned(["gateway", "watcher", "model"], 7, seed=3)
    assert (
        deaths == planned(["gateway", "watcher", "model"], 7, seed=3) != planned(["gateway", "watcher", "model"], 7, 4)
    )
    assert {death.target for death in deaths[:3]} == {"gateway", "watcher", "model"}
