"""Every model call leaves one row whose parts sum to the whole, however the call ends."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tale.exceptions import DatabaseException, ModelException
from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import MeasuredCall, TokenTracker
from tale.records import CallContext, ChatRequest, EngineTimings, McpCall, ModelCall, Reply, Usage
from tale.storage.budget_store import BudgetStore
from tale.storage.budgets import parsed_budget
from tale.storage.call_store import CallStore
from tale.storage.database import Database

CONTEXT = CallContext(
    "task", "execute", 10, task_id="t", attempt=2, conversation_id="c", trace_id="f" * 32, route_reason="why"
)


class Clock:
    """A clock that is moved by hand; wall time and timer move together."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class LastCall:
    """Stands for the database where only the finished row counts."""

    may_refuse = False

    def __init__(self) -> None:
        self.row: ModelCall | None = None

    async def open_call(self, call: ModelCall) -> None:
        assert call.ended_at is None

    async def close_call(self, call: ModelCall) -> None:
        self.row = call


@pytest.fixture
async def calls(tmp_path: Path) -> AsyncIterator[CallStore]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield CallStore(database)
    await database.close()


async def begin(calls: CallStore | LastCall, clock: Clock) -> MeasuredCall:
    tracker = TokenTracker(Recorder(calls), clock=clock, timer=clock)
    call = tracker.begin(CONTEXT, model="large", provider="embedded", budget_tokens=256)
    await call.opened()
    return call


async def only_row(calls: CallStore) -> ModelCall:
    rows = await calls.calls()
    assert len(rows) == 1
    return rows[0]


async def test_the_row_is_open_while_the_call_runs(calls: CallStore) -> None:
    await begin(calls, Clock())
    row = await only_row(calls)
    assert (row.ended_at, row.total_s, row.input_tokens, row.finish_reason) == (None, None, None, None)
    assert (row.role, row.operation, row.task_id, row.attempt, row.trace_id) == ("task", "execute", "t", 2, "f" * 32)
    assert (row.requested_model, row.budget_tokens, row.provider) == ("large", 256, "embedded")


async def test_a_completed_call_has_the_engine_s_tokens_and_parts_that_sum_to_the_whole(calls: CallStore) -> None:
    clock = Clock()
    call = await begin(calls, clock)
    clock.now += 1.5
    call.dispatched("small", load_s=1.0, queue_s=0.5, route_reason="large is still being fetched")
    clock.now += 0.25
    call.first_token()
    clock.now += 0.75
    timings = EngineTimings(load_s=0.1, prefill_s=0.2, decode_s=0.6)
    await call.completed(Reply("x", "small", "stop", Usage(10, 5, 4, 1), timings))
    row = await only_row(calls)
    assert (row.model, row.requested_model, row.route_reason) == ("small", "large", "large is still being fetched")
    assert (row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens) == (10, 5, 4, 1)
    assert (row.queue_s, row.load_s, row.prefill_s, row.decode_s) == (0.5, 1.1, 0.2, 0.6)
    assert row.other_s == pytest.approx(0.1)
    assert (row.time_to_first_token_s, row.total_s, row.ended_at) == (1.75, 2.5, 1_002.5)


async def test_what_the_engine_does_not_tell_is_unknown_and_never_zero(calls: CallStore) -> None:
    clock = Clock()
    call = await begin(calls, clock)
    call.dispatched("large", load_s=0.0, queue_s=0.0, route_reason=None)
    clock.now += 1
    await call.completed(Reply("x", "large", "stop"))
    row = await only_row(calls)
    assert (row.input_tokens, row.output_tokens, row.cached_tokens) == (None, None, None)
    assert (row.prefill_s, row.decode_s, row.other_s, row.time_to_first_token_s) == (None, None, None, None)
    assert (row.queue_s, row.load_s, row.total_s) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("error", "finish", "kind", "text"),
    [
        (ModelException("It broke."), "error", "ModelException", "It broke."),
        (asyncio.CancelledError(), "cancelled", "Cancelled", None),
        (GeneratorExit(), "cancelled", "Cancelled", None),
        (TimeoutError("late"), "error", "TimeoutError", "late"),
    ],
)
async def test_a_call_that_does_not_end_well_is_counted_too(
    calls: CallStore, error: BaseException, finish: str, kind: str, text: str | None
) -> None:
    clock = Clock()
    call = await begin(calls, clock)
    clock.now += 2
    await call.failed(error)
    row = await only_row(calls)
    assert (row.finish_reason, row.error_class, row.error, row.total_s) == (finish, kind, text, 2.0)
    assert row.output_tokens is None
    assert call.is_closed


