"""Whatever runners do to a task, in any order and with any attempt number, what its rows say stays true."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fakes.new_database import upgraded
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Connection, insert, select

from tale.records import Attempt, Task, TaskStatus
from tale.storage import task_moves
from tale.storage.engines import make_engine, parse_url
from tale.storage.rows import record_of, task_of, values_of
from tale.storage.tables import attempts, tasks
from tale.storage.task_moves import Ending

MAX_FAILURES = 3


class TaskLife(RuleBasedStateMachine):
    """Any runner may do anything at any time: whatever comes, what the row says stays true."""

    @initialize()
    def begin(self) -> None:
        url = parse_url("sqlite://")
        self.engine = make_engine(url, "write", busy_timeout_s=1)
        upgraded(self.engine, url, None, busy_timeout_s=1)
        self.now = 1.0
        self.ends = 0
        self.task = Task(str(uuid.uuid4()), "t", TaskStatus.QUEUED, created_at=1.0)
        self.final: Task | None = None
        with self.engine.begin() as connection:
            connection.execute(insert(tasks), values_of(self.task))

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()

    def attempt(self, offset: int) -> int:
        """The attempt in force, or one that a runner remembers wrongly."""
        return self.task.attempt + offset

    @contextmanager
    def moved(self) -> Iterator[Connection]:
        self.now += 1.0
        with self.engine.begin() as connection:
            yield connection
            self.before, self.task = self.task, self.read(connection)

    def read(self, connection: Connection) -> Task:
        return task_of(connection.execute(select(tasks).where(tasks.c.id == self.task.id)).mappings().one())

    @rule(offset=st.sampled_from([None, 0, 0, -1, 1]))
    def claim(self, offset: int | None) -> None:
        expected = None if offset is None else self.attempt(offset)
        with self.moved() as connection:
            claimed = task_moves.claim(
                connection, self.task.id, expected_attempt=expected, now=self.now, max_failures=MAX_FAILURES
            )
        before = self.before
        may = not before.status.is_final and (before.status is TaskStatus.QUEUED if expected is None else offset == 0)
        lost = before.failures + (before.status is TaskStatus.RUNNING)
        if may and before.cancel_requested_at is None and lost < MAX_FAILURES:
            assert claimed == self.task
            assert (self.task.status, self.task.attempt) == (TaskStatus.RUNNING, before.attempt + 1)
        else:
            assert claimed is None
            assert self.task.status.is_final if may else self.task == before

    @rule(offset=st.sampled_from([0, 0, -1, 1]), status=st.sampled_from([s for s in TaskStatus if s.is_final]))
    def finish(self, offset: int, status: TaskStatus) -> None:
        attempt = self.attempt(offset)
        with self.moved() as connection:
            ended = task_moves.finish(
                connection, self.task.id, attempt, status=status, now=self.now, ending=Ending(result="r")
            )
        assert (ended is not None) == (self.before.status is TaskStatus.RUNNING and offset == 0)
        assert self.task.status is status if ended else self.task == self.before
        if ended:
            assert ended.task == self.task
            self.ends += 1

    @rule(offset=st.sampled_from([0, 0, -1, 1]), outcome=st.sampled_from(["failed", "handed_back"]))
    def release(self, offset: int, outcome: Any) -> None:
        attempt = self.attempt(offset)
        with self.moved() as connection:
            released = task_moves.release(
                connection,
                self.task.id,
                attempt,
                outcome=outcome,
                now=self.now,
                max_failures=MAX_FAILURES,
                ending=Ending(error="e"),
            )
        if self.before.status is TaskStatus.RUNNING and offset == 0:
            assert released == self.task
            assert self.task.failures == self.before.failures + (outcome == "failed")
            assert self.task.status is not TaskStatus.RUNNING
        else:
            assert released is None
            assert self.task == self.before

    @rule()
    def request_cancel(self) -> None:
        with self.moved() as connection:
            found = task_moves.request_cancel(connection, self.task.id, now=self.now)
        assert found == self.task
        if not self.before.status.is_final:
            assert self.task.cancel_requested_at is not None
        if self.before.status is TaskStatus.QUEUED:
            assert self.task.status is TaskStatus.CANCELLED

    @rule(priority=st.integers(-100, 100))
    def change_priority(self, priority: int) -> None:
        with self.moved() as connection:
            changed = task_moves.change_priority(connection, self.task.id, priority)
        assert (changed is not None) == (self.before.status is TaskStatus.QUEUED)
        assert self.task == (replace(self.before, priority=priority) if changed else self.before)

    @precondition(lambda self: self.task.status.is_final)
    @invariant()
    def a_final_task_never_changes(self) -> None:
        self.final = self.final or self.task
        assert self.task == self.final
        assert self.task.ended_at is not None
        assert self.ends <= 1

    @invariant()
    def the_attempts_tell_the_same_as_the_task(self) -> None:
        with self.engine.begin() as connection:
            statement = select(attempts).order_by(attempts.c.number)
            made = [record_of(row, Attempt) for row in connection.execute(statement).mappings()]
        assert [attempt.number for attempt in made] == list(range(1, self.task.attempt + 1))
        under_way = [attempt.number for attempt in made if attempt.outcome is None]
        assert under_way == ([self.task.attempt] if self.task.status is TaskStatus.RUNNING else [])
        assert self.task.failures == len([attempt for attempt in made if attempt.outcome in ("failed", "lost")])
        assert self.task.failures <= MAX_FAILURES
        assert (self.task.ended_at is not None) == self.task.status.is_final


TestTaskLife = TaskLife.TestCase
TestTaskLife.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
