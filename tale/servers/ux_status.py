"""Answers to questions about one's own work: from the rows and the state of the models, never from a model's words."""

from collections.abc import Callable, Mapping
from typing import Final

from tale.conversation import wording
from tale.conversation.phrases import has
from tale.conversation.questions import topic_of
from tale.conversation.references import NAMED, Reference, numbers_named, places_a_task, tasks_meant
from tale.models.pool import ModelState, Pool
from tale.records import ConversationTurn, Task, TaskStatus
from tale.storage.budget_store import BudgetStore
from tale.storage.budget_views import budget_view
from tale.storage.call_store import CallStore
from tale.storage.content import is_erased
from tale.storage.conversation_store import ConversationStore, ConversationView
from tale.storage.task_store import TaskStore

SIZE_OF_ROLE = {"ux": "small", "task": "larger"}
FIRST_TURNS: Final = 20  # among which the user's first message is looked for


class StatusAnswers:
    """Tells how things stand."""

    def __init__(
        self,
        tasks: TaskStore,
        conversations: ConversationStore,
        calls: CallStore,
        budgets: BudgetStore,
        pool: Pool,
        *,
        words: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        """`words` are what was told last of each task under way."""
        self._tasks = tasks
        self._conversations = conversations
        self._calls = calls
        self._budgets = budgets
        self._pool = pool
        self._words = words
        self._clock = clock

    async def answer(self, text: str, view: ConversationView) -> str:
        """The answer to a question; `view` ends before it."""
        meant = tasks_meant(text, view.tasks, first_number=view.first_number)
        topic, now = topic_of(text), self._clock()
        if topic == "last_request":
            return await self._request(text, view)
        if meant.how not in ("id", "number", "topic"):  # "the last hour" names no task
            if topic == "queue":
                return await self._queue()
            if topic == "budget":
                return await self._budget(view.conversation.id)
            if topic == "servers":
                return await self._servers()
        older = await self._older(text, meant, view)
        asked = older or _asked_about(meant, view)
        if topic == "error":
            is_named = meant.how in NAMED and (meant.how != "order" or places_a_task(text))  # not "the last error"
            are_named = bool(older or meant.tasks) and is_named
            return wording.errors(asked if are_named else view.numbered, now=now, are_named=are_named)
        done = {number: task for number, task in asked.items() if task.result and task.status.is_final}
        if topic == "result" and meant.how != "all" and done:
            number = max(done)
            return wording.ended(number, done[number])
        elsewhere = () if view.tasks else await self._tasks.list(limit=1)
        return wording.overview(asked, now=now, words=self._words, elsewhere=elsewhere)

    async def _request(self, text: str, view: ConversationView) -> str:
        """What the user asked for last or first, be it before what the view holds."""
        is_first, turns, numbered = has("first_one", text), view.turns, view.numbered
        if is_first and (has("message", text) or not view.tasks):
            turns = await self._first_turns(view) or turns
        elif is_first and view.first_number > 1:
            first = await self._conversations.task_numbered(view.conversation.id, 1)
            numbered = {1: first} if first else numbered
        if has("message", text):
            return wording.last_message(turns, first=is_first)
        return wording.last_request(turns, numbered, now=self._clock(), first=is_first)

    async def _first_turns(self, view: ConversationView) -> list[ConversationTurn]:
        """The first messages of a conversation, or since it was started afresh."""
        conversation = view.conversation
        since = conversation.summarized if conversation.summary is None else 0
        turns = await self._conversations.first_turns(conversation.id, limit=FIRST_TURNS, since=since)
        last = view.turns[-1].position if view.turns else -1  # the question itself is kept by now
        return [turn for turn in turns if turn.position <= last and not is_erased(turn.content)]

    async def _older(self, text: str, meant: Reference, view: ConversationView) -> dict[int, Task]:
        """The tasks before those of the view that a question names by number."""
        if meant.how != "number" or meant.tasks or view.first_number == 1:
            return {}
        found = {n: await self._conversations.task_numbered(view.conversation.id, n) for n in numbers_named(text)}
        return {number: task for number, task in found.items() if task}

    async def _queue(self) -> str:
        counts = await self._tasks.counts()
        queued, running = counts[TaskStatus.QUEUED], counts[TaskStatus.RUNNING]
        paused = " The queue is paused; “resume” lets tasks begin." if await self._tasks.paused_at() else ""
        return f"{_counted(running, 'task')} under way, {queued:,} waiting.{paused}"

    async def _budget(self, conversation_id: str) -> str:
        totals = await self._calls.totals(conversation_id=conversation_id)
        told = f"This conversation has read {_tokens(totals.input_tokens)} and written {_tokens(totals.output_tokens)}"
        lines = [f"{told} tokens, in {_counted(totals.calls, 'call')} of a model."]
        for standing in await self._budgets.standings(self._clock()):
            budget = budget_view(standing)
            whose = f" of {budget.name}" if budget.name else ""
            lines.append(
                f"The budget{whose} a {budget.period}: {budget.used_tokens:,} of {budget.limit_tokens:,} tokens are "
                f"used, {budget.left_tokens:,} are left."
            )
        return "\n".join(lines if len(lines) > 1 else [*lines, "No budget is set."])

    async def _servers(self) -> str:
        status = await self._pool.status()
        lines = [f"The servers are up; models run on {status.provider}."]
        return "\n".join([*lines, *(_model(model) for model in status.models)])


def _asked_about(meant: Reference, view: ConversationView) -> dict[int, Task]:
    """The tasks that a question is about: the named ones, else those under way, else the latest."""
    if meant.tasks and meant.how != "pronoun":
        named = {task.id for task in meant.tasks}
    else:
        under_way = {task.id for task in view.tasks if not task.status.is_final}
        named = under_way or {task.id for task in view.tasks[-1:]}
    return {number: task for number, task in view.numbered.items() if task.id in named}


def _model(model: ModelState) -> str:
    work = f", {model.running} at work" if model.running else ""
    waiting = f", {model.waiting} waiting" if model.waiting else ""
    error = f": {model.error}" if model.error else ""
    return f"The {SIZE_OF_ROLE[model.role]} model, {model.name}, is {model.state}{work}{waiting}{error}."


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _tokens(count: int | None) -> str:
    return "an unknown number of" if count is None else f"{count:,}"
