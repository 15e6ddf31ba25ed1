"""Answers to questions about one's own work: from the rows and the state of the models, never from a model's words."""

from collections.abc import Callable, Mapping

from tale.conversation import wording
from tale.conversation.phrases import has
from tale.conversation.questions import topic_of
from tale.conversation.references import Reference, tasks_meant
from tale.models.pool import ModelState, Pool
from tale.records import Task, TaskStatus
from tale.storage.budget_store import BudgetStore
from tale.storage.budget_views import budget_view
from tale.storage.call_store import CallStore
from tale.storage.conversation_store import ConversationView
from tale.storage.task_store import TaskStore

SIZE_OF_ROLE = {"ux": "small", "task": "larger"}


class StatusAnswers:
    """Tells how things stand."""

    def __init__(
        self,
        tasks: TaskStore,
        calls: CallStore,
        budgets: BudgetStore,
        pool: Pool,
        *,
        words: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        """`words` are what was told last of each task under way."""
        self._tasks = tasks
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
            first = has("first_one", text)
            if has("message", text):
                return wording.last_message(view.turns, first=first)
            return wording.last_request(view.turns, view.numbered, now=now, first=first)
        if meant.how not in ("id", "number", "topic"):  # "the last hour" names no task
            if topic == "queue":
                return await self._queue()
            if topic == "budget":
                return await self._budget(view.conversation.id)
            if topic == "servers":
                return await self._servers()
        asked = _asked_about(meant, view)
        if topic == "error":
            return wording.errors(asked, now=now)
        if topic == "result" and meant.how != "all" and (done := {n: task for n, task in asked.items() if task.result}):
            number = max(done)
            return wording.ended(number, done[number])
        elsewhere = () if view.tasks else await self._tasks.list(limit=1)
        return wording.overview(asked, now=now, words=self._words, elsewhere=elsewhere)

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
