"""A real engine's calls are accounted for as the played ones are: its own figures, whatever the caller does."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.ledger import TOKENS, check_times
from fakes.servers import until

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


async def closed_rows(calls: CallStore, count: int) -> list[ModelCall]:
    async def are_closed() -> bool:
        rows = await calls.calls()
        return len(rows) == count and all(row.ended_at is not None for row in rows)

    await until(are_closed)
    rows = await calls.calls()
    for row in rows:
        check_times(row)
    return rows[::-1]


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
        assert Usage(*(getattr(row, name) for name in TOKENS)) == reply.usage
        assert (row.finish_reason, row.error_class, row.output_tokens) == (reply.finish_reason, None, MOST_TOKENS)
        assert row.input_tokens is not None
        assert row.cached_tokens is not None
        assert row.cached_tokens <= row.input_tokens
        assert None not in (row.prefill_s, row.decode_s, row.other_s, row.time_to_first_token_s)
    assert rows[0].input_tokens == rows[1].input_tokens
    assert sorted(row.output_tokens or 0 for row in rows[2:]) == [reply.usage.output_tokens for reply in both]


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
    assert [getattr(row, name) for name in TOKENS] == [None] * len(TOKENS)  # llama.cpp tells them at the end only
    assert row.time_to_first_token_s is not None
