"""Carries what happens to tasks between the processes of one PostgreSQL database, and the word to stop one."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Final

from tale.exceptions import DatabaseException, NetworkException, TaleBaseException
from tale.orchestration.task_events import TaskEvent, TaskEvents, attempt_ended
from tale.orchestration.task_texts import TaskTexts, TextPiece
from tale.orchestration.task_wire import Message, TaskWire
from tale.records import Task, TaskStatus

PIECE_CHARACTERS: Final = 600  # of text in a message; escaped, a character has up to twelve bytes
LONGEST_MESSAGE: Final = 600  # characters of a line for people
FLUSH_S: Final = 0.08
ASK_AGAIN_S: Final = 10.0
ASKED_FOR_S: Final = 30.0  # how long one question has texts told

logger = logging.getLogger(__name__)

StopAttempt = Callable[[str], Awaitable[object]]
Read = Callable[[str], Awaitable[Task | None]]


class TaskRelay:
    """Tells other processes of the tasks that run here, and this one of those that run elsewhere.

    A change of state is told always; texts, and how far they have come, only of tasks that somebody follows. `stop`
    ends the attempt at a task that runs here; `running` are those tasks.
    """

    def __init__(
        self,
        dsn: str,
        events: TaskEvents,
        texts: TaskTexts,
        *,
        read: Read,
        on_pause: Callable[[bool], None],
        is_paused: Callable[[], Awaitable[bool]],
    ) -> None:
        self._events = events
        self._texts = texts
        self._read = read
        self._on_pause = on_pause
        self._is_paused = is_paused
        self._stop_attempt: StopAttempt | None = None
        self._running: Callable[[], list[str]] = list
        self._wire = TaskWire(dsn, hear=self._hear, on_gap=self._catch_up)
        self._status: dict[str, TaskStatus] = {}
        self._progress: dict[str, TaskEvent] = {}  # not told yet
        self._asked_until: dict[str, float] = {}
        self._asked = asyncio.Event()
        self._told: dict[str, tuple[int, int]] = {}  # attempt and characters that were sent
        self._is_hearing = False
        self._work: set[asyncio.Task[None]] = set()
        events.tap(self._note)
        events.greet(self._ask)

    def run_attempts(self, stop: StopAttempt, running: Callable[[], list[str]]) -> None:
        """Have attempts of this process stopped when another one says so."""
        self._stop_attempt, self._running = stop, running

    async def start(self) -> None:
        """Connect."""
        await self._wire.start()
        self._do(self._flush_now_and_then())
        self._do(self._ask_now_and_then())

    async def stop(self) -> None:
        """Tell what is still to be told, and hang up."""
        for work in list(self._work):
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._wire.stop()

    async def tell_pause(self, is_paused: bool) -> None:
        """Have all processes begin no attempts, or begin them again; told on return, unless the database is away."""
        self._wire.send({"kind": "pause", "paused": is_paused})
        await self._wire.said()

    async def end_attempt(self, task_id: str, *, patience_s: float) -> None:
        """Have the attempt at a task stopped wherever it runs; raises NetworkException when nobody does in time."""
        with self._events.listen(task_id) as events:
            self._wire.send({"kind": "stop", "task": task_id})
            if self._stop_attempt is not None:
                await self._stop_attempt(task_id)
            try:
                async with asyncio.timeout(patience_s):
                    while True:
                        task = await self._read(task_id)
                        if task is None or task.status is not TaskStatus.RUNNING:
                            return
                        async for event in events:
                            if event.status is not TaskStatus.RUNNING:
                                break
            except TimeoutError as error:
                raise NetworkException(
                    f"The task's runner does not answer within {patience_s:g} s.", {"task_id": task_id}
                ) from error

    def _note(self, event: TaskEvent) -> None:
        """An event of this process: pass it on."""
        is_change = self._status.get(event.task_id) is not event.status
        if event.status.is_final:
            for known in (self._status, self._progress, self._told, self._asked_until):
                known.pop(event.task_id, None)
        else:
            self._status[event.task_id] = event.status
        if is_change or self._is_hearing:  # what was to be told before is old
            self._progress.pop(event.task_id, None)
        if self._is_hearing:
            return
        if is_change:
            self._send_event(event)
        else:
            self._progress[event.task_id] = event

    def _send_event(self, event: TaskEvent) -> None:
        message: Message = {"kind": "state", "task": event.task_id, "status": event.status.value}
        message["message"] = event.message[:LONGEST_MESSAGE]
        self._wire.send({**message, "tokens": event.output_tokens})

    def _ask(self, task_id: str) -> None:
        """Have whoever runs a task tell its text from where it is known here."""
        known = self._texts.after(task_id, 0, 0)
        place = [known.attempt, known.offset + len(known.text)] if known else [0, 0]
        self._wire.send({"kind": "ask", "task": task_id, "place": place})

    def _hear(self, message: Message) -> None:
        try:
            with self._hearing():
                self._obey(message)
        except (KeyError, TypeError, ValueError) as error:  # another version of tale, or another program
            logger.warning("A message about a task was not understood: %r", error)

    @contextmanager
    def _hearing(self) -> Generator[None]:
        """What is published meanwhile comes from others, and is not passed on to them."""
        self._is_hearing = True
        try:
            yield
        finally:
            self._is_hearing = False

    def _obey(self, message: Message) -> None:
        match message["kind"]:
            case "state":
                status = TaskStatus(message["status"])
                self._events.publish(TaskEvent(message["task"], status, message["message"], message["tokens"]))
            case "text":
                piece = TextPiece(message["task"], message["attempt"], message["offset"], message["text"])
                if self._events.has_listeners(piece.task_id) and not self._texts.add(piece):
                    self._ask(piece.task_id)
            case "ask":
                self._asked_until[message["task"]] = time.monotonic() + ASKED_FOR_S
                self._asked.set()
                attempt, offset = message["place"]
                told = self._told.get(message["task"], (0, 0))
                self._told[message["task"]] = min(told, (attempt, offset))
            case "stop" if self._stop_attempt is not None:
                self._do(self._stopped(self._stop_attempt, message["task"]))
            case "pause":
                self._on_pause(bool(message["paused"]))
            case _:
                pass

    async def _stopped(self, stop: StopAttempt, task_id: str) -> None:
        try:
            await stop(task_id)
        except TaleBaseException as error:
            logger.warning("Task %s could not be stopped: %s", task_id, error)

    async def _flush_now_and_then(self) -> None:
        while True:
            await self._asked.wait()
            self._flush()
            if not self._asked_until:
                self._asked.clear()
            await asyncio.sleep(FLUSH_S)

    def _flush(self) -> None:
        """Tell the texts, and how far they have come, of tasks that somebody asked for."""
        now = time.monotonic()
        for task_id, until in list(self._asked_until.items()):
            if until < now:
                del self._asked_until[task_id]
                self._told.pop(task_id, None)
                continue
            if event := self._progress.pop(task_id, None):
                self._send_event(event)
            if task_id in self._running():
                self._send_text(task_id)

    def _send_text(self, task_id: str) -> None:
        attempt, offset = self._told.get(task_id, (0, 0))
        piece = self._texts.after(task_id, attempt, offset)
        if piece is None:
            return
        for start in range(0, len(piece.text), PIECE_CHARACTERS):
            part = piece.text[start : start + PIECE_CHARACTERS]
            message = {"kind": "text", "task": task_id, "attempt": piece.attempt, "offset": piece.offset + start}
            self._wire.send({**message, "text": part})
        self._told[task_id] = (piece.attempt, piece.offset + len(piece.text))

    async def _ask_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(ASK_AGAIN_S)
            for task_id in self._events.listened_to():
                self._ask(task_id)

    def _catch_up(self) -> None:
        self._do(self._look_at_the_rows())

    async def _look_at_the_rows(self) -> None:
        """After a gap: end here what was cancelled meanwhile, and tell listeners what ended."""
        try:
            is_paused = await self._is_paused()
            with self._hearing():
                self._on_pause(is_paused)
            for task_id in self._running():
                task = await self._read(task_id)
                if task is not None and task.cancel_requested_at is not None and self._stop_attempt is not None:
                    await self._stopped(self._stop_attempt, task_id)
            for task_id in self._events.listened_to():
                self._ask(task_id)
                task = await self._read(task_id)
                if task is not None and task.status.is_final:
                    self._events.publish(attempt_ended(task))
        except DatabaseException as error:
            logger.warning("What was missed meanwhile is not known: %s", error)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
