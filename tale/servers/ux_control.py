"""Carries out what is ordered in a conversation: stop, pause, resume, retry, another order or model, a wish."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tale.conversation import wording
from tale.conversation.exchanges import key_of
from tale.conversation.hand_off import HandOff
from tale.conversation.kinds import CONTROL, WHICH, WISH
from tale.conversation.orders import Order, without_limit
from tale.conversation.phrases import has, says
from tale.conversation.references import (
    NAMED,
    Reference,
    names_unknown,
    numbers_named,
    tasks_meant,
    without_place,
)
from tale.conversation.stopping import stop_meant
from tale.exceptions import TaleBaseException
from tale.models.pool import Pool
from tale.records import ConversationTurn, Role, Task, TaskStatus
from tale.servers.ux_answers import ModelAnswers
from tale.servers.ux_callers import UXCaller
from tale.servers.ux_tasks import TaskDesk
from tale.storage.content import is_erased
from tale.storage.conversation_store import ConversationStore, ConversationView

AHEAD: Final = 10  # of the others goes a task that is put first; as far behind them one that is put last
MOST_PRIORITY: Final = 100
CLEAR_WHAT: Final = (
    "Shall I forget our talk (say “clear this conversation”), or stop a task (say “stop” and its number)?"
)
NO_SUCH_TASK: Final = "There is no such task here."
ONE_AT_A_TIME: Final = "I try one task again at a time: say which, as in “retry 1”."
UNCLEAR: Final = (
    "I'm not sure what to do: say stop, retry, pause or resume, and which task; a wish for all answers begins with "
    "“from now on”."
)
LOST: Final = (TaskStatus.FAILED, TaskStatus.CANCELLED)
TAKES_BACK: Final = "forget that"  # means the latest wish


@dataclass(frozen=True, slots=True)
class Done:
    """What is said of an order: the words, the kind under which they are kept, and a task that it began."""

    told: str
    kind: str = CONTROL
    task: Task | None = None


@dataclass(frozen=True, slots=True)
class _Given:
    """An order as it was given: its words, the tasks they mean, where and by whom, and the message, which is kept."""

    text: str
    meant: Reference
    view: ConversationView
    caller: UXCaller
    asked: ConversationTurn


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

    async def carry_out(
        self, order: Order, text: str, view: ConversationView, caller: UXCaller, asked: ConversationTurn
    ) -> Done:
        """Do what a text orders, and say what was done.

        `asked` is the message, kept already; `view` ends before it.
        """
        meant = tasks_meant(without_limit(text), view.tasks, first_number=view.first_number)
        try:
            return await self._done(order, _Given(text, meant, view, caller, asked))
        except TaleBaseException as error:
            return Done(f"That could not be done: {error.message}")

    async def choose_model(self, view: ConversationView, role: Role) -> str | None:
        """Have that role's model answer in the conversation; returns its name, None where there is no such model."""
        await self._conversations.choose_model(view.conversation.id, role)
        names = {model.role: model.name for model in (await self._pool.status()).models}
        return names.get(role) or next(iter(names.values()), None)

    async def _done(self, order: Order, given: "_Given") -> Done:
        action = order.action
        if says("takes_back", given.text):
            return await self._take_back(given)
        if action == "stop":
            return await self._stop(given)
        if action == "pause":
            return await self._pause(given)
        if action == "resume":
            return await self._resume(given.caller)
        if action == "retry":
            return await self._retry(order, given)
        if action in ("first", "last"):
            return await self._reorder(given, is_last=action == "last")
        if action == "clear":
            return Done(CLEAR_WHAT) if self._may_mean_tasks(given) else await self._start_afresh(given)
        if action in ("small_model", "large_model"):
            return await self._other_model(action, given.view)
        return await self._wish(given) if action == "wish" else Done(UNCLEAR)

    async def _wish(self, given: "_Given") -> Done:
        await self._conversations.change_kind(given.asked, WISH)
        wish = wording.name_of(given.text, 200)
        return Done(f"Noted for all answers from now on: {wish}. Say “{TAKES_BACK}” to take it back.")

    async def _take_back(self, given: "_Given") -> Done:
        """Forget the latest wish, unless the words rather mean a task that is under way."""
        wish = await self._conversations.last_wish(given.view.conversation.id)
        if wish is None or is_erased(wish.content):
            return self._nothing_to_forget(given)
        is_meant = wish == _last_of_user(given.view.turns) or not _open(given.view.tasks)
        return await self._forget(wish) if is_meant else self._nothing_to_forget(given)

    def _nothing_to_forget(self, given: "_Given") -> Done:
        """The words may mean a task, too: so it is asked which."""
        unfinished = {number: task for number, task in given.view.numbered.items() if not task.status.is_final}
        if not unfinished:
            return Done("There is nothing to take back: no wish holds, and no task is under way.")
        return Done(wording.which(unfinished, "stop", now=self._clock()), kind=WHICH)

    async def _forget(self, wish: ConversationTurn) -> Done:
        await self._conversations.change_kind(wish, CONTROL)
        return Done(f"Taken back: {wording.name_of(wish.content, 200)}.")

    async def _stop(self, given: "_Given") -> Done:
        stop = stop_meant(given.text, given.view.numbered)
        named = stop.how in NAMED
        if not named and self._answers.stop(given.view.conversation.id) and not (stop.how == "all" and stop.tasks):
            rest = f" {_these(stop.tasks)} go on; say “stop all” to stop them too." if stop.tasks else ""
            return Done(f"I've stopped.{rest}")
        if not stop.tasks:
            return Done(NO_SUCH_TASK if named else "Nothing of this conversation is under way.")
        going = {number: task for number, task in stop.tasks.items() if not task.status.is_final}
        if not going:
            return Done(wording.overview(stop.tasks, now=self._clock(), words={}))
        if not stop.is_sure:
            unfinished = {n: task for n, task in given.view.numbered.items() if not task.status.is_final}
            return Done(wording.which(unfinished, "stop", now=self._clock()), kind=WHICH)
        await asyncio.gather(*(self._desk.cancel(task, given.caller) for task in going.values()))
        return Done(f"Cancelled: {_named(going)}. What was written so far is kept.")

    async def _pause(self, given: "_Given") -> Done:
        if given.meant.how in NAMED:
            return Done("One task cannot be held by itself: “pause” holds the queue, “stop” and its number ends it.")
        queue = await self._desk.order("pause_queue", given.caller)
        rest = f" {queue['running']} under way goes on." if queue["running"] else ""
        return Done(f"Paused: no task begins until you say “resume”.{rest}")

    async def _resume(self, caller: UXCaller) -> Done:
        queue = await self._desk.order("resume_queue", caller)
        return Done(f"The queue goes on: {queue['queued']} waiting, {queue['running']} under way.")

    async def _retry(self, order: Order, given: "_Given") -> Done:
        view, meant = given.view, given.meant
        key = key_of(given.asked)
        if begun := next((each for each in view.numbered.items() if each[1].idempotency_key == key), None):
            return _once_more(*begun)  # by a server that died before it said so
        if not view.tasks:
            return Done("There is no task in this conversation to try again.")
        numbers = numbers_named(without_limit(given.text)) if meant.how == "number" else []
        if len(meant.tasks) > 1 or len(numbers) > 1:
            return Done(ONE_AT_A_TIME)
        task = await self._to_retry(given, *numbers)
        if task is None:
            return Done(NO_SUCH_TASK)
        if not task.status.is_final:
            return Done(f"It is not finished yet: {wording.standing(task, now=self._clock())}.")
        builds_on = [_latest_try(each, view.tasks) for each in await self._desk.awaited_by(task)]
        if lost := next((each for each in builds_on if each.status in LOST), None):
            how = "was cancelled" if lost.status is TaskStatus.CANCELLED else "failed"
            return Done(f"It builds on {wording.name_of(lost.text)}, which {how}: try that again first.")
        again = HandOff(task.text, await self._desk.files_of(task), tuple(each.id for each in builds_on))
        limit = order.max_output_tokens or task.max_output_tokens
        return _once_more(*await self._desk.hand_in(again, given.asked, given.caller, max_output_tokens=limit))

    async def _to_retry(self, given: "_Given", number: int | None = None) -> Task | None:
        """The task that is to be tried again, that of a number if one is named; None where it is not there."""
        view, meant = given.view, given.meant
        if number is not None:
            return await self._conversations.task_numbered(view.conversation.id, number)
        if (meant.how in NAMED and not meant.tasks) or (meant.how == "none" and names_unknown(given.text, view.tasks)):
            return None
        return meant.tasks[0] if meant.how in NAMED else _told_last(view)

    async def _reorder(self, given: "_Given", *, is_last: bool) -> Done:
        view = given.view
        meant = tasks_meant(without_place(given.text), view.tasks, first_number=view.first_number)
        if (meant.how in NAMED and not meant.tasks) or (meant.how == "none" and names_unknown(given.text, view.tasks)):
            return Done(NO_SUCH_TASK)
        waiting = _waiting(meant.tasks or view.tasks[-1:])
        if not waiting:
            return Done("Only a task that waits in the queue can change its place, and none that you mean does.")
        task = waiting[0]
        others = [each.priority for each in _waiting(view.tasks) if each != task] or [0]
        priority = min(task.priority, min(others) - AHEAD) if is_last else max(task.priority, max(others) + AHEAD)
        priority = max(-MOST_PRIORITY, min(MOST_PRIORITY, priority))
        await self._desk.set_priority(task, priority, given.caller)
        place = "behind the others" if is_last else "ahead of the others"
        return Done(f"It waits {place} now: {_named({n: each for n, each in view.numbered.items() if each == task})}.")

    def _may_mean_tasks(self, given: "_Given") -> bool:
        """Whether what is to be cleared may be tasks in place of the talk: "clear the second one"."""
        says_talk = has("clear", given.text) or says("clear_alone", given.text)
        return given.meant.how in ("id", "number", "topic") or (bool(_open(given.view.tasks)) and not says_talk)

    async def _start_afresh(self, given: "_Given") -> Done:
        await self._conversations.start_afresh(given.view.conversation.id, until=given.asked.position)
        return Done(
            "Let's start afresh: I no longer read what was said before, and your wishes for answers end. "
            "Your tasks go on."
        )

    async def _other_model(self, action: str, view: ConversationView) -> Done:
        role: Role = "ux" if action == "small_model" else "task"
        name = await self.choose_model(view, role)
        size = "small" if role == "ux" else "larger"
        return Done(f"From now on the {size} model{f', {name},' if name else ''} answers in this conversation.")


