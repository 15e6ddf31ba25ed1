"""What a call holds of the budgets before its engine is asked, so that no limit is overshot."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from tale.exceptions import BudgetException
from tale.metrics.recorder import Recorder
from tale.records import ChatRequest, ModelCall

MIN_ANSWER_TOKENS: Final = 32  # of an answer whose length the caller left open

Count = Callable[[ChatRequest], Awaitable[int | None]]


class Hold:
    """Holds a call's upper bound: the input as its bytes allow it, and the longest answer.

    Where that is refused, the input is counted, and an answer of open length (`output_tokens` None) shortened to what
    is left. A call of open length under a hard budget is limited to `answer_tokens`.
    """

    def __init__(
        self,
        recorder: Recorder,
        call: ModelCall,
        *,
        input_tokens: int,
        output_tokens: int | None,
        answer_tokens: int,
    ) -> None:
        self._recorder = recorder
        self._call = call
        self._input_tokens = input_tokens
        self._output_tokens = answer_tokens if output_tokens is None else output_tokens
        self._is_open = output_tokens is None
        self._is_held = False
        self._refusal: BudgetException | None = None

    async def open(self) -> None:
        """Write the call's row, and hold its bound if there is so much left. Raises DatabaseException."""
        try:
            tokens = self._input_tokens + self._output_tokens
            self._is_held = await self._recorder.hold_call(self._call, most_tokens=tokens)
            self._refusal = None
        except BudgetException as error:
            self._refusal = error

    async def admit(self, request: ChatRequest, count: Count | None) -> ChatRequest:
        """The request as the budgets allow it, once it is open and holds its bound.

        Its model may be another than before, and its answer limited already to the room in that model's context.
        Raises BudgetException, and whatever `count` raises.
        """
        output_tokens = self._output_tokens
        if not self._is_open and request.max_tokens is not None:
            output_tokens = request.max_tokens
        if (request.model, output_tokens) != (self._call.model, self._output_tokens):
            self._call, self._output_tokens = replace(self._call, model=request.model), output_tokens
            await self.open()
        if self._refusal is not None and count is not None:
            await self._fit(request, count, self._refusal)
        if self._refusal is not None:
            raise self._refusal
        if self._is_held and self._is_open:
            return replace(request, max_tokens=min(request.max_tokens or self._output_tokens, self._output_tokens))
        return request

    async def _fit(self, request: ChatRequest, count: Count, refusal: BudgetException) -> None:
        """Try again with the exact input, and with the answer that fits, if that is less."""
        input_tokens = await count(request)
        if input_tokens is None:
            input_tokens = self._input_tokens
        output_tokens, left = self._output_tokens, refusal.context["left_tokens"]
        if self._is_open and isinstance(left, int):
            output_tokens = min(output_tokens, left - input_tokens)
            if output_tokens < MIN_ANSWER_TOKENS:
                return
        if input_tokens + output_tokens < self._input_tokens + self._output_tokens:
            self._input_tokens, self._output_tokens = input_tokens, output_tokens
            await self.open()