async def test_a_second_try_adds_to_the_waits_of_the_first(calls: CallStore) -> None:
    clock = Clock()
    call = await begin(calls, clock)
    call.dispatched("large", load_s=1.0, queue_s=0.25, route_reason=None)
    call.dispatched("large", load_s=2.0, queue_s=0.25, route_reason=None)
    clock.now += 4
    await call.completed(Reply("x", "large", "stop", Usage(), EngineTimings(prefill_s=0.1, decode_s=0.1)))
    row = await only_row(calls)
    assert (row.load_s, row.queue_s) == (3.0, 0.5)


seconds = st.floats(0, 100, allow_nan=False)


@given(queue=seconds, load=seconds, prefill=seconds, decode=seconds, rest=seconds)
def test_the_parts_always_sum_to_the_whole(
    queue: float, load: float, prefill: float, decode: float, rest: float
) -> None:
    async def play() -> ModelCall:
        calls, clock = LastCall(), Clock()
        call = await begin(calls, clock)
        call.dispatched("large", load_s=load, queue_s=queue, route_reason=None)
        clock.now += queue + load + prefill + decode + rest
        await call.completed(Reply("", "large", "stop", Usage(), EngineTimings(prefill_s=prefill, decode_s=decode)))
        assert calls.row is not None
        return calls.row

    row = asyncio.run(play())
    parts = [row.queue_s, row.load_s, row.prefill_s, row.decode_s, row.other_s]
    assert row.total_s is not None
    assert sum(part for part in parts if part is not None) == pytest.approx(row.total_s, abs=1e-6)
    assert row.other_s is not None
    assert row.other_s >= 0


async def test_an_mcp_call_is_recorded(calls: CallStore) -> None:
    await Recorder(calls).record_mcp(McpCall("i", 1.0, "tale-gateway", "tools/call", 0.01, "ok", tool="submit_task"))


@pytest.mark.parametrize("rounds", [0, 1, 2])
async def test_a_call_that_ends_before_its_row_is_open_leaves_no_open_row(calls: CallStore, rounds: int) -> None:
    call = TokenTracker(Recorder(calls)).begin(CONTEXT, model="large", provider="embedded", budget_tokens=256)
    for _ in range(rounds):
        await asyncio.sleep(0)
    await call.failed(asyncio.CancelledError())
    row = await only_row(calls)
    assert (row.finish_reason, row.error_class, row.ended_at is None) == ("cancelled", "Cancelled", False)


async def test_that_a_row_cannot_be_opened_is_told_as_soon_as_it_is_known(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    await database.close()
    tracker = TokenTracker(Recorder(CallStore(database)))
    call = tracker.begin(CONTEXT, model="large", provider="embedded", budget_tokens=256)
    with pytest.raises(DatabaseException, match="closed"):
        await call.opened()
    with pytest.raises(DatabaseException, match="closed"):
        call.check()


async def test_a_call_that_goes_to_another_model_holds_what_that_one_has_room_for(tmp_path: Path) -> None:
    database, clock = Database.open(f"sqlite:///{tmp_path / 'tale.db'}"), Clock()
    budgets = BudgetStore(database)
    await budgets.set(parsed_budget("b", 1_000, now=clock.now))
    tracker = TokenTracker(Recorder(CallStore(database, budgets)), clock=clock, timer=clock)
    call = tracker.begin(CONTEXT, model="small", provider="embedded", budget_tokens=900, input_tokens=50)
    for model, room_tokens in (("small", 100), ("large", 400)):
        await call.admitted(ChatRequest(model, (), max_tokens=room_tokens), None)
        (standing,) = await budgets.standings(clock.now)
        assert standing.reserved_tokens == 50 + room_tokens
    await database.close()
