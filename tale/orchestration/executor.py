"""Runs one task: claims its row, has a model write the answer, and settles the row, whatever happens."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal

from tale.exceptions import BudgetException, ModelException, TaleBaseException, TaskException, ValidationException
from tale.models.backend import ChatStream
from tale.models.pool import Pool
from tale.orchestration.attempt_plan import Plan, Seam, continuation, joined, planned, question_of
from tale.orchestration.checking import failure_of
from tale.orchestration.model_outage import once_in_reach
from tale.orchestration.partial_text import FIRST_S, kept_as_it_grows
from tale.orchestration.predicting import TaskPredictor
from tale.orchestration.task_prompt import CHECK_FAILED, request_for
from tale.predictions import Outcome, Prediction
from tale.records import Attempt, ChatRequest, Delta, Dispatched, PromptProgress, Reply, Task, TaskStatus
from tale.storage.task_store import TaskStore

BROKE_OFF: Final = "The attempt broke off by an error inside tale; the server's log has the details."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt has come: one line for people, and the output tokens so far (None before the first)."""

    message: str
    output_tokens: int | None = None


class DeadlinePassed(TaskException):
    """The task's deadline came while it ran."""


Listener = Callable[[Progress], None]
OnText = Callable[[str, int, str], None]
"""Is told what a model writes: (task id, number of the attempt, the next piece of its text)."""


@dataclass(slots=True)
class _Job:
    """One attempt in this process, from before its claim until its row is settled, and those who wait for it."""

    runner: asyncio.Task[Task | None] = field(init=False)
    listeners: list[Listener] = field(default_factory=list[Listener])
    waiters: int = 0
    latest: Progress | None = None
    text: list[str] = field(default_factory=list[str])
    dispatched: Dispatched | None = None
    ending: bool = False
    seam: Seam | None = None  # where an answer that was cut goes on
    outcome: Outcome | None = None  # set while something is expected of the attempt

    def tell(self, progress: Progress) -> None:
        self.latest = progress
        for listener in self.listeners:
            listener(progress)

    def known(self) -> dict[str, Any]:
        """What there is to keep of the attempt, however it ends."""
        told = self.dispatched
        return {
            "truth": self.outcome,
            "result": "".join(self.text) or None,
            "model": told.model if told else None,
            "role": told.role if told else None,
            "route_reason": told.route_reason if told else None,
        }


