"""Measures every model call: tokens as the engine counts them, times as engine and clock tell them."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Final

from tale.exceptions import TaleBaseException
from tale.ids import new_call_id
from tale.metrics.hold import Count, Hold
from tale.metrics.recorder import Recorder
from tale.records import CallContext, ChatRequest, EngineTimings, ModelCall, Reply, Usage

CANCELLED = "cancelled"
ANSWER_TOKENS: Final = 2_048
TOKENS: Final = tuple(field.name for field in fields(Usage))
TIMES: Final = tuple(field.name for field in fields(EngineTimings))


class TokenTracker:
    """Opens a row when a call starts and completes it when the call ends, however it ends.

    `clock` gives Unix seconds, `timer` seconds of a clock that never goes back. Under a hard budget an answer of open
    length is limited to `answer_tokens`. `owner` names the host and home of this process in the rows.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        answer_tokens: int = ANSWER_TOKENS,
        owner: str | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._recorder = recorder
        self._answer_tokens = answer_tokens
        self._owner = owner
        self._clock = clock
        self._timer = timer

    def begin(
        self,
        context: CallContext,
        *,
        model: str,
        provider: str,
        budget_tokens: int | None,
        input_tokens: int = 0,
        has_answer: bool = True,
    ) -> "MeasuredCall":
        """Open the row of a call; where there is no budget, it is written while the engine is at work already.

        `input_tokens` are the most that the prompt can have; a call without an answer makes vectors.
        """
        began = self._timer()
        call = self._row(context, model=model, provider=provider, budget_tokens=budget_tokens)
        hold = None
        if self._recorder.may_refuse:
            hold = Hold(
                self._recorder,
                call,
                input_tokens=input_tokens,
                output_tokens=budget_tokens if has_answer else 0,
                answer_tokens=self._answer_tokens,
            )
        return MeasuredCall(call, self._recorder, hold, began=began, clock=self._clock, timer=self._timer)

    def _row(self, context: CallContext, *, model: str, provider: str, budget_tokens: int | None) -> ModelCall:
        return ModelCall(
            id=new_call_id(),
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
            owner=self._owner,
        )


class MeasuredCall:
    """One call under way."""

    def __init__(
        self,
        call: ModelCall,
        recorder: Recorder,
        hold: Hold | None,
        *,
        began: float,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        self._call = call
        self._recorder = recorder
        self._hold = hold
        self._began = began
        self._clock = clock
        self._timer = timer
        self._model = call.model
        self._route_reason = call.route_reason
        self._engine: str | None = None
        self._load_s: float | None = None
        self._queue_s: float | None = None
        self._first_token_s: float | None = None
        self._usage = Usage()
        self._is_handed_over = False
        # Not at once: what asks the engine goes first, and the disk works while the engine does.
        self._opening = asyncio.create_task(self._open(), name="open-model-call")
        self._opening.add_done_callback(_seen)
        self.is_closed = False

    def check(self) -> None:
        """Raise DatabaseException once it has turned out that the row cannot be opened."""
        if self._opening.done() and not self._opening.cancelled() and (error := self._opening.exception()):
            raise error

    async def opened(self) -> None:
        """Return when the open row is durable. Raises DatabaseException."""
        await asyncio.shield(self._opening)

    async def admitted(self, request: ChatRequest, count: Count | None) -> ChatRequest:
        """The request as the budgets allow it: before this returns, its engine is not to be asked.

        `count` tells the input tokens, where there is a way to. Raises BudgetException and DatabaseException.
        """
        if self._hold is None:
            return request
        await self.opened()
        return await self._hold.admit(request, count)

    def dispatched(
        self, model: str, *, load_s: float, queue_s: float, route_reason: str | None, engine: str | None = None
    ) -> None:
        """The engine starts on it now, after so long a wait for model and slot (a second try adds to the first's)."""
        self._model, self._route_reason, self._engine = model, route_reason, engine
        self._load_s = (self._load_s or 0.0) + load_s
        self._queue_s = (self._queue_s or 0.0) + queue_s

    def first_token(self) -> None:
        """Text has begun to flow; the time to first token counts from the start of the call, waits included."""
        self._first_token_s = self._timer() - self._began

    def reported(self, usage: Usage) -> None:
        """What the engine says it has used so far, which counts should no reply come."""
        self._usage = usage

    async def completed(self, reply: Reply) -> None:
        """Record the reply's figures; durable on return."""
        self._usage = reply.usage
        await self._close(reply.timings, finish_reason=reply.finish_reason)

    async def failed(self, error: BaseException) -> None:
        """Record a failure or a cancellation; tokens that no engine reported stay unknown. Durable on return."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            told = {"finish_reason": CANCELLED, "error_class": "Cancelled"}
        else:
            message = error.message if isinstance(error, TaleBaseException) else str(error)
            told = {"finish_reason": "error", "error_class": type(error).__name__, "error": message}
        await self._close(EngineTimings(), **told)

    async def _open(self) -> None:
        if self._hold is not None:
            return await self._hold.open()
        opening = self._recorder.open_call(self._call)
        self._is_handed_over = True
        await opening

    async def _close(self, timings: EngineTimings, **told: Any) -> None:
        self.is_closed = True
        total_s = self._timer() - self._began
        row = replace(
            self._call,
            model=self._model,
            route_reason=self._route_reason,
            engine=self._engine,
            **{name: getattr(self._usage, name) for name in TOKENS},
            **self._parts(timings, total_s),
            time_to_first_token_s=self._first_token_s,
            total_s=total_s,
            ended_at=self._clock(),
            **told,
        )
        closing = self._recorder.close_call(row)
        if self._is_handed_over or self._opening.done():
            await closing
        else:
            # A task of its own begins after the one that opens the row, which may not have begun yet; cancelling the
            # caller must not keep it from beginning.
            await asyncio.shield(asyncio.create_task(closing, name="close-model-call"))

    def _parts(self, timings: EngineTimings, total_s: float) -> dict[str, float | None]:
        """What the time went into; unknown where the engine did not tell, and never more than the whole.

        Where an engine's clock claims more than the call took, what it tells is shortened in proportion.
        """
        room_s = max(0.0, total_s - (self._queue_s or 0.0) - (self._load_s or 0.0))
        claims = {name: claim for name in TIMES if (claim := getattr(timings, name)) is not None}
        claimed_s = sum(claims.values())
        if claimed_s > room_s:
            claims = {name: claim * (room_s / claimed_s) for name, claim in claims.items()}
        parts = {
            "queue_s": _sum(self._queue_s, claims.get("queue_s")),
            "load_s": _sum(self._load_s, claims.get("load_s")),
            "prefill_s": claims.get("prefill_s"),
            "decode_s": claims.get("decode_s"),
        }
        known = [part for part in parts.values() if part is not None]
        rest_s = max(0.0, total_s - sum(known)) if len(known) == len(parts) else None
        return {**parts, "other_s": rest_s}


def _seen(opening: asyncio.Task[None]) -> None:
    """An opening that failed is told by `check`, or by the closing that fails likewise."""
    if not opening.cancelled():
        opening.exception()


def _sum(ours: float | None, engines: float | None) -> float | None:
    return ours if engines is None else (ours or 0.0) + engines
