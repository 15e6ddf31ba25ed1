"""The task engine of one machine: a priority heap in the gateway, the task rows in its database, no polling."""

import asyncio
import heapq
import random
from collections.abc import Callable, Sequence
from typing import Final

from tale.exceptions import NetworkException
from tale.orchestration.engines.attempt import delay_before_next_s, outcome_of, refused_as_full
from tale.orchestration.engines.engine import EndedTask, HandOut
from tale.records import NewTask, Task, TaskStatus
from tale.storage.task_store import TaskStore
from tale.traces import within_trace

FIRST_HOLD_S: Final = 0.5  # after a runner that was out of reach; it doubles with each further one


class EmbeddedEngine:
    """Hands tasks to `run`, at most `slots` at a time, more urgent first, then in order of submission.

    `retry_delay_s` is the base wait before an attempt that failed, or whose runner was lost, is made again. A runner
    that is out of reach holds up all tasks, for that time at most, in the order in which they stand.
    """

    def __init__(
        self,
        store: TaskStore,
        run: HandOut,
        *,
        slots: int,
        queue_limit: int,
        retry_delay_s: float,
        on_end: Callable[[Task | EndedTask], None],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._run = run
        self._slots = asyncio.Semaphore(slots)
        self._queue_limit = queue_limit
        self._retry_delay_s = retry_delay_s
        self._on_end = on_end
        self._draw = draw
        self._heap: list[tuple[int, float, str, int, str | None]] = []
        self._waiting: set[str] = set()  # of the heap, those to be handed out; the others were withdrawn
        self._blocked: set[str] = set()  # wait for other tasks
        self._moved: dict[str, int] = {}  # priorities given to tasks that come to the heap later, with an older row
        self._arrival = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._in_reach = asyncio.Event()
        self._in_reach.set()
        self._hold_s = FIRST_HOLD_S
        self._inserting = 0
        self._attempts: dict[str, asyncio.Task[None]] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._dispatcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the unfinished tasks once and begin handing out; tasks that were running are taken up again."""
        for task in await self._store.open_tasks():
            self._push(task)
        self._dispatcher = asyncio.create_task(self._dispatch(), name="task-dispatcher")

    async def submit(self, task: Task) -> Task:
        """Store and queue a task; durable on return."""
        (stored,) = await self.submit_all([NewTask(task)])
        return stored

    async def submit_all(self, new: Sequence[NewTask]) -> list[Task]:
        """Store and queue all of these, or none; durable on return."""
        waiting = self.waiting() + self._inserting
        is_full = waiting + len(new) > self._queue_limit
        if is_full and not await self._store.has_keys([each.task.idempotency_key for each in new]):
            raise refused_as_full(waiting, self._retry_delay_s)
        self._inserting += len(new)
        # Before they are stored: what they wait for may end, and have them handed out, before this goes on.
        self._blocked.update(each.task.id for each in new if each.after)
        stored: list[Task] = []
        try:
            stored = await self._store.insert_all(new)
        finally:
            self._inserting -= len(new)
            kept = {task.id for task in stored if task.open_dependencies and not task.status.is_final}
            self._blocked.difference_update({each.task.id for each in new} - kept)
        for task, each in zip(stored, new, strict=True):
            if task.id == each.task.id and not task.status.is_final and not task.open_dependencies:
                self._push(task)
        return stored

    def hand_out(self, task: Task) -> None:
        """Queue a stored task that waited for others and waits no more."""
        self._push(task)

    def move(self, task: Task) -> None:
        """Have a waiting task go by the priority that its row has now."""
        if task.id not in self._waiting:
            self._moved[task.id] = task.priority
            return
        self._heap = [(-task.priority if each[2] == task.id else each[0], *each[1:]) for each in self._heap]
        heapq.heapify(self._heap)

    async def pause(self) -> None:
        """Begin no attempts until `resume`."""
        self._open.clear()

    async def resume(self) -> None:
        """Begin attempts again."""
        self._open.set()

    def withdraw(self, task_id: str) -> None:
        """Forget a task that was cancelled while it waited."""
        self._waiting.discard(task_id)
        self._blocked.discard(task_id)
        self._moved.pop(task_id, None)
        if handle := self._retries.pop(task_id, None):
            handle.cancel()

    async def lost(self, now: float) -> list[Task]:
        """Tasks that run by their rows, are late or to be cancelled, and have lost their runner."""
        return [task for task in await self._store.overdue(now) if task.id not in self._attempts]

    def waiting(self) -> int:
        """Tasks that wait for a slot, for their next attempt or for other tasks."""
        return len(self._waiting) + len(self._retries) + len(self._blocked)

    def running(self) -> int:
        """Attempts that were handed out and have not come back."""
        return len(self._attempts)

    async def stop(self, grace_s: float) -> None:
        """Hand out nothing more; give running attempts `grace_s` seconds, then let go of them."""
        for handle in self._retries.values():
            handle.cancel()
        self._retries.clear()
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            await asyncio.gather(self._dispatcher, return_exceptions=True)
        if not self._attempts:
            return
        _, late = await asyncio.wait(self._attempts.values(), timeout=grace_s)
        for attempt in late:
            attempt.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _push(self, task: Task) -> None:
        """Have a task wait for a slot, once: the scan at the start may meet one that is being submitted."""
        self._retries.pop(task.id, None)
        if task.id in self._waiting or task.id in self._attempts:
            return
        if task.open_dependencies:
            self._blocked.add(task.id)
            return
        self._blocked.discard(task.id)
        self._waiting.add(task.id)
        priority = self._moved.pop(task.id, task.priority)
        heapq.heappush(self._heap, (-priority, task.created_at, task.id, task.attempt, task.trace_id))
        self._arrival.set()

    async def _dispatch(self) -> None:
        while True:
            await self._slots.acquire()
            task_id, attempt, trace_id = await self._next()
            with within_trace(trace_id):
                running = asyncio.create_task(self._attempt(task_id, attempt), name=f"task-{task_id}")
            self._attempts[task_id] = running
            running.add_done_callback(lambda _: self._slots.release())

    async def _next(self) -> tuple[str, int, str | None]:
        while True:
            await self._in_reach.wait()
            await self._open.wait()
            if not self._heap:
                self._arrival.clear()
                await self._arrival.wait()
                continue
            _, _, task_id, attempt, trace_id = heapq.heappop(self._heap)
            if task_id in self._waiting:
                self._waiting.remove(task_id)
                return task_id, attempt, trace_id

    async def _attempt(self, task_id: str, attempt: int) -> None:
        was_reached = True

        async def run(task_id: str, attempt: int) -> Task | EndedTask | None:
            nonlocal was_reached
            try:
                return await self._run(task_id, attempt)
            except NetworkException:
                was_reached = False
                raise

        try:
            task = await outcome_of(run, self._store, task_id, attempt, pause_s=self._retry_delay_s)
        finally:
            del self._attempts[task_id]
        if was_reached:
            self._hold_s = FIRST_HOLD_S
        if task is None or isinstance(task, EndedTask) or task.status.is_final:
            self._moved.pop(task_id, None)  # given before the attempt began
        elif not was_reached and task.status is TaskStatus.QUEUED and task.attempt == attempt:
            self._push(task)
            self._hold()
        else:
            self._push_later(task)
        if task is not None:
            self._on_end(task)

    def _hold(self) -> None:
        """Hand out nothing for a while: no other task would be begun either."""
        if not self._in_reach.is_set():
            return
        self._in_reach.clear()
        asyncio.get_running_loop().call_later(min(self._hold_s, self._retry_delay_s), self._in_reach.set)
        self._hold_s *= 2

    def _push_later(self, task: Task) -> None:
        delay_s = delay_before_next_s(task, self._retry_delay_s, draw=self._draw())
        self._retries[task.id] = asyncio.get_running_loop().call_later(delay_s, self._push, task)
