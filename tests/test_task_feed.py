"""A feed tells what its listener does not know yet, sees every end, and says when nothing happens."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tale.exceptions import DatabaseException, TaskException
from tale.orchestration.task_events import TaskEvent, TaskEvents
from tale.orchestration.task_feed import FeedEvent, Place, TaskFeed
from tale.orchestration.task_texts import TaskTexts
from tale.records import Task, TaskStatus


class Desk:
    """A board, the texts, and one row that the test changes."""

    def __init__(
        self, status: TaskStatus = TaskStatus.RUNNING, *, silence_s: float = 60.0, row_s: float = 60.0
    ) -> None:
        self.events, self.texts = TaskEvents(), TaskTexts()
        self.task = Task("t", "x", status, 1.0, attempt=1)
        self.faults = 0  # of the database, from now on
        self.feed = TaskFeed(self.events, self.texts, self.read, batch_s=0.0, silence_s=silence_s, row_s=row_s)

    async def read(self, task_id: str) -> Task:
        if task_id != "t":
            raise TaskException("No such task.")
        if self.faults:
            self.faults -= 1
            raise DatabaseException("There is no connection to the database server.")
        return self.task

    def end(self, result: str, status: TaskStatus = TaskStatus.COMPLETED, *, is_told: bool = True) -> None:
        self.task = Task("t", "x", status, 1.0, attempt=1, result=result)
        self.texts.end("t")
        if is_told:
            self.events.publish(TaskEvent("t", status, "Ended"))

    async def all(self, place: Place | None = None) -> list[FeedEvent]:
        return [event async for event in self.feed.follow("t", place or Place()) if event is not None]


async def test_word_of_the_wait_of_a_task_that_runs_by_its_row_is_old() -> None:
    desk = Desk()  # the start of a task is written before it is told
    desk.events.publish(TaskEvent("t", TaskStatus.QUEUED, "Queued"))
    feed = desk.feed.follow("t", Place())
    assert (await anext(feed)).data["status"] == "running"  # type: ignore[union-attr] - no silence yet
    desk.events.publish(TaskEvent("t", TaskStatus.RUNNING, "Running"))
    desk.events.publish(TaskEvent("t", TaskStatus.QUEUED, "To be tried again"))
    told = [await anext(feed) for _ in range(2)]
    assert [(event.kind, event.data["message"]) for event in told if event] == [
        ("progress", "Running"),
        ("state", "To be tried again"),
    ]
    await feed.aclose()


async def test_the_rest_of_a_text_comes_from_the_row_when_it_ends_before_it_was_read() -> None:
    desk = Desk()
    feed = desk.feed.follow("t", Place())
    assert (await anext(feed)).data["status"] == "running"  # type: ignore[union-attr] - no silence yet
    desk.texts.append("t", 1, "Hello")
    desk.end("Hello world")
    rest = [event async for event in feed if event is not None]
    assert "".join(event.data["text"] for event in rest if event.kind == "text") == "Hello world"
    assert (rest[-1].kind, rest[-1].data["result"]) == ("state", "Hello world")


async def test_an_end_that_nobody_told_of_is_found_in_the_row() -> None:
    desk = Desk(silence_s=0.01)
    feed = desk.feed.follow("t", Place())
    await anext(feed)
    desk.end("done", is_told=False)
    events = [event async for event in feed]
    assert events[-1] is not None
    assert events[-1].data["status"] == "completed"


async def test_a_database_that_does_not_answer_for_a_while_ends_no_feed() -> None:
    desk = Desk(silence_s=0.0, row_s=0.0)
    feed = desk.feed.follow("t", Place())
    await anext(feed)
    desk.faults = 2
    assert [await anext(feed), await anext(feed), desk.faults] == [None, None, 0]
    desk.faults = 2
    desk.end("done")
    events = [event async for event in feed]
    assert events[-1] is not None
    assert (events[-1].data["status"], events[-1].data["result"], desk.faults) == ("completed", "done", 0)


async def test_silence_is_told_as_long_as_it_lasts() -> None:
    desk = Desk(silence_s=0.0)
    feed = desk.feed.follow("t", Place(status="running"))
    assert [await anext(feed) for _ in range(3)] == [None, None, None]
    await feed.aclose()


async def test_an_attempt_that_failed_has_its_successor_s_text_begin_anew() -> None:
    desk = Desk()
    feed = desk.feed.follow("t", Place())
    await anext(feed)
    desk.texts.append("t", 1, "wrong")
    told = await anext(feed)
    assert told is not None
    assert (told.data["offset"], told.data["text"], str(told.place)) == (0, "wrong", "1-5-running")
    desk.texts.append("t", 2, "right")
    told = await anext(feed)
    assert told is not None
    assert (told.data["attempt"], told.data["offset"], told.data["text"]) == (2, 0, "right")
    await feed.aclose()


async def test_a_text_that_is_not_told_here_is_taken_from_the_row_as_it_is_kept() -> None:
    desk = Desk(row_s=0.0)
    feed = desk.feed.follow("t", Place())
    await anext(feed)
    pieces: list[str] = []
    for number, kept in enumerate(("Hello", "Hello", "Hello world"), start=1):
        desk.task = Task("t", "x", TaskStatus.RUNNING, 1.0, attempt=1, result=kept)
        desk.events.publish(TaskEvent("t", TaskStatus.RUNNING, "m is writing", number))
        while (told := await anext(feed)) is None or told.kind != "progress":
            if told is not None:
                pieces.append(told.data["text"])
    desk.end("Hello world!")
    pieces += [event.data["text"] async for event in feed if event is not None and event.kind == "text"]
    assert pieces == ["Hello", " world", "!"]


async def test_the_row_of_a_later_attempt_is_not_taken_for_its_text() -> None:
    desk = Desk(row_s=0.0)
    desk.task = Task("t", "x", TaskStatus.RUNNING, 1.0, attempt=2, result="of the first attempt")
    feed = desk.feed.follow("t", Place())
    await anext(feed)
    desk.events.publish(TaskEvent("t", TaskStatus.RUNNING, "m is writing", 1))
    told = await anext(feed)
    assert told is not None
    assert told.kind == "progress"
    await feed.aclose()


async def test_progress_is_told_though_the_row_cannot_be_read() -> None:
    desk = Desk(row_s=0.0)
    feed = desk.feed.follow("t", Place())
    await anext(feed)
    desk.faults = 1
    desk.events.publish(TaskEvent("t", TaskStatus.RUNNING, "m is writing", 1))
    told = await anext(feed)
    assert told is not None
    assert (told.kind, desk.faults) == ("progress", 0)
    await feed.aclose()


async def test_progress_is_no_new_state() -> None:
    desk = Desk(TaskStatus.QUEUED)
    feed = desk.feed.follow("t", Place())
    await anext(feed)
    for message, tokens in [("m is reading the task", None), ("m is writing", 3)]:
        desk.events.publish(TaskEvent("t", TaskStatus.RUNNING, message, tokens))
    told = [await anext(feed), await anext(feed)]
    assert [(event.kind, event.data.get("output_tokens")) for event in told if event] == [
        ("state", None),
        ("progress", 3),
    ]
    await feed.aclose()


async def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(TaskException):
        await anext(Desk().feed.follow("other", Place()))


async def test_nobody_is_left_listening_when_a_listener_goes() -> None:
    desk = Desk()
    feed = desk.feed.follow("t", Place())
    await anext(feed)
    waiting = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await feed.aclose()
    assert desk.events.listened_to() == []


@given(st.text(max_size=30))
def test_any_text_is_a_place(text: str) -> None:
    assert Place.parse(str(Place.parse(text))) == Place.parse(text)


def test_a_place_is_read_as_it_was_written() -> None:
    assert Place.parse(str(Place(3, 1_403, "running"))) == Place(3, 1_403, "running")
