"""A real engine's calls are accounted for as the played ones are: its own figures, whatever the caller does."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest
from fakes.ledger import TOKENS, Outcome, check_times
from fakes.servers import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.models.download import ModelFiles
from tale.models.embedded_backend import EmbeddedBackend
from tale.models.model_pool import ModelPool
from tale.records import CallContext, ChatRequest, Delta, Message, ModelCall, Priority, Reply, Usage
from tale.storage.call_store import CallStore
from tale.storage.database import Database

pytestmark = pytest.mark.model

MODEL = "smollm2:135m"
CONTEXT = CallContext("ux", "chat", Priority.CHAT)
MOST_TOKENS = 12
EXAMPLES = 10  # each of them keeps a real model busy


@dataclass(frozen=True)
class Caller:
    """What the caller does, at the moment when so many events have come, and how long an answer it asks for."""

    act: Literal["finishes", "closes", "cancels"]
    after: int
    max_tokens: int


callers = st.builds(
    Caller,
    act=st.sampled_from(("finishes", "closes", "cancels")),
    after=st.integers(1, MOST_TOKENS + 4),
    max_tokens=st.integers(1, 2 * MOST_TOKENS),
)


def request(max_tokens: int = MOST_TOKENS) -> ChatRequest:
    messages = (Message("user", "Count from one to fifty."),)
    return ChatRequest("", messages, max_tokens=max_tokens, temperature=0.0, seed=1)


@pytest.fixture
async def calls(tmp_path: Path) -> AsyncIterator[CallStore]:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    yield CallStore(database)
    await database.close()


@pytest.fixture
async def pool(model_folder: Path, tmp_path: Path, calls: CallStore) -> AsyncIterator[ModelPool]:
    files = ModelFiles(model_folder, hub_url="http://127.0.0.1:9")
    backend = EmbeddedBackend(files, log=tmp_path / "engine.log", timeout_s=60.0, slots={MODEL: 2})
    made = ModelPool(
        backend,
        ux_model=MODEL,
        task_model=MODEL,
        tracker=TokenTracker(Recorder(calls)),
        memory_limit_bytes=10**10,
        routing="off",
        monitor_interval_s=3_600.0,
        provider_reason="It is a test.",
    )
    await made.start()
    yield made
    await made.close()


@pytest.fixture
def names() -> Iterator[str]:
    """Of each call another one, by which its row is found."""
    return (f"call {number}" for number in itertools.count())


async def closed_rows(calls: CallStore, count: int, task_id: str | None = None) -> list[ModelCall]:
    async def are_closed() -> bool:
        rows = await calls.calls(task_id=task_id)
        return len(rows) == count and all(row.ended_at is not None for row in rows)

    await until(are_closed)
    rows = await calls.calls(task_id=task_id)
    for row in rows:
        check_times(row)
    return rows[::-1]


def tokens_of(row: ModelCall) -> Usage:
    return Usage(*(getattr(row, name) for name in TOKENS))


async def test_a_real_engine_s_calls_are_accounted_for(pool: ModelPool, calls: CallStore) -> None:
    whole = await pool.complete(request(), CONTEXT)
    events = [event async for event in pool.chat(request(), CONTEXT)]
    both = await asyncio.gather(*(pool.complete(request(), CONTEXT) for _ in range(2)))
    streamed = events[-1]
    assert isinstance(streamed, Reply)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == streamed.text == whole.text

    rows = await closed_rows(calls, 4)
    replies = [whole, streamed]
    for row, reply in zip(rows[:2], replies, strict=True):
        assert tokens_of(row) == reply.usage
        assert (row.finish_reason, row.error_class, row.output_tokens) == (reply.finish_reason, None, MOST_TOKENS)
        assert row.input_tokens is not None
        assert row.cached_tokens is not None
        assert row.cached_tokens <= row.input_tokens
        assert None not in (row.prefill_s, row.decode_s, row.other_s, row.time_to_first_token_s)
    assert rows[0].input_tokens == rows[1].input_tokens
    assert sorted(row.output_tokens or 0 for row in rows[2:]) == [reply.usage.output_tokens for reply in both]


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(caller=callers)
async def test_whatever_the_caller_does_and_when_a_real_engine_s_call_is_accounted_for(
    pool: ModelPool, calls: CallStore, names: Iterator[str], caller: Caller
) -> None:
    name = next(names)
    outcome = await played(pool, caller, name)
    (row,) = await closed_rows(calls, 1, name)
    if caller.act == "finishes":
        assert outcome.reply is not None
    if outcome.delivered:
        assert row.time_to_first_token_s is not None
    if row.error_class is None:
        assert row.finish_reason == "stop" or (row.finish_reason, row.output_tokens) == ("length", caller.max_tokens)
        assert row.error is None
        assert row.output_tokens is not None
        assert 1 <= row.output_tokens <= caller.max_tokens
        assert None not in (row.input_tokens, row.prefill_s, row.decode_s, row.other_s)
    else:
        assert (row.finish_reason, row.error_class, row.error) == ("cancelled", "Cancelled", None)
        assert outcome.reply is None
        assert tokens_of(row) == Usage()  # llama.cpp tells them at the end only
    if outcome.reply is not None:
        assert tokens_of(row) == outcome.reply.usage
        assert "".join(outcome.delivered) == outcome.reply.text


async def played(pool: ModelPool, caller: Caller, name: str) -> Outcome:
    """What the caller saw when it had finished, or left at its moment."""
    outcome, moment = Outcome(), asyncio.Event()
    stream = pool.chat(request(caller.max_tokens), replace(CONTEXT, task_id=name))

    async def read() -> None:
        try:
            number = 0
            async for event in stream:
                number += 1
                if isinstance(event, Delta):
                    outcome.delivered.append(event.text)
                if isinstance(event, Reply):
                    outcome.reply = event
                if number == caller.after:
                    moment.set()
                    if caller.act == "closes":
                        return
        finally:
            moment.set()
            await stream.aclose()

    reading = asyncio.create_task(read())
    if caller.act == "cancels":
        await moment.wait()
        reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    return outcome


@pytest.mark.parametrize("act", ["closes", "cancels"])
async def test_a_real_engine_that_is_left_is_accounted_for(pool: ModelPool, calls: CallStore, act: str) -> None:
    stream = pool.chat(request(400), CONTEXT)
    text_came = asyncio.Event()

    async def read() -> None:
        async for event in stream:
            if isinstance(event, Delta):
                text_came.set()
                if act == "closes":
                    break
        await stream.aclose()

    reading = asyncio.create_task(read())
    await text_came.wait()
    if act == "cancels":
        reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    (row,) = await closed_rows(calls, 1)
    assert (row.finish_reason, row.error_class, row.error) == ("cancelled", "Cancelled", None)
    assert tokens_of(row) == Usage()  # llama.cpp tells them at the end only
    assert row.time_to_first_token_s is not None
