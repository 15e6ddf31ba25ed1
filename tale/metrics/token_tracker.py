"""Measures every model call: tokens as the engine counts them, times as engine and clock tell them."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tale.exceptions import TaleBaseException
from tale.metrics.recorder import Recorder
from tale.records import CallContext, ModelCall, Reply

CANCELLED = "cancelled"
PARTS = ("queue_s", "load_s", "prefill_s", "decode_s")


class TokenTracker:
    """Opens a row when a call starts and completes it when the call ends, however it ends.

    `clock` gives Unix seconds, `timer` seconds of a clock that never goes back.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._recorder = recorder
        self._clock = clock
        self._timer = timer

    def begin(self, context: CallContext, *, model: str, provider: str, budget_tokens: int | None) -> "MeasuredCall":
        """Open the row of a call; it is written while the engine is at work already."""
        began = self._timer()
        call = ModelCall(
            id=str(uuid.uuid4()),
            started_at=self._clock(),
            role=context.role,
            operation=context.operation,
            model=model,
            requested_model=model,
            provider=provider,
            priority=context.priority,
            task_id=context.task_id,
            attempt=context.attempt,
            conversation_id=context.conversation_id,
            trace_id=context.trace_id,
            route_reason=context.route_reason,
            budget_tokens=budget_tokens,
            key_name=context.key_name,
        )
        return MeasuredCall(call, self._recorder, began=began, clock=self._clock, timer=self._timer)


class MeasuredCall:
    """One call under way."""

    def __init__(
        self,
        call: ModelCall,
        recorder: Recorder,
        *,
        began: float,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        self._call = call
        self._recorder = recorder
        self._began = began
        self._clock = clock
        self._timer = timer
        self._model = call.model
        self._route_reason = call.route_reason
        self._load_s: float | None = None
        self._queue_s: float | None = None
        self._first_token_s: float | None = None
        self._opening = asyncio.create_task(recorder.open_call(call), name="open-model-call")
        self._opening.add_done_callback(_seen)
        self.is_closed = False

    def check(self) -> None:
        """Raise DatabaseException once it has turned out that the row cannot be opened."""
        if self._opening.done() and not self._opening.cancelled() and (error := self._opening.exception()):
            raise error

    async def opened(self) -> None:
        """Return when the open row is durable. Raises DatabaseException."""
        await asyncio.shield(self._opening)

    def dispatched(self, model: str, *, load_s: float, queue_s: float, route_reason: str | None) -> None:
        """The engine starts on it now, after so long a wait for model and slot (a second try adds to the first's)."""
        self._model, self._route_reason = model, route_reason
        self._load_s = (self._load_s or 0.0) + load_s
        self._queue_s = (self._queue_s or 0.0) + queue_s

    def first_token(self) -> None:
        """Text has begun to flow; the time to first token counts from the start of the call, waits included."""
        self._first_token_s = self._timer() - self._began

    async def completed(self, reply: Reply) -> None:
        """Record the reply's figures; durable on return."""
        usage, timings = reply.usage, reply.timings
        await self._close(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            queue_s=_sum(self._queue_s, timings.queue_s),
            load_s=_sum(self._load_s, timings.load_s),
            prefill_s=timings.prefill_s,
            decode_s=timings.decode_s,
            finish_reason=reply.finish_reason,
        )

    async def failed(self, error: BaseException) -> None:
        """Record a failure or a cancellation; tokens that no engine reported stay unknown. Durable on return."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            told = {"finish_reason": CANCELLED, "error_class": "Cancelled"}
        else:
            message = error.message if isinstance(error, TaleBaseException) else str(error)
            told = {"finish_reason": "error", "error_class": type(error).__name__, "error": message}
        await self._close(queue_s=self._queue_s, load_s=self._load_s, **told)

    async def _close(self, **told: Any) -> None:
        self.is_closed = True
        total_s = self._timer() - self._began
        row = replace(
            self._call,
            model=self._model,
            route_reason=self._route_reason,
            time_to_first_token_s=self._first_token_s,
            total_s=total_s,
            other_s=_rest(told, total_s),
            ended_at=self._clock(),
            **told,
        )
        closing = self._recorder.close_call(row)
        # A task of its own begins after the one that opens the row, which may not have begun yet.
        await (closing if self._opening.done() else asyncio.create_task(closing, name="close-model-call"))


def _seen(opening: asyncio.Task[None]) -> None:
    """An opening that failed is told by `check`, or by the closing that fails likewise."""
    if not opening.cancelled():
        opening.exception()


def _sum(ours: float | None, engines: float | None) -> float | None:
    return ours if engines is None else (ours or 0.0) + engines


def _rest(told: Mapping[str, Any], total_s: float) -> float | None:
    """What no part accounts for; unknown where the engine did not tell its parts."""
    known = [part for name in PARTS if (part := told.get(name)) is not None]
    return max(0.0, total_s - sum(known)) if len(known) == len(PARTS) else None
