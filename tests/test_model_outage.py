"""While the models are out of reach a task waits: no attempt of it fails, unless an engine was at work already."""

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tale.exceptions import NetworkException
from tale.models.backend import ChatEvent, ChatStream
from tale.models.remote_pool import RemoteModelPool
from tale.orchestration.executor import Progress, TaskExecutor
from tale.orchestration.model_outage import once_in_reach
from tale.records import CallContext, ChatRequest, Delta, Dispatched, Reply, Task, TaskStatus
from tale.storage.database import Database
from tale.storage.task_store import TaskStore

AWAY = NetworkException("The engine does not answer.")
BEGIN, END = Dispatched("m", "task", None), Reply("Hi", "m", "stop")


def chats(*scripts: list[ChatEvent | NetworkException]) -> Callable[[], ChatStream]:
    """A function that plays one script after the other, the last one for ever."""
    left = list(scripts)

    async def stream() -> ChatStream:
        for step in left.pop(0) if len(left) > 1 else left[0]:
            if isinstance(step, NetworkException):
                raise step
            yield step

    return stream


async def test_what_cannot_be_reached_is_asked_again_and_said_once() -> None:
    said: list[str] = []
    chat = chats([AWAY], [AWAY], [BEGIN, Delta("Hi"), END])
    events = [event async for event in once_in_reach(chat, on_wait=said.append, pause_s=0)]
    assert events == [BEGIN, Delta("Hi"), END]
    assert said == ["Waiting for the models, which do not answer"]


async def test_what_breaks_after_an_engine_began_is_told_at_once() -> None:
    stream = once_in_reach(chats([BEGIN, AWAY], [BEGIN, END]), on_wait=lambda _: None, pause_s=0)
    assert await anext(stream) == BEGIN
    with pytest.raises(NetworkException, match="does not answer"):
        await anext(stream)


async def test_an_outage_without_end_is_told_in_the_end() -> None:
    with pytest.raises(NetworkException, match="does not answer"):
        await anext(once_in_reach(chats([AWAY]), on_wait=lambda _: None, pause_s=0, limit_s=0.01))


async def test_a_stream_that_is_closed_closes_the_one_behind_it() -> None:
    closed: list[bool] = []

    async def chat() -> ChatStream:
        try:
            yield BEGIN
            yield END
        finally:
            closed.append(True)

    stream = once_in_reach(chat, on_wait=lambda _: None)
    assert await anext(stream) == BEGIN
    await stream.aclose()
    assert closed == [True]


class ComesLate(RemoteModelPool):
    """A model server that is not there at first."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", "key")
        self.asked = 0

    async def chat(self, request: ChatRequest, context: CallContext, **more: object) -> ChatStream:
        self.asked += 1
        if self.asked == 1:
            async for event in super().chat(request, context):
                yield event
        yield BEGIN
        yield END


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[TaskStore]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield TaskStore(database)
    await database.close()


async def test_a_restart_of_the_model_server_costs_a_task_no_attempt(store: TaskStore) -> None:
    pool, heard = ComesLate(), list[Progress]()
    executor = TaskExecutor(store, pool, max_output_tokens=8, max_failures=1, clock=lambda: 1000.0)
    task = await store.insert(Task(str(uuid.uuid4()), "Say hi", TaskStatus.QUEUED, 1.0, timeout_s=300))
    done = await executor.execute(task.id, listener=heard.append)
    assert (done.status, done.attempt, done.failures) == (TaskStatus.COMPLETED, 1, 0)
    assert "Waiting for the models, which do not answer" in [progress.message for progress in heard]
    assert pool.asked == 2
    await pool.close()