def _named(tasks: dict[int, Task]) -> str:
    return ", ".join(f"task {number} ({wording.name_of(task.text, 40)})" for number, task in tasks.items())


def _these(tasks: Mapping[int, Task]) -> str:
    return f"Task {next(iter(tasks))}" if len(tasks) == 1 else f"{len(tasks)} tasks"


def _once_more(number: int, task: Task) -> Done:
    return Done(f"Once more, as task {number}: {wording.name_of(task.text)}.", task=task)


def _open(tasks: Iterable[Task]) -> list[Task]:
    return [task for task in tasks if not task.status.is_final]


def _waiting(tasks: Iterable[Task]) -> list[Task]:
    return [task for task in tasks if task.status is TaskStatus.QUEUED]


def _latest_try(task: Task, tasks: Sequence[Task]) -> Task:
    """The task itself; of one that was lost the latest of the same words that was not, if there is one."""
    if task.status not in LOST:
        return task
    return next((each for each in reversed(tasks) if each.text == task.text and each.status not in LOST), task)


def _told_last(view: ConversationView) -> Task:
    """The task that was told of last; where that is under way, the one before whose failure was told, if any was."""
    known = {task.id: task for task in view.tasks}
    told = [known[turn.task_id] for turn in reversed(view.turns) if turn.task_id in known]
    ended = next((task for task in told if task.status.is_final), None)
    last = told[0] if told else view.tasks[-1]
    return ended if ended and ended.status in LOST and not last.status.is_final else last


def _last_of_user(turns: Sequence[ConversationTurn]) -> ConversationTurn | None:
    return next((turn for turn in reversed(turns) if turn.role == "user"), None)
