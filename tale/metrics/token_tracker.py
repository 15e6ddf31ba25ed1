"""Measures every model call: tokens as the engine counts them, times as engine and clock tell them."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from tale.exceptions import TaleBaseException
from tale.metrics.recorder import Recorder
from tale.records import CallContext, ModelCall, Reply

CANCELLED = "cancelled"


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

    async def begin(
        self, context: CallContext, *, model: str, provider: str, budget_tokens: int | None
    ) -> "MeasuredCall":
        """Open the row of a call; durable on return."""
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
        measured = MeasuredCall(call, self._recorder, began=began, clock=self._clock, timer=self._timer)
        try:
            await self._recorder.open_call(call)
        except asyncio.CancelledError as error:  # the row is written all the same
            await asyncio.shield(measured.failed(error))
            raise
        return measured


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
        self.is_closed = False

    def dispatched(self, model: str, *, load_s: float, queue_s: float, route_reason: str | None) -> None:
        """The engine starts on it now, after so long a wait for model and slot (a second try adds to the first's)."""
        self._call = replace(
            self._call,
            model=model,
            load_s=(self._call.load_s or 0.0) + load_s,
            queue_s=(self._call.queue_s or 0.0) + queue_s,
            route_reason=route_reason,
        )

    def first_token(self) -> None:
        """Text has begun to flow; the time to first token counts from the start of the call, waits included."""
        self._call = replace(self._call, time_to_first_token_s=self._timer() - self._began)

    async def completed(self, reply: Reply) -> None:
        """Record the reply's figures; durable on return."""
        usage, timings = reply.usage, reply.timings
        waits = self._call
        await self._close(
            replace(
                waits,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_tokens=usage.cached_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                queue_s=_sum(waits.queue_s, timings.queue_s),
                load_s=_sum(waits.load_s, timings.load_s),
                prefill_s=timings.prefill_s,
                decode_s=timings.decode_s,
                finish_reason=reply.finish_reason,
            )
        )

    async def failed(self, error: BaseException) -> None:
        """Record a failure or a cancellation; tokens that no engine reported stay unknown. Durable on return."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            await self._close(replace(self._call, finish_reason=CANCELLED, error_class="Cancelled"))
            return
        message = error.message if isinstance(error, TaleBaseException) else str(error)
        await self._close(replace(self._call, finish_reason="error", error_class=type(error).__name__, error=message))

    async def _close(self, call: ModelCall) -> None:
        self.is_closed = True
        total_s = self._timer() - self._began
        await self._recorder.close_call(
            replace(call, total_s=total_s, other_s=_rest(call, total_s), ended_at=self._clock())
        )


def _sum(ours: float | None, engines: float | None) -> float | None:
    return ours if engines is None else (ours or 0.0) + engines


def _rest(call: ModelCall, total_s: float) -> float | None:
    """What no part accounts for; unknown where the engine did not tell its parts."""
    parts = (call.queue_s, call.load_s, call.prefill_s, call.decode_s)
    known = [part for part in parts if part is not None]
    return max(0.0, total_s - sum(known)) if len(known) == len(parts) else None
