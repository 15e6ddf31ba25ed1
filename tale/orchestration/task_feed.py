"""A task from wherever a listener left off to its end: its states, how far it has come, and its text as it grows."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from tale.exceptions import DatabaseException
from tale.orchestration.task_events import TaskEvent, TaskEvents
from tale.orchestration.task_texts import TaskTexts, TextPiece
from tale.records import Task, TaskStatus

BATCH_S: Final = 0.08  # what a model writes within this time goes out together
ROW_S: Final = 1.0  # between two looks at a row for a text of which nothing comes to this process
SILENCE_S: Final = 15.0  # after this long the row is looked at, and the listener told that the line still stands
PLACE: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,12})-([a-z]{0,16})", re.ASCII)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """What a listener knows: the state he was told last, and how much of which attempt's text he has."""

    attempt: int = 0
    offset: int = 0
    status: str = ""

    def __str__(self) -> str:
        return f"{self.attempt}-{self.offset}-{self.status}"

    @classmethod
    def parse(cls, text: str) -> "Place":
        """The place of an event's id; the beginning for what is none."""
        found = PLACE.fullmatch(text)
        return cls(int(found[1]), int(found[2]), found[3]) if found else cls()


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """One event. `place` is where its reader then stands: any gateway goes on from there."""

    kind: Literal["state", "progress", "text"]
    place: Place
    data: dict[str, Any] = field(default_factory=dict[str, Any])


def forget_texts_of_ended(events: TaskEvents, texts: TaskTexts) -> None:
    """Keep no text of a task that ended: its row has it."""
    events.tap(lambda event: texts.end(event.task_id) if event.status.is_final else None)


class TaskFeed:
    """Feeds of tasks. `read` gives a task's row and raises TaskException for an unknown id."""

    def __init__(
        self,
        events: TaskEvents,
        texts: TaskTexts,
        read: Callable[[str], Awaitable[Task]],
        *,
        batch_s: float = BATCH_S,
        silence_s: float = SILENCE_S,
        row_s: float = ROW_S,
    ) -> None:
        self._events = events
        self._texts = texts
        self._read = read
        self._batch_s = batch_s
        self._silence_s = silence_s
        self._row_s = row_s
        self._of_rows: set[str] = set()  # tasks whose texts are taken from their rows
        self._looked_at: dict[str, float] = {}

    async def follow(self, task_id: str, place: Place) -> AsyncGenerator[FeedEvent | None]:
        """What the listener does not know yet, then what happens, until the task has ended.

        None says that nothing happened for a while. Raises TaskException for an unknown id, and DatabaseException where
        nothing can be told yet; one that comes later ends nothing.
        """
        with self._events.listen(task_id) as board, self._texts.follow(task_id) as changed:
            task = await self._read(task_id)  # first listen, then look: so that the end is not missed
            if not task.status.is_final and task.status != place.status:
                place = replace(place, status=task.status.value)
                yield _state(task, place)
            else:
                yield None
            row_is_ahead = task.status is TaskStatus.RUNNING  # of its wait there may still be old word on the board
            async with _News(board, changed, batch_s=self._batch_s, silence_s=self._silence_s) as news:
                while not task.status.is_final:
                    told = await news.next()
                    if isinstance(told, TaskEvent):
                        row_is_ahead = row_is_ahead and told.status is not TaskStatus.RUNNING
                        if row_is_ahead:
                            continue
                    if isinstance(told, TaskEvent) and told.output_tokens:
                        await self._look_for_text(task_id)
                    if piece := self._texts.after(task_id, place.attempt, place.offset):
                        place = replace(place, attempt=piece.attempt, offset=piece.offset + len(piece.text))
                        yield _text(piece, place)
                    if isinstance(told, TaskEvent):
                        kind = "progress" if told.status == place.status else "state"
                        place = replace(place, status=told.status.value)
                        yield _progress(told, place, kind)
                    elif told != "text":
                        task = await self._row(task_id) or task
                        yield None
            self._of_rows.discard(task_id)
            self._looked_at.pop(task_id, None)
            for event in _ending(task, place):
                yield event

    async def _look_for_text(self, task_id: str) -> None:
        """Take what the runner keeps in the row about once a second, where the model's words do not come by themselves.

        So it is on SQLite with the roles in processes of their own.
        """
        comes_by_itself = task_id not in self._of_rows and self._texts.after(task_id, 0, 0) is not None
        now = time.monotonic()
        if comes_by_itself or now - self._looked_at.get(task_id, 0.0) < self._row_s:
            return
        self._looked_at[task_id] = now
        task = await self._row(task_id)
        # The row of a later attempt may still have the text of an earlier one.
        if task is not None and task.status is TaskStatus.RUNNING and task.attempt == 1 and task.result:
            self._of_rows.add(task_id)
            self._texts.add(TextPiece(task_id, task.attempt, 0, task.result))

    async def _row(self, task_id: str) -> Task | None:
        """The row as it stands; None, after a while, where the database does not answer."""
        try:
            return await self._read(task_id)
        except DatabaseException as error:
            logger.warning("How task %s stands is not known: %s", task_id, error)
            await asyncio.sleep(self._row_s)
            return None


