"""Does some checked tasks a second time as if nothing had been learned, in quiet moments, so that savings are measured.

A shadow is no task of the user's: it has no row among the tasks, and nobody sees its answer. Its calls are recorded as
what they are, by the operation "shadow".
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final

from tale.models.pool import Pool
from tale.models.quiet import in_quiet_moments
from tale.orchestration.checking import failure_of
from tale.orchestration.task_prompt import CHECK_FAILED, request_for
from tale.records import Attempt, CallContext, ChatRequest, Priority, Reply, Task, TaskStatus
from tale.storage.prediction_store import PredictionStore
from tale.storage.task_store import TaskStore

SHADOW: Final = "shadow"  # the operation of its calls
NAIVE_TOKENS: Final = 2_048  # most that an answer has without learning, unless the user wants it shorter
QUIET_S: Final = 5.0  # between two looks at whether there is nothing else to do
LONGEST_PAUSE_S: Final = 60.0  # while it is never quiet
WATCH_S: Final = 0.25  # between two looks at whether others want the models, while a shadow is written
MOST_NOTED: Final = 100  # tasks that wait for a quiet moment


class Shadows:
    """Speculative work of the task model. It begins only when no model is at work, and gives way to any call."""

    def __init__(
        self,
        tasks: TaskStore,
        store: PredictionStore,
        pool: Pool,
        *,
        rate: float,
        max_failures: int,
        clock: Callable[[], float],
        quiet_s: float = QUIET_S,
    ) -> None:
        """`rate` is the share of checked tasks, from 0 (none) to 1; a task has as many attempts as a user's."""
        self._tasks = tasks
        self._store = store
        self._pool = pool
        self._rate = rate
        self._max_failures = max_failures
        self._clock = clock
        self._quiet_s = quiet_s
        self._noted: dict[str, None] = {}
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._call: asyncio.Task[Reply] | None = None

    async def start(self) -> None:
        """Begin to look for quiet moments, where any task is to have a shadow."""
        if self._rate > 0:
            self._worker = asyncio.create_task(
                in_quiet_moments(self._arrived, self._take_a_step, quiet_s=self._quiet_s, longest_s=LONGEST_PAUSE_S),
                name="shadows",
            )

    async def stop(self) -> None:
        """Leave the rest undone."""
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    def note(self, task: Task) -> None:
        """An attempt goes by what was learned; where the task is one of the share, it is to have a shadow."""
        if task.expect is not None and len(self._noted) < MOST_NOTED and is_sampled(task.id, self._rate):
            self._noted[task.id] = None

    def look(self) -> None:
        """A task has ended."""
        if self._noted:
            self._arrived.set()

    def give_way(self) -> None:
        """A task is begun: break off what is under way; it is done anew later."""
        if self._call:
            self._call.cancel()

    async def _take_a_step(self) -> bool:
        """Do the first noted task that has ended; False where it was not quiet, or had to give way."""
        if not await self._is_quiet(running=0):
            return False
        self._arrived.clear()  # before it is looked: a task that ends meanwhile is seen another time
        for task_id in list(self._noted):
            task = await self._tasks.get(task_id)
            if task is not None and not task.status.is_final:
                continue
            self._arrived.set()  # there may be more
            del self._noted[task_id]  # whatever comes of it: one that cannot be done is not tried for ever
            if task is not None and (succeeded := _succeeded(task)) is not None:
                done = await self._shadowed(task, succeeded=succeeded)
                if not done:
                    self._noted[task_id] = None
                return done
        return True

    async def _shadowed(self, task: Task, *, succeeded: bool) -> bool:
        """Do a task by the task model alone, and keep what that cost; False where it had to give way."""
        files = await self._tasks.attachments(task.id) if task.attached_files else ()
        results = await self._tasks.awaited_by(task.id) if task.with_results else ()
        tokens: list[int | None] = []
        earlier: list[Attempt] = []
        while len(earlier) < self._max_failures:
            request = request_for(task, max_output_tokens=NAIVE_TOKENS, earlier=earlier, files=files, results=results)
            reply = await self._written(request, task.timeout_s)
            if reply is None:
                return False
            tokens += [reply.usage.input_tokens, reply.usage.output_tokens]
            failure = await failure_of(task.expect or "{}", reply.text)
            if failure is None:
                break
            told = f"The answer failed its check: {failure}."
            earlier.append(Attempt(task.id, len(earlier) + 1, 0.0, error_class=CHECK_FAILED, error=told))
        known = [count for count in tokens if count is not None]
        total = sum(known) if len(known) == len(tokens) else None
        passed = len(earlier) < self._max_failures
        await self._store.add_shadow(
            task.id, succeeded=succeeded, naive_tokens=total, naive_succeeded=passed, now=self._clock()
        )
        return True

    async def _written(self, request: ChatRequest, limit_s: float) -> Reply | None:
        """What the task model writes; None when it had to give way. Raises TimeoutError."""
        context = CallContext("task", SHADOW, Priority.BACKGROUND)
        call = self._call = asyncio.create_task(self._pool.complete(request, context), name=SHADOW)
        try:
            async with asyncio.timeout(limit_s):
                while not call.done():
                    await asyncio.wait({call}, timeout=WATCH_S)
                    if not call.done() and not await self._is_quiet(running=1):
                        call.cancel()
                        await asyncio.wait({call})
            return None if call.cancelled() else call.result()
        finally:
            call.cancel()
            self._call = None

    async def _is_quiet(self, *, running: int) -> bool:
        """Whether the task model is loaded, and no model has other work than so many calls of ours."""
        models = (await self._pool.status()).models
        large = next((model for model in models if model.role == "task"), None)
        busy = sum(model.running + model.waiting for model in models)
        return large is not None and large.state == "ready" and busy <= running


def is_sampled(task_id: str, rate: float) -> bool:
    """Whether a task belongs to the share; the same task always does, or never.

    >>> is_sampled("a", 0.0), is_sampled("a", 1.0)
    (False, True)
    """
    number = int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:8])
    return number < rate * 2**64


def _succeeded(task: Task) -> bool | None:
    """Whether the answer passed its check in the end; None where that is not known."""
    if task.status is TaskStatus.COMPLETED:
        return True
    return False if task.status is TaskStatus.FAILED and task.error_class == CHECK_FAILED else None
