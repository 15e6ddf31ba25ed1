"""The pool keeps the small model loaded, the large one on demand, and falls back to the one that works."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.scripted_backend import ScriptedBackend

from tale.exceptions import ModelException, NetworkException, ValidationException
from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.models.model_pool import ModelPool
from tale.models.pool import ModelState
from tale.records import (
    CallContext,
    ChatRequest,
    Delta,
    Dispatched,
    Message,
    ModelCall,
    Priority,
    Reply,
    Role,
    Usage,
    Vectors,
)
from tale.storage.call_store import CallStore
from tale.storage.database import Database

REQUEST = ChatRequest("", (Message("user", "Hi"),), max_tokens=50)
CHAT = CallContext("ux", "chat", Priority.CHAT, conversation_id="c")
TASK = CallContext("task", "execute", Priority.TASK, task_id="t", attempt=1)


class Bench:
    """A started pool on a scripted backend, its calls in a real database."""

    def __init__(self, backend: ScriptedBackend, calls: CallStore, **settings: Any) -> None:
        self.backend, self.calls = backend, calls
        chosen: dict[str, Any] = {
            "ux_model": "small",
            "task_model": "large",
            "memory_limit_bytes": 10_000,
            "routing": "auto",
            "monitor_interval_s": 60.0,
            **settings,
        }
        self.pool = ModelPool(backend, tracker=TokenTracker(Recorder(calls)), provider_reason="It is a test.", **chosen)

    async def state(self, role: str) -> ModelState:
        return next(model for model in (await self.pool.status()).models if model.role == role)

    async def until(self, role: str, *states: str) -> ModelState:
        while (state := await self.state(role)).state not in states:
            await asyncio.sleep(0)
        return state

    async def rows(self) -> list[ModelCall]:
        return await self.calls.calls()


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    benches: list[Bench] = []

    async def make(backend: ScriptedBackend | None = None, **settings: Any) -> Bench:
        bench = Bench(backend or ScriptedBackend(), CallStore(database), **settings)
        benches.append(bench)
        await bench.pool.start()
        return bench

    yield make
    for bench in benches:
        await bench.pool.close()
        assert bench.backend.closed
    await database.close()


async def test_the_small_model_is_loaded_at_the_start_and_the_large_one_on_demand(start: Start) -> None:
    bench = await start()
    ready = await bench.until("ux", "ready")
    assert (ready.name, ready.memory_bytes, ready.size_bytes, ready.licence) == ("small", 100, 100, "MIT")
    assert (await bench.state("task")).state == "unloaded"
    await bench.pool.complete(REQUEST, TASK)
    assert (await bench.state("task")).state == "ready"
    assert bench.backend.loads == ["small", "large"]


async def test_a_call_waits_for_its_model_and_tells_when_the_engine_starts(start: Start) -> None:
    backend = ScriptedBackend()
    gate = backend.load_gates["small"] = asyncio.Event()
    bench = await start(backend)
    events = bench.pool.chat(REQUEST, CHAT)
    first = asyncio.ensure_future(anext(events))
    await bench.until("ux", "loading")
    assert not first.done()
    gate.set()
    assert await first == Dispatched("small", "ux", None)
    assert [event async for event in events][:2] == [Delta("Hello"), Delta(" world")]


async def test_streamed_and_complete_leave_the_same_row(start: Start) -> None:
    bench = await start()
    await bench.until("ux", "ready")
    reply = await bench.pool.complete(REQUEST, CHAT)
    streamed = [event async for event in bench.pool.chat(REQUEST, CHAT)][-1]
    assert reply == streamed
    one, other = await bench.rows()
    for name in ("input_tokens", "output_tokens", "cached_tokens", "finish_reason", "model", "role", "conversation_id"):
        assert getattr(one, name) == getattr(other, name)
    assert (one.input_tokens, one.output_tokens, one.cached_tokens) == (10, 2, 4)


async def test_the_row_is_complete_before_the_reply_is_handed_on(start: Start) -> None:
    bench = await start()
    async for event in bench.pool.chat(REQUEST, CHAT):
        rows = await bench.rows()
        assert [row.ended_at is not None for row in rows] in ([[True]] if isinstance(event, Reply) else [[], [False]])


async def test_missing_files_are_fetched_small_one_first(start: Start) -> None:
    backend = ScriptedBackend(present=())
    small, large = backend.pull_gates.setdefault("small", asyncio.Event()), asyncio.Event()
    backend.pull_gates["large"] = large
    bench = await start(backend)
    fetching = await bench.until("ux", "downloading")
    assert (fetching.done_bytes, fetching.total_bytes, fetching.source) == (40, 100, "a script")
    assert backend.pulls == ["small"]
    small.set()
    await bench.until("task", "downloading")
    large.set()
    await bench.until("task", "downloaded")
    assert backend.loads == ["small"]


async def test_the_small_model_takes_a_task_while_the_large_one_is_being_fetched(start: Start) -> None:
    backend = ScriptedBackend(present=("small",))
    gate = backend.pull_gates["large"] = asyncio.Event()
    bench = await start(backend)
    await bench.pool.complete(REQUEST, TASK)
    row = (await bench.rows())[0]
    assert (row.requested_model, row.model) == ("large", "small")
    assert row.route_reason == "large is still being fetched"
    gate.set()
    await bench.until("task", "downloaded", "ready")
    assert (await bench.pool.complete(REQUEST, TASK)).model == "large"


async def test_with_routing_off_a_task_waits_for_its_own_model(start: Start) -> None:
    backend = ScriptedBackend(present=("small",))
    gate = backend.pull_gates["large"] = asyncio.Event()
    bench = await start(backend, routing="off")
    await bench.until("ux", "ready")
    waiting = asyncio.create_task(bench.pool.complete(REQUEST, TASK))
    await bench.until("task", "downloading")
    gate.set()
    assert (await waiting).model == "large"


@pytest.mark.parametrize(("broken", "works", "context"), [("large", "small", TASK), ("small", "large", CHAT)])
async def test_the_model_that_works_stands_in_and_the_other_comes_back(
    start: Start, broken: str, works: str, context: CallContext
) -> None:
    backend = ScriptedBackend()
    backend.load_failures[broken] = [ModelException("It does not fit in memory.")]
    bench = await start(backend, monitor_interval_s=0.001)
    reply = await bench.pool.complete(REQUEST, context)
    assert reply.model == works
    row = (await bench.rows())[0]
    assert "does not fit in memory" in str(row.route_reason)
    failed = await bench.state(context.role)
    assert (failed.state, failed.error) == ("failed", "It does not fit in memory.")


async def test_a_failed_model_is_tried_again_after_a_while(start: Start) -> None:
    backend = ScriptedBackend()
    backend.load_failures["small"] = [ModelException("Not yet.")]
    bench = await start(backend, monitor_interval_s=0.001, first_retry_s=0.0)
    await bench.until("ux", "ready")
    assert backend.loads == ["small", "small"]


async def test_when_no_model_works_the_call_fails_with_the_reason(start: Start) -> None:
    backend = ScriptedBackend()
    for name in ("small", "large"):
        backend.load_failures[name] = [ModelException(f"{name} is broken.")]
    bench = await start(backend)
    with pytest.raises(ModelException, match="large is broken"):
        await bench.pool.complete(REQUEST, TASK)
    row = (await bench.rows())[0]
    assert (row.finish_reason, row.error_class, row.error) == ("error", "ModelException", "large is broken.")


async def test_an_engine_found_dead_is_loaded_again_and_the_call_made_once_more(start: Start) -> None:
    bench = await start()
    await bench.until("ux", "ready")
    bench.backend.dead.add("small")
    assert (await bench.pool.complete(REQUEST, CHAT)).text == "Hello world"
    assert bench.backend.loads == ["small", "small"]
    assert len(await bench.rows()) == 1


async def test_an_engine_that_dies_while_writing_fails_the_call(start: Start) -> None:
    bench = await start()
    await bench.until("ux", "ready")
    bench.backend.break_after_first_word = True
    with pytest.raises(NetworkException, match="broke off"):
        await bench.pool.complete(REQUEST, CHAT)
    row = (await bench.rows())[0]
    assert (row.error_class, row.output_tokens) == ("NetworkException", None)
    assert row.time_to_first_token_s is not None


async def test_an_engine_s_refusal_is_passed_on_without_a_second_try(start: Start) -> None:
    bench = await start()
    bench.backend.chat_failures = [ModelException("Bad request.")]
    with pytest.raises(ModelException, match="Bad request"):
        await bench.pool.complete(REQUEST, CHAT)
    assert len(bench.backend.requests) == 1


async def test_a_model_that_stops_answering_while_idle_is_loaded_anew(start: Start) -> None:
    bench = await start(monitor_interval_s=0.001)
    await bench.until("ux", "ready")
    bench.backend.dead.add("small")
    while len(bench.backend.loads) < 2:
        await asyncio.sleep(0)
    await bench.until("ux", "ready")


async def test_a_cancelled_call_stops_the_engine_frees_its_slot_and_is_recorded(start: Start) -> None:
    bench = await start()
    await bench.until("ux", "ready")
    bench.backend.word_gate = asyncio.Event()
    call = asyncio.create_task(bench.pool.complete(REQUEST, CHAT))
    await bench.backend.started.wait()
    assert (await bench.state("ux")).running == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    row = (await bench.rows())[0]
    assert (row.finish_reason, row.error_class, row.output_tokens) == ("cancelled", "Cancelled", None)
    assert (bench.backend.stopped, (await bench.state("ux")).running) == (1, 0)


async def test_closing_a_stream_early_is_recorded_as_cancelled(start: Start) -> None:
    bench = await start()
    stream = bench.pool.chat(REQUEST, CHAT)
    while not isinstance(await anext(stream), Delta):
        pass
    await stream.aclose()
    assert (await bench.rows())[0].finish_reason == "cancelled"


async def test_chat_does_not_wait_behind_tasks_on_the_same_model(start: Start) -> None:
    bench = await start(ux_model="small", task_model="small")
    await bench.until("ux", "ready")
    assert len((await bench.pool.status()).models) == 1
    gate = bench.backend.word_gate = asyncio.Event()
    tasks = [asyncio.create_task(bench.pool.complete(REQUEST, TASK)) for _ in range(3)]
    await bench.backend.started.wait()
    stream = bench.pool.chat(REQUEST, CHAT)
    assert isinstance(await anext(stream), Dispatched)
    state = await bench.state("ux")
    assert (state.running, state.waiting) == (2, 2)
    await stream.aclose()
    gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(("slots", "open_to_all"), [(None, 1), ({"ux": 4}, 3)])
async def test_the_small_model_keeps_a_slot_for_the_conversation(
    start: Start, slots: dict[Role, int] | None, open_to_all: int
) -> None:
    bench = await start(slots=slots)
    await bench.until("ux", "ready")
    gate = bench.backend.word_gate = asyncio.Event()
    title = CallContext("ux", "title", Priority.BACKGROUND, conversation_id="c")
    others = [title, replace(title, operation="summarize"), replace(TASK, role="ux")] * 2
    waiting = [asyncio.create_task(bench.pool.complete(REQUEST, context)) for context in others]
    while (state := await bench.state("ux")).running + state.waiting < len(others):
        await asyncio.sleep(0)
    assert state.running == open_to_all
    stream = bench.pool.chat(REQUEST, CHAT)
    assert isinstance(await anext(stream), Dispatched)
    assert (await bench.state("ux")).running == open_to_all + 1
    await stream.aclose()
    gate.set()
    await asyncio.gather(*waiting)


async def test_two_models_that_do_not_fit_the_limit_together_leave_the_first_alone(start: Start) -> None:
    bench = await start(memory_limit_bytes=150)
    await bench.until("ux", "ready")
    assert (await bench.pool.complete(REQUEST, TASK)).model == "small"
    assert "memory_limit_bytes" in str((await bench.state("task")).error)


async def test_an_answer_is_capped_to_what_the_context_holds(start: Start) -> None:
    backend = ScriptedBackend(context_tokens=100)
    backend.tokens = 60
    bench = await start(backend)
    await bench.pool.complete(ChatRequest("", (Message("user", "x" * 80),), max_tokens=50), CHAT)
    assert backend.requests[-1].max_tokens == 40
    await bench.pool.complete(ChatRequest("", (Message("user", "x"),), max_tokens=50), CHAT)
    assert backend.requests[-1].max_tokens == 50


async def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(start: Start) -> None:
    backend = ScriptedBackend(context_tokens=100)
    backend.tokens = 90
    bench = await start(backend)
    with pytest.raises(ValidationException, match="90 tokens") as caught:
        await bench.pool.complete(ChatRequest("", (Message("user", "x" * 99),)), CHAT)
    assert caught.value.context == {"input_tokens": 90, "context_tokens": 100}


async def test_an_engine_that_cannot_count_is_trusted_with_the_prompt(start: Start) -> None:
    bench = await start(ScriptedBackend(context_tokens=10))
    assert (await bench.pool.complete(REQUEST, CHAT)).text == "Hello world"


async def test_what_surely_does_not_fit_is_refused_though_the_engine_cannot_count(start: Start) -> None:
    bench = await start(ScriptedBackend(context_tokens=1_000))
    with pytest.raises(ValidationException, match="at least about 1,666 tokens"):
        await bench.pool.complete(ChatRequest("", (Message("user", "word " * 2_000),)), CHAT)
    assert bench.backend.requests == []
    padded = ChatRequest("", (Message("user", f"word {' ' * 20_000} {'-' * 20_000}"),))  # of which tokens hold many
    assert (await bench.pool.complete(padded, CHAT)).text == "Hello world"


async def test_a_model_is_asked_for_by_name_or_refused(start: Start) -> None:
    bench = await start()
    by_name = ChatRequest("large", REQUEST.messages)
    assert (await bench.pool.complete(by_name, CHAT)).model == "large"
    with pytest.raises(ModelException, match="it holds small, large"):
        await bench.pool.complete(ChatRequest("other", REQUEST.messages), CHAT)


async def test_embeddings_are_measured_too(start: Start) -> None:
    bench = await start()
    assert await bench.pool.embed("", ["a", "b"], CHAT) == Vectors([[1.0], [1.0]], Usage(input_tokens=2))
    bench.backend.chat_failures = [ModelException("No embeddings here.")]
    with pytest.raises(ModelException):
        await bench.pool.embed("", ["a"], CHAT)
    assert [row.finish_reason for row in await bench.rows()] == ["error", "stop"]


async def test_tokens_are_counted_by_whichever_model_is_loaded(start: Start) -> None:
    backend = ScriptedBackend()
    backend.tokens = 7
    gate = backend.load_gates["small"] = asyncio.Event()
    bench = await start(backend)
    await bench.until("ux", "loading")
    assert await bench.pool.count_tokens(REQUEST, TASK) is None
    gate.set()
    await bench.until("ux", "ready")
    assert await bench.pool.count_tokens(REQUEST, TASK) == 7