class TaskExecutor:
    """Makes attempts at tasks. Claims and ends are fenced by the attempt number, so that none is ended twice."""

    def __init__(
        self,
        store: TaskStore,
        pool: Pool,
        *,
        max_output_tokens: int,
        max_failures: int,
        clock: Callable[[], float],
        on_text: OnText | None = None,
        keep_text_s: float = FIRST_S,
        predictor: TaskPredictor | None = None,
        routing: Literal["auto", "off"] = "off",
    ) -> None:
        """`keep_text_s` is how often, at first, an unfinished text is kept in the task's row.

        Without a predictor, or one that knows nothing, tasks go to the task model, with no limit but theirs.
        """
        self._store = store
        self._keep_text_s = keep_text_s
        self._pool = pool
        self._on_text = on_text
        self._max_output_tokens = max_output_tokens
        self._max_failures = max_failures
        self._clock = clock
        self._predictor = predictor
        self._routing: Literal["auto", "off"] = routing
        self._jobs: dict[str, _Job] = {}

    @property
    def running(self) -> int:
        """Attempts under way in this process."""
        return len(self._jobs)

    async def execute(self, task_id: str, *, attempt: int | None = None, listener: Listener | None = None) -> Task:
        """Make one attempt and return the task as its row then stands.

        `attempt` is the number last seen by the caller, which may then take over a task whose runner died; without
        it only a queued task is claimed. A task that runs here already is joined. When the last caller goes away the
        attempt is stopped and handed back. Raises TaskException for an unknown id.
        """
        job = self._jobs.get(task_id)
        if job is not None:
            return await self._join(job, task_id, listener, is_first=False)
        job = self._jobs[task_id] = _Job()
        job.runner = asyncio.create_task(self._run(job, task_id, attempt), name=f"attempt-{task_id}")
        job.runner.add_done_callback(lambda _: self._jobs.pop(task_id))
        return await self._join(job, task_id, listener, is_first=True)

    async def stop_task(self, task_id: str) -> Task | None:
        """End the attempt at this task, if one runs here, and return the task as it then stands."""
        if job := self._jobs.get(task_id):
            await self._end(job)
        return await self._store.get(task_id)

    async def stop(self) -> None:
        """End all attempts; they are handed back to the queue."""
        await asyncio.gather(*(self._end(job) for job in list(self._jobs.values())))

    async def _read(self, task_id: str) -> Task:
        task = await self._store.get(task_id)
        if task is None:
            raise TaskException("No such task; `tale list` shows those there are.", {"task_id": task_id})
        return task

    async def _join(self, job: _Job, task_id: str, listener: Listener | None, *, is_first: bool) -> Task:
        if listener:
            job.listeners.append(listener)
            if job.latest:
                listener(job.latest)
        job.waiters += 1
        try:
            if not is_first and (await self._read(task_id)).cancel_requested_at is not None:
                await self._end(job)  # the call that was to stop it did not get here
            await asyncio.wait([job.runner])
        except asyncio.CancelledError:
            if job.waiters == 1:
                await self._end(job)
            raise
        finally:
            job.waiters -= 1
            if listener:
                job.listeners.remove(listener)
        settled = None if job.runner.cancelled() else job.runner.result()
        return settled or await self._read(task_id)

    async def _end(self, job: _Job) -> None:
        if not job.ending:  # a second cancel would interrupt the settling of the row
            job.ending = True
            job.runner.cancel()
        await asyncio.wait([job.runner])

    async def _run(self, job: _Job, task_id: str, attempt: int | None) -> Task | None:
        """Claim the task, make the attempt, settle its row; returns None when there was nothing to run."""
        claim = asyncio.create_task(
            self._store.claim(task_id, expected_attempt=attempt, now=self._clock(), max_failures=self._max_failures)
        )
        is_stopped = False
        try:
            await asyncio.wait([claim])
        except asyncio.CancelledError:
            is_stopped = True  # the claim is carried out all the same: what it took has to be given back
        task = await claim
        if task is None:
            return None
        settled = await (self._settle_stopped(job, task) if is_stopped else self._attempt(job, task))
        return settled or await self._store.get(task_id)

    async def _attempt(self, job: _Job, task: Task) -> Task | None:
        """Make the attempt and settle the task; returns its row then, None when another attempt or end came first."""
        try:
            job.tell(Progress("Waiting for a model"))
            reply = await self._generate(job, task)
            return await self._settle(job, task, reply)
        except asyncio.CancelledError:
            return await self._settle_stopped(job, task)
        except (ValidationException, BudgetException, TimeoutError, DeadlinePassed) as error:
            return await self._finish(job, task, TaskStatus.FAILED, **_described(error, task))
        except TaleBaseException as error:
            logger.warning("Task %s, attempt %d failed: %s", task.id, task.attempt, error)
            return await self._release(job, task, "failed", **_described(error, task))
        except Exception as error:  # the edge of an attempt: an error of ours must not leave the task running for ever
            logger.exception("Task %s, attempt %d broke off.", task.id, task.attempt)
            return await self._release(job, task, "failed", error_class=type(error).__name__, error=BROKE_OFF)

    async def _generate(self, job: _Job, task: Task) -> Reply:
        earlier = await self._store.attempts(task.id) if task.expect and task.failures else []
        request = request_for(
            task,
            max_output_tokens=self._max_output_tokens,
            earlier=earlier,
            files=await self._store.attachments(task.id) if task.attached_files else (),
            results=await self._store.awaited_by(task.id) if task.with_results else (),
        )
        plan = planned(task, request, await self._expected(job, task, request, earlier), earlier=earlier)
        left_s = None if task.deadline_at is None else max(0.0, task.deadline_at - self._clock())
        deadline = asyncio.timeout(left_s)
        try:
            keep = partial(self._store.keep_text, task.id, task.attempt)
            async with deadline, kept_as_it_grows(job.text, keep, first_s=self._keep_text_s):
                return await self._written(job, task, plan)
        except TimeoutError as error:
            if deadline.expired():
                raise DeadlinePassed("The deadline passed while the task ran; give it more with --deadline.") from error
            raise

    async def _expected(
        self, job: _Job, task: Task, request: ChatRequest, earlier: Sequence[Attempt]
    ) -> Prediction | None:
        if self._predictor is None:
            return None
        question = question_of(task, request, earlier=earlier, routing=self._routing)
        prediction = await self._predictor.expected(task, question)
        job.outcome = None if prediction is None else Outcome()
        return prediction

    async def _written(self, job: _Job, task: Task, plan: Plan) -> Reply:
        """The whole answer, gone on with once where a learned limit was too small for it."""
        # The limit is on the model's work: it starts when the engine does, not while a model is being fetched.
        async with asyncio.timeout(None) as limit:
            reply = await self._answered(job, task, plan, limit)
            following = continuation(plan, reply)
            if following is None:
                return reply
            logger.info("Task %s: its learned limit of %d tokens was too small.", task.id, plan.request.max_tokens)
            job.outcome, job.seam = Outcome(was_cut=True), Seam(reply.text)
            try:
                rest = await self._answered(job, task, replace(plan, request=following), limit)
            except ValidationException:
                return reply  # the context is full
            self._write(job, task, job.seam.end())
            return joined(reply, rest, "".join(job.text))

    async def _answered(self, job: _Job, task: Task, plan: Plan, limit: asyncio.Timeout) -> Reply:
        def told() -> ChatStream:
            return self._pool.chat(plan.request, plan.context)

        stream = once_in_reach(told, on_wait=lambda told: job.tell(Progress(told)))
        try:
            async for event in stream:
                if limit.when() is None:
                    limit.reschedule(asyncio.get_running_loop().time() + task.timeout_s)
                if isinstance(event, Reply):
                    return event
                self._note(job, task, event)
        finally:
            await stream.aclose()
        raise ModelException("The model's answer broke off before its end; try again.", {"task_id": task.id})

    async def _settle(self, job: _Job, task: Task, reply: Reply) -> Task | None:
        """The answer ends the task, unless it fails a check: then it is a failed attempt like any other."""
        failure = None
        if task.expect:
            job.tell(Progress("Checking the answer", len(job.text)))
            failure = await failure_of(task.expect, reply.text)
        if job.outcome:
            succeeded = failure is None if task.expect else None
            told = {"output_tokens": reply.usage.output_tokens, "finish_reason": reply.finish_reason}
            job.outcome = replace(job.outcome, **told, succeeded=succeeded)
        kept: dict[str, str | None] = {"result": reply.text or None, "finish_reason": reply.finish_reason}
        if failure is None:
            return await self._finish(job, task, TaskStatus.COMPLETED, **kept)
        check = failure.partition(":")[0]  # what follows may quote the answer
        logger.warning("Task %s, attempt %d failed its check: %s", task.id, task.attempt, check)
        error = f"The answer failed its check: {failure}."
        return await self._release(job, task, "failed", result=kept["result"], error_class=CHECK_FAILED, error=error)

    def _note(self, job: _Job, task: Task, event: Dispatched | PromptProgress | Delta) -> None:
        match event:
            case Dispatched(model=model):
                job.dispatched = event
                job.tell(Progress(f"{model} is reading the task"))
            case PromptProgress(processed_tokens=done, total_tokens=total):
                job.tell(Progress(f"{self._model_of(job)} is reading the task ({done} of {total} tokens)"))
            case Delta(text=text):
                self._write(job, task, job.seam.pass_on(text) if job.seam else text)

    def _write(self, job: _Job, task: Task, text: str) -> None:
        job.text.append(text)
        written = len(job.text)  # engines send one token a piece; the exact count comes with the reply
        job.tell(Progress(f"{self._model_of(job)} is writing", written))
        if self._on_text and text:
            self._on_text(task.id, task.attempt, text)

    def _model_of(self, job: _Job) -> str:
        return job.dispatched.model if job.dispatched else "the model"

    async def _settle_stopped(self, job: _Job, task: Task) -> Task | None:
        """A stop is the user's when the row says so, else the process is ending and the task goes back."""
        current = await self._store.get(task.id)
        if current is None or current.status.is_final:
            return current  # it was done just before it could be stopped
        if current.cancel_requested_at is not None:
            return await self._finish(job, task, TaskStatus.CANCELLED)
        return await self._release(job, task, "handed_back")

    async def _finish(self, job: _Job, task: Task, status: TaskStatus, **ending: str | None) -> Task | None:
        known: dict[str, Any] = {**job.known(), **ending}
        ended = await self._store.finish(task.id, task.attempt, status=status, now=self._clock(), **known)
        if ended is None:
            self._fenced_off(task)
        elif self._predictor:
            self._predictor.settled()
        return ended

    async def _release(
        self, job: _Job, task: Task, outcome: Literal["failed", "handed_back"], **ending: str | None
    ) -> Task | None:
        known: dict[str, Any] = {**job.known(), **ending}
        released = await self._store.release(
            task.id, task.attempt, outcome=outcome, now=self._clock(), max_failures=self._max_failures, **known
        )
        if released is None:
            self._fenced_off(task)
        return released

    def _fenced_off(self, task: Task) -> None:
        logger.warning("Task %s: attempt %d ended late and was fenced off.", task.id, task.attempt)


def _described(error: TaleBaseException | TimeoutError, task: Task) -> dict[str, str]:
    if isinstance(error, TaleBaseException):
        return {"error_class": type(error).__name__, "error": error.message}
    return {
        "error_class": "TimeoutError",
        "error": f"The task ran longer than its limit of {task.timeout_s} s; give it more with --timeout.",
    }