class _News:
    """What there is to tell next: a state or progress, "text", "silence", or "end" when there is word of the end."""

    def __init__(
        self, board: AsyncIterator[TaskEvent], changed: asyncio.Event, *, batch_s: float, silence_s: float
    ) -> None:
        self._board = board
        self._changed = changed
        self._batch_s = batch_s
        self._silence_s = silence_s

    async def __aenter__(self) -> "_News":
        self._reading = asyncio.ensure_future(_next(self._board))
        self._writing = asyncio.ensure_future(self._changed.wait())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._reading, self._writing):
            task.cancel()
        await asyncio.gather(self._reading, self._writing, return_exceptions=True)

    async def next(self) -> TaskEvent | Literal["text", "silence", "end"]:
        waited_for = {self._reading, self._writing}
        done, _ = await asyncio.wait(waited_for, timeout=self._silence_s, return_when=asyncio.FIRST_COMPLETED)
        if self._writing in done:
            await asyncio.sleep(self._batch_s)
            self._changed.clear()
            self._writing = asyncio.ensure_future(self._changed.wait())
            return "text"
        if self._reading not in done:
            return "silence"
        event = self._reading.result()
        if event is None:  # the end was told of before; should the row not know yet, it is asked at this pace
            await asyncio.sleep(self._batch_s)
            return "end"
        self._reading = asyncio.ensure_future(_next(self._board))
        return "end" if event.status.is_final else event


async def _next(board: AsyncIterator[TaskEvent]) -> TaskEvent | None:
    return await anext(board, None)


def _ending(task: Task, place: Place) -> list[FeedEvent]:
    """The rest of the text, and the final state with the whole of it."""
    events: list[FeedEvent] = []
    start = place.offset if place.attempt == task.attempt else 0
    rest = (task.result or "")[start:]
    if rest:
        place = replace(place, attempt=task.attempt, offset=start + len(rest))
        events.append(_text(TextPiece(task.id, task.attempt, start, rest), place))
    if place.status != task.status:
        events.append(_state(task, replace(place, status=task.status.value)))
    return events


def _state(task: Task, place: Place) -> FeedEvent:
    data = {"task_id": task.id, "status": task.status.value, "message": f"Task {task.status.value}"}
    if task.status is TaskStatus.RUNNING:
        data["message"] = "Running"
    if task.status.is_final:
        ending = {"result": task.result, "finish_reason": task.finish_reason, "error": task.error}
        data |= {name: value for name, value in ending.items() if value is not None}
    return FeedEvent("state", place, data)


def _progress(event: TaskEvent, place: Place, kind: Literal["state", "progress"]) -> FeedEvent:
    data: dict[str, Any] = {"task_id": event.task_id, "status": event.status.value, "message": event.message}
    if event.output_tokens is not None:
        data["output_tokens"] = event.output_tokens
    return FeedEvent(kind, place, data)


def _text(piece: TextPiece, place: Place) -> FeedEvent:
    data = {"task_id": piece.task_id, "attempt": piece.attempt, "offset": piece.offset, "text": piece.text}
    return FeedEvent("text", place, data)
