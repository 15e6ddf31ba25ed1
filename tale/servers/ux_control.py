"""Carries out what is ordered in a conversation: stop, pause, resume, retry, another order or model, a wish."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tale.conversation import wording
from tale.conversation.hand_off import HandOff
from tale.conversation.orders import Action, Order, order_of
from tale.conversation.phrases import plain
from tale.conversation.references import Reference, tasks_meant
from tale.conversation.state import CLARIFY, CONTROL, WISH
from tale.exceptions import TaleBaseException
from tale.models.pool import Pool
from tale.records import Role, Task, TaskStatus
from tale.servers.ux_answers import ModelAnswers
from tale.servers.ux_callers import UXCaller
from tale.servers.ux_tasks import TaskDesk
from tale.storage.conversation_store import ConversationStore, ConversationView

AHEAD, BEHIND = 10, -10  # priorities of a task that is put first or last
TO_THE_END: Final = re.compile(r"\b(?:end|bottom|back|later|last|ende|fin|final|fondo|konie\w*)\b")


@dataclass(frozen=True, slots=True)
class Done:
    """What is said of an order: the kinds under which its two messages are kept, and a task that it began."""

    told: str
    kind: str = CONTROL
    kind_of_order: str = CONTROL
    task: Task | None = None
    starts_afresh: bool = False


class Controls:
    """Orders given in words. What the gateway refuses is told, not raised: the conversation goes on."""

    def __init__(
        self,
        desk: TaskDesk,
        answers: ModelAnswers,
        conversations: ConversationStore,
        pool: Pool,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._answers = answers
        self._conversations = conversations
        self._pool = pool
        self._clock = clock

    async def carry_out(self, text: str, view: ConversationView, caller: UXCaller) -> Done:
        """Do what is ordered, and say what was done."""
        order = order_of(text)
        meant = tasks_meant(text, view.tasks, first_number=view.first_number)
        try:
            return await self._done(order, text, meant, view, caller)
        except TaleBaseException as error:
            return Done(f"That could not be done: {error.message}")

    async def choose_model(self, view: ConversationView, role: Role) -> str | None:
        """Have that role's model answer in the conversation; returns its name, None where there is no such model."""
        await self._conversations.choose_model(view.conversation.id, role)
        names = {model.role: model.name for model in (await self._pool.status()).models}
        return names.get(role) or next(iter(names.values()), None)

    async def _done(self, order: Order, text: str, meant: Reference, view: ConversationView, caller: UXCaller) -> Done:
        action = order.action
        if action == "stop":
            return await self._stop(text, meant, view, caller)
        if action == "pause":
            return await self._pause(meant, caller)
        if action == "resume":
            return await self._resume(caller)
        if action == "retry":
            return await self._retry(order, meant, view, caller)
        if action == "first":
            return await self._reorder(text, meant, view, caller)
        if action == "clear":
            told = "Let's start afresh: I no longer read what was said before. Your tasks go on."
            return Done(told, starts_afresh=True)
        if action in ("small_model", "large_model"):
            return await self._other_model(action, view)
        return Done(
            f"Noted for all answers from now on: {wording.name_of(text, 200)}. If you meant one of your tasks, "
            "say stop, retry, pause or resume, and which.",
            kind_of_order=WISH,
        )

    async def _stop(self, text: str, meant: Reference, view: ConversationView, caller: UXCaller) -> Done:
        unfinished = {number: task for number, task in view.numbered.items() if not task.status.is_final}
        named = meant.how not in ("none", "pronoun", "all")
        broken_off = not named and self._answers.stop(view.conversation.id)
        if broken_off and meant.how != "all":
            rest = f" {_these(unfinished)} go on; say “stop all” to stop them too." if unfinished else ""
            return Done(f"I've stopped.{rest}")
        wanted = (
            {number: task for number, task in view.numbered.items() if task in meant.tasks} if named else unfinished
        )
        if not wanted and broken_off:
            return Done("I've stopped.")
        if not wanted:
            return Done("Nothing of this conversation is under way." if not named else "There is no such task here.")
        ended = [number for number, task in wanted.items() if task.status.is_final]
        if len(ended) == len(wanted):
            return Done(wording.overview(wanted, now=self._clock(), words={}))
        if not named and len(wanted) > 1 and meant.how != "all" and not _is_urgent(text):
            return Done(wording.which(wanted, "stop", now=self._clock()), kind=CLARIFY)
        going = {number: task for number, task in wanted.items() if not task.status.is_final}
        await asyncio.gather(*(self._desk.cancel(task, caller) for task in going.values()))
        return Done(f"Cancelled: {_named(going)}. What was written so far is kept.")

    async def _pause(self, meant: Reference, caller: UXCaller) -> Done:
        if meant.how in ("id", "number", "order", "topic"):
            return Done("One task cannot be held by itself: “pause” holds the queue, “stop” and its number ends it.")
        queue = await self._desk.order("pause_queue", caller)
        rest = f" {queue['running']} under way goes on." if queue["running"] else ""
        return Done(f"Paused: no task begins until you say “resume”.{rest}")

    async def _resume(self, caller: UXCaller) -> Done:
        queue = await self._desk.order("resume_queue", caller)
        return Done(f"The queue goes on: {queue['queued']} waiting, {queue['running']} under way.")

    async def _retry(self, order: Order, meant: Reference, view: ConversationView, caller: UXCaller) -> Done:
        if not view.tasks:
            return Done("There is no task in this conversation to try again.")
        task = meant.tasks[0] if meant.tasks and meant.how != "all" else view.tasks[-1]
        if not task.status.is_final:
            return Done(f"It is not finished yet: {wording.standing(task, now=self._clock())}.")
        given = HandOff(task.text, await self._desk.files_of(task))
        limit = order.max_output_tokens or task.max_output_tokens
        number, again = await self._desk.hand_in(given, view, caller, max_output_tokens=limit)
        return Done(f"Once more, as task {number}: {wording.name_of(again.text)}.", task=again)

    async def _reorder(self, text: str, meant: Reference, view: ConversationView, caller: UXCaller) -> Done:
        waiting = [task for task in (meant.tasks or view.tasks[-1:]) if task.status is TaskStatus.QUEUED]
        if not waiting:
            return Done("Only a task that waits in the queue can change its place, and none that you mean does.")
        task, is_last = waiting[0], TO_THE_END.search(plain(text)) is not None
        given = HandOff(task.text, await self._desk.files_of(task))
        priority = task.priority + (BEHIND if is_last else AHEAD)
        limits = {"priority": max(-100, min(100, priority)), "max_output_tokens": task.max_output_tokens}
        number, again = await self._desk.hand_in(given, view, caller, **limits)
        await self._desk.cancel(task, caller)
        place = "behind the others" if is_last else "ahead of the others"
        return Done(f"It waits {place} now, as task {number}: {wording.name_of(again.text)}.", task=again)

    async def _other_model(self, action: Action, view: ConversationView) -> Done:
        role: Role = "ux" if action == "small_model" else "task"
        name = await self.choose_model(view, role)
        size = "small" if role == "ux" else "larger"
        return Done(f"From now on the {size} model{f', {name},' if name else ''} answers in this conversation.")


def _is_urgent(text: str) -> bool:
    """Whether nothing but "stop" is said: then all of it stops, at once."""
    return len(plain(text).split()) <= 1


def _named(tasks: dict[int, Task]) -> str:
    return ", ".join(f"task {number} ({wording.name_of(task.text, 40)})" for number, task in tasks.items())


def _these(tasks: dict[int, Task]) -> str:
    return f"Task {next(iter(tasks))}" if len(tasks) == 1 else f"{len(tasks)} tasks"
