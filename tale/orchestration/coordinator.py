"""Takes tasks in, has them executed over HTTP, tells how they go, and stops them: the gateway's core."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from tale.exceptions import DatabaseException, NetworkException, TaleBaseException, TaskException, ValidationException
from tale.models.pool import Pool
from tale.orchestration.deadlines import DeadlineWatch
from tale.orchestration.dependents import touched_by
from tale.orchestration.engines.attempt import SHORTEST_PAUSE_S
from tale.orchestration.engines.embedded_engine import EmbeddedEngine
from tale.orchestration.engines.engine import EndedTask, TaskEngine
from tale.orchestration.intake import Intake, Submission
from tale.orchestration.plan_keys import is_plan, open_steps
from tale.orchestration.task_events import PAUSED, QUEUED, TaskEvent, TaskEvents
from tale.records import ACKNOWLEDGE, CallContext, ChatRequest, Message, NewTask, Priority, Task, TaskStatus
from tale.settings import Settings
from tale.storage.dependencies import DEPENDENCY_FAILED
from tale.storage.task_store import TaskStore

LONGEST_SLEEP_S: Final = 60.0  # after which deadlines are looked for that came in at other gateways
ACKNOWLEDGEMENT_TOKENS: Final = 24
ACKNOWLEDGE_AFTER_S: Final = 1.0  # of waiting in which the model that does the task has written nothing
ACKNOWLEDGEMENT: Final = (
    "The user has handed in a task that another model now carries out. Do not do the task. "
    "Say in one short sentence, starting with a verb ending in -ing, what is being worked on."
)

UNTAKEN: Final = "No execution server has taken it yet; `tale servers start --roles execution` starts one if none runs"

FINAL: Final = frozenset(status.value for status in TaskStatus if status.is_final)

T = TypeVar("T")

logger = logging.getLogger(__name__)


class ExecutionClient(Protocol):
    """What the coordinator needs of the MCP client that talks to the execution server."""

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        on_progress: Callable[[float, float | None, str | None], None] | None = None,
        timeout_s: float | None = None,
        idempotent: bool = False,
    ) -> dict[str, Any]:
        """Call one tool and return its structured result."""
        ...


class HTTPCoordinator:
    """gateway → coordinator → execution server → result. The task's row is the truth at every step.

    An `engine` that is given belongs to several gateways: there are tasks that were handed in elsewhere.
    """

    def __init__(
        self,
        settings: Settings,
        store: TaskStore,
        *,
        execution: ExecutionClient,
        pool: Pool,
        clock: Callable[[], float],
        engine: TaskEngine | None = None,
        events: TaskEvents | None = None,
        acknowledge_after_s: float = ACKNOWLEDGE_AFTER_S,
    ) -> None:
        self._settings = settings
        self._store = store
        self._execution = execution
        self._pool = pool
        self._clock = clock
        self._intake = Intake(settings, pool, clock=clock)
        self.events = events or TaskEvents()
        self.engine: TaskEngine = engine or EmbeddedEngine(
            store,
            self._run,
            slots=settings.task_slots,
            queue_limit=settings.queue_limit,
            retry_delay_s=settings.retry_delay_s,
            on_end=self._attempt_ended,
        )
        self._acknowledge_after_s = acknowledge_after_s
        self._acknowledged: dict[str, asyncio.Task[None]] = {}
        self._steps: set[asyncio.Task[Any]] = set()
        self._is_one_of_several = engine is not None
        self._deadlines = DeadlineWatch(
            store,
            clock=clock,
            on_late=self._ended_in_the_queue,
            end_lost=self._end_lost,
            longest_sleep_s=LONGEST_SLEEP_S if self._is_one_of_several else None,
        )
        self._awaited: set[str] = set()  # with an engine of its own: tasks for which others wait
        self.events.watch(self._let_go)

    async def start(self) -> None:
        """Take up unfinished tasks and begin handing out, unless the queue is paused."""
        if await self._store.paused_at() is not None:
            await self.engine.pause()
        if not self._is_one_of_several:
            self._awaited = await self._store.awaited()
        await self.engine.start()
        await self._deadlines.start()

    async def stop(self, grace_s: float) -> None:
        """Hand out nothing more and let go of what does not end within `grace_s` seconds."""
        await self._deadlines.stop()
        await self.engine.stop(grace_s)
        if self._steps:
            await asyncio.wait(self._steps, timeout=grace_s)
        for task in list(self._acknowledged.values()):
            task.cancel()
        await asyncio.gather(*self._acknowledged.values(), return_exceptions=True)

    async def submit(self, submission: Submission) -> Task:
        """Check and store a task; durable on return. Raises ValidationException, or TaskException when full."""
        (stored,) = await self.submit_all([submission])
        return stored

    async def submit_all(self, submissions: Sequence[Submission]) -> list[Task]:
        """The same for several tasks: all of them are taken, or none."""
        try:
            new = await self._intake.accept(submissions)
        except ValidationException as error:
            logger.info("A task was refused: %s", error.message)
            raise
        return await self._carried_out(self._hand_in(new))

    async def _hand_in(self, new: Sequence[NewTask]) -> list[Task]:
        named = {task_id for each in new for task_id in each.after}
        if not self._is_one_of_several:
            self._awaited |= named
        for each in new:  # before the engine has them, which may tell more at once
            self._tell(each.task.id, TaskStatus.QUEUED, "Waiting for other tasks" if each.after else QUEUED)
        try:
            stored = await self.engine.submit_all(new)
        except TaleBaseException:
            for each in new:
                self.events.forget(each.task.id)
            raise
        for task, each in zip(stored, new, strict=True):
            if task.id != each.task.id:
                self.events.forget(each.task.id)
                if each.task.id in named:
                    self._take_over(each.task.id, task)
            elif task.status.is_final:
                self._tell_how_it_ended(task)
            else:
                self._deadlines.note(task.deadline_at)
        return stored

    def _take_over(self, named: str, task: Task) -> None:
        """Whoever was to wait for `named` waits for the task that was stored first with its key."""
        if not self._is_one_of_several:
            self._awaited.discard(named)
            self._awaited.add(task.id)
        self._take_step(self._tell_dependents(task.id))  # it may have ended already

    async def pause(self) -> None:
        """Begin no attempts, after a restart either, until `resume`; those under way go on."""
        await self._store.pause(self._clock())
        await self.engine.pause()
        self.events.tell_pause(True)

    async def resume(self) -> None:
        """Begin attempts again."""
        await self._store.resume()
        self.events.tell_pause(False)
        await self.engine.resume()

    async def wait(
        self, task_id: str, *, timeout_s: float, on_event: Callable[[TaskEvent], Awaitable[None]] | None = None
    ) -> Task:
        """Follow a task until it is final, or for `timeout_s` seconds; returns it as it then stands."""
        with self.events.listen(task_id) as events:  # first listen, then look: so that the end is not missed
            task = await self.get(task_id)
            if task.status.is_final:
                return task
            if not await self._is_held_by_pause(task):
                self._acknowledge(task)
            try:
                async with asyncio.timeout(timeout_s):
                    async for event in events:
                        if on_event:
                            await on_event(event)
            except TimeoutError:
                logger.debug("A wait for task %s ended before it did.", task_id)
        task = await self.get(task_id)
        if task.status.is_final:
            self._forget(task_id)
        return task

    async def _is_held_by_pause(self, task: Task) -> bool:
        """Whether the task waits in a paused queue; that is told, as nothing else would be for long."""
        if task.status is not TaskStatus.QUEUED or task.open_dependencies or await self._store.paused_at() is None:
            return False
        task = await self.get(task.id)
        if task.status is not TaskStatus.QUEUED:  # it was begun just before the pause
            return False
        self._tell(task.id, task.status, PAUSED)
        return True

    async def cancel(self, task_id: str) -> Task:
        """Stop a task, of a plan all its steps; returns it as it then stands.

        That is final unless the execution server is out of reach.
        """
        return await self._carried_out(self._cancel(task_id))

    async def _cancel(self, task_id: str) -> Task:
        task = await self._store.request_cancel(task_id, self._clock())
        if task is None:
            raise _unknown(task_id)
        if task.status is TaskStatus.RUNNING:
            task = await self._stopped(task)
        if task.status.is_final:
            self._ended_in_the_queue(task)
        if is_plan(task):
            for step in open_steps(task, await self._store.awaited_by(task_id)):
                await self._cancel(step.id)
        return task

    async def _stopped(self, task: Task) -> Task:
        """The task to be cancelled: stopped by its runner, or settled here where that has no such attempt."""
        try:
            await self._execution.call_tool("stop_task", {"task_id": task.id}, idempotent=True)
        except NetworkException as error:
            logger.warning("Task %s will be cancelled when its runner answers again: %s", task.id, error)
            return await self.get(task.id)
        task = await self.get(task.id)
        if task.status is not TaskStatus.RUNNING or self._is_one_of_several:
            return task
        return await self._settled(task)  # the one runner there is has no such attempt

    async def _end_lost(self, now: float) -> None:
        for task in await self.engine.lost(now):
            settled = await self._settled(task)
            if settled.status.is_final:
                logger.info("Task %s had lost its runner, and is %s.", task.id, settled.status.value)
                self._ended_in_the_queue(settled)

    async def _settled(self, task: Task) -> Task:
        """A task that lost its runner, and is late or to be cancelled: to claim it ends it, and begins no attempt."""
        limit = self._settings.max_task_retries
        await self._store.claim(task.id, expected_attempt=task.attempt, now=self._clock(), max_failures=limit)
        return await self.get(task.id)

    async def change_priority(self, task_id: str, priority: int) -> Task:
        """Have a task that waits go before or behind others; returns it. Raises TaskException for one that does not."""
        return await self._carried_out(self._move(task_id, priority))

    async def _move(self, task_id: str, priority: int) -> Task:
        task = await self._store.change_priority(task_id, priority)
        if task is None:
            stands = (await self.get(task_id)).status.value
            raise TaskException(f"The task is {stands}; only one that waits in the queue can change its place.")
        self.engine.move(task)
        return task

    async def get(self, task_id: str) -> Task:
        """The task's row; raises TaskException for an unknown id."""
        task = await self._store.get(task_id)
        if task is None:
            raise _unknown(task_id)
        return task

    async def _run(self, task_id: str, attempt: int) -> Task | EndedTask | None:
        def on_progress(progress: float, total: float | None, message: str | None) -> None:
            self._tell(task_id, TaskStatus.RUNNING, message or "Running", int(progress) or None)

        arguments = {"task_id": task_id, "attempt": attempt}
        answer = await self._execution.call_tool("execute_task", arguments, on_progress=on_progress)
        if (status := answer.get("status")) in FINAL:
            return EndedTask(task_id, TaskStatus(status))
        return await self._store.get(task_id)

    def _attempt_ended(self, task: Task | EndedTask) -> None:
        if isinstance(task, EndedTask) or task.status.is_final:
            self._tell_how_it_ended(task)
            return
        self._deadlines.note(task.deadline_at)
        if task.attempt == 0:
            self._tell(task.id, task.status, UNTAKEN)
        elif task.error:
            self._tell(task.id, task.status, f"Attempt {task.attempt} failed; it will be tried again: {task.error}")
        else:
            self._tell(task.id, task.status, "The attempt was cut short; the task will be taken up again")

    def _tell_how_it_ended(self, task: Task | EndedTask) -> None:
        self._tell_end(task)
        if self._is_one_of_several or task.id in self._awaited:
            self._awaited.discard(task.id)
            self._take_step(self._tell_dependents(task.id))

    def _tell_end(self, task: Task | EndedTask) -> None:
        self._forget(task.id)
        self._tell(task.id, task.status, f"Task {task.status.value}")

    async def _tell_dependents(self, task_id: str) -> None:
        """Hand out the tasks that waited for this one alone; tell of those that ended with it."""
        async for task in touched_by(task_id, self._read_dependents):
            if task.status is TaskStatus.QUEUED and not task.open_dependencies:
                self._tell(task.id, task.status, QUEUED)
                self.engine.hand_out(task)
            elif task.error_class == DEPENDENCY_FAILED:
                self._awaited.discard(task.id)
                self.engine.withdraw(task.id)
                self._tell_end(task)

    async def _read_dependents(self, task_id: str) -> list[Task]:
        while True:
            try:
                return await self._store.dependents(task_id)
            except DatabaseException as error:
                logger.error("The tasks that wait for %s cannot be read: %s", task_id, error)
                await asyncio.sleep(max(self._settings.retry_delay_s, SHORTEST_PAUSE_S))

    def _ended_in_the_queue(self, task: Task) -> None:
        self.engine.withdraw(task.id)
        self._tell_how_it_ended(task)

    def _forget(self, task_id: str) -> None:
        self.events.forget(task_id)
        self._end_acknowledgement(task_id)

    def _let_go(self, event: TaskEvent) -> None:
        """Keep nothing of a task that ended, here or elsewhere: nobody may be waiting for it any more."""
        if event.status.is_final:
            self._end_acknowledgement(event.task_id)

    def _end_acknowledgement(self, task_id: str) -> None:
        if acknowledgement := self._acknowledged.pop(task_id, None):
            acknowledgement.cancel()

    async def _carried_out(self, step: Coroutine[Any, Any, T]) -> T:
        """Take a step to its end even when the caller goes away meanwhile: a row must not change with nobody told."""
        return await asyncio.shield(self._take_step(step))

    def _take_step(self, step: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        return task

    def _tell(self, task_id: str, status: TaskStatus, message: str, output_tokens: int | None = None) -> None:
        self.events.publish(TaskEvent(task_id, status, message, output_tokens))

    def _acknowledge(self, task: Task) -> None:
        """Have the small model say what is being worked on, once a task; in a conversation that was said already."""
        if task.id in self._acknowledged or task.conversation_id or not self._settings.acknowledge:
            return
        self._acknowledged[task.id] = asyncio.create_task(self._say_what_is_done(task))

    async def _say_what_is_done(self, task: Task) -> None:
        await asyncio.sleep(self._acknowledge_after_s)
        if not self.events.has_listeners(task.id) or self.events.is_being_written(task.id):
            return  # the words of the answer itself say more, and cost nothing besides
        request = ChatRequest(
            model="",
            messages=(Message("system", ACKNOWLEDGEMENT), Message("user", task.text[:500])),
            max_tokens=ACKNOWLEDGEMENT_TOKENS,
            temperature=0.0,
        )
        context = CallContext(
            "ux",
            ACKNOWLEDGE,
            Priority.BACKGROUND,
            task_id=task.id,
            trace_id=task.trace_id,
            key_name=task.key_name,
        )
        try:
            ready = {model.role for model in (await self._pool.status()).models if model.state == "ready"}
            if not {"ux", "task"} <= ready:
                return  # the small model is still loading, or busy with the task itself
            reply = await self._pool.complete(request, context)
        except TaleBaseException as error:
            logger.info("No acknowledgement for task %s: %s", task.id, error)
            return
        sentence = reply.text.strip().split("\n")[0]
        if sentence and self.events.has_listeners(task.id):
            self._tell(task.id, TaskStatus.RUNNING, sentence)


def _unknown(task_id: str) -> TaskException:
    return TaskException("No such task; `tale list` shows those there are.", {"task_id": task_id})
