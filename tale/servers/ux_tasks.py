"""The tasks of conversations: handed in at the gateway, followed to their end, and told of in the conversation."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tale.constants import ERROR_RETRY_DELAY
from tale.conversation import wording
from tale.conversation.exchanges import key_of
from tale.conversation.hand_off import HandOff
from tale.exceptions import (
    DatabaseException,
    NetworkException,
    ServerException,
    TaleBaseException,
    TaskException,
)
from tale.records import Attachment, ConversationTurn, Task, TaskStatus
from tale.servers.ux_callers import GatewayLine, UXCaller
from tale.storage.conversation_store import ConversationStore
from tale.storage.task_store import TaskStore

WAIT_S: Final = 3_600  # of one wait at the gateway; then it is asked again
TOLD_WITHIN_S: Final = 86_400  # older tasks whose end was not told are not told any more

SumUp = Callable[[Task], Awaitable[str | None]]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Ears:
    """One listener's: `said` is set by a message, `news` by that and by the progress of a task."""

    said: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def clear(self) -> None:
        """All that was told has been looked at."""
        self.said.clear()
        self.news.clear()


class ConversationBoard:
    """Wakes those who follow a conversation."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Ears]] = {}

    def tell(self, conversation_id: str, *, said: bool = True) -> None:
        """A message came there; or, without `said`, a task got further."""
        for ears in self._listeners.get(conversation_id, ()):
            ears.news.set()
            if said:
                ears.said.set()

    @contextmanager
    def listen(self, conversation_id: str) -> Generator[Ears]:
        """Ears that hear what happens there from now on."""
        ears = Ears()
        self._listeners.setdefault(conversation_id, []).append(ears)
        try:
            yield ears
        finally:
            listeners = self._listeners[conversation_id]
            listeners.remove(ears)
            if not listeners:
                del self._listeners[conversation_id]


class TaskDesk:
    """Hands tasks in and follows them. `words` are what was told last of each that is under way."""

    def __init__(
        self,
        tasks: TaskStore,
        conversations: ConversationStore,
        gateway: GatewayLine,
        board: ConversationBoard,
        *,
        sum_up: SumUp,
        clock: Callable[[], float],
    ) -> None:
        self.words: dict[str, str] = {}
        self._tasks = tasks
        self._conversations = conversations
        self._gateway = gateway
        self._board = board
        self._sum_up = sum_up
        self._clock = clock
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._called_off: set[str] = set()  # in a conversation, which told so already

    async def start(self) -> None:
        """Follow what was handed in before this process began."""
        for task in await self._conversations.untold(since=self._clock() - TOLD_WITHIN_S):
            self.follow(task)

    async def stop(self) -> None:
        """Follow nothing any more; the next start takes it up."""
        following = list(self._followed.values())
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await self._gateway.close()

    async def hand_in(
        self, given: HandOff, asked: ConversationTurn, caller: UXCaller, **limits: Any
    ) -> tuple[int, Task]:
        """Hand in what `asked` asks for; returns its number in the conversation, and the task.

        Raises what the gateway raises. Asked again after a crash, it is still one task. It is followed once that is
        asked for, so that its end is not told before its beginning.
        """
        whose = {"conversation_id": asked.conversation_id, "idempotency_key": key_of(asked)}
        arguments: dict[str, Any] = {"text": given.text, **whose, **limits}
        if given.files:
            arguments["attachments"] = [{"name": file.name, "text": file.text} for file in given.files]
        if given.after:
            arguments |= {"after": list(given.after), "with_results": True}
        async with self._gateway.asked_by(caller) as gateway:
            receipt = await gateway.call_tool("submit_task", arguments)
        task = await self.known(receipt["id"])
        return await self._conversations.number_of(task), task

    async def is_paused(self) -> bool:
        """Whether the queue begins no tasks now."""
        return await self._tasks.paused_at() is not None

    async def cancel(self, task: Task, caller: UXCaller) -> Task:
        """Cancel a task; returns it as it then stands."""
        self._called_off.add(task.id)
        async with self._gateway.asked_by(caller) as gateway:
            await gateway.call_tool("cancel_task", {"task_id": task.id}, idempotent=True)
        return await self.known(task.id)

    async def set_priority(self, task: Task, priority: int, caller: UXCaller) -> None:
        """Have a waiting task go before others, or behind them."""
        async with self._gateway.asked_by(caller) as gateway:
            await gateway.call_tool("set_priority", {"task_id": task.id, "priority": priority}, idempotent=True)

    async def order(self, tool: str, caller: UXCaller) -> Mapping[str, Any]:
        """Call a tool of the gateway that takes nothing."""
        async with self._gateway.asked_by(caller) as gateway:
            return await gateway.call_tool(tool, idempotent=True)

    async def awaited_by(self, task: Task) -> list[Task]:
        """The tasks whose results a task gets, as they stand."""
        return await self._tasks.awaited_by(task.id) if task.with_results else []

    async def files_of(self, task: Task) -> tuple[Attachment, ...]:
        """The files that came with a task."""
        return tuple(await self._tasks.attachments(task.id))

    def follow(self, task: Task) -> None:
        """Tell in its conversation how the task goes, and how it ended."""
        if task.conversation_id is None or task.id in self._followed:
            return
        following = asyncio.create_task(self._follow(task.id, task.conversation_id), name=f"follow-{task.id}")
        self._followed[task.id] = following
        following.add_done_callback(lambda ended: self._forget(task.id, ended))

    def _forget(self, task_id: str, ended: asyncio.Task[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()):
            logger.error("Following task %s broke off.", task_id, exc_info=error)
        self._followed.pop(task_id, None)
        self.words.pop(task_id, None)
        self._called_off.discard(task_id)

    async def _follow(self, task_id: str, conversation_id: str) -> None:
        def on_progress(_figure: float, _total: float | None, message: str | None) -> None:
            if message and self.words.get(task_id) != message:
                self.words[task_id] = message
                self._board.tell(conversation_id, said=False)

        while True:
            try:
                async with self._gateway.asked_by(None) as gateway:
                    given = {"task_id": task_id, "timeout_s": WAIT_S}
                    await gateway.call_tool("wait_for_task", given, on_progress=on_progress, idempotent=True)
                task = await self.known(task_id)
                if task.status.is_final:
                    await self._tell_end(task, conversation_id)
                    return
            except TaskException:
                logger.info("Task %s is not there any more; nothing is told of it.", task_id)
                return
            except (NetworkException, ServerException, DatabaseException) as error:
                logger.info("Task %s cannot be followed now: %s", task_id, error)
                await asyncio.sleep(ERROR_RETRY_DELAY)
            except TaleBaseException as error:
                logger.error("What became of task %s could not be told: %s", task_id, error)
                return

    async def _tell_end(self, task: Task, conversation_id: str) -> None:
        is_there = await self._conversations.view(conversation_id) is not None
        if not is_there or (task.status is TaskStatus.CANCELLED and task.id in self._called_off):
            self._board.tell(conversation_id, said=False)
            return
        number = await self._conversations.number_of(task)
        summary = await self._sum_up(task) if wording.is_long(task) else None
        told = wording.ended(number, task, summary=summary)
        await self._conversations.append_result(conversation_id, told, task_id=task.id, now=self._clock())
        self._board.tell(conversation_id)

    async def known(self, task_id: str) -> Task:
        """A task as it stands; raises TaskException for one that is not there."""
        task = await self._tasks.get(task_id)
        if task is None:
            raise TaskException("The task is not there any more.", {"task_id": task_id})
        return task
