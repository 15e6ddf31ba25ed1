"""A conversation's next turn finds what the model has read of it before, whatever else that model did in between."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tale.conversation.context import CHAT_INSTRUCTIONS, SUMMARY_INSTRUCTIONS
from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.models.download import ModelFiles
from tale.models.embedded_backend import EmbeddedBackend
from tale.models.model_pool import UX_SLOTS, ModelPool
from tale.records import CallContext, ChatRequest, Message, Priority
from tale.storage.call_store import CallStore
from tale.storage.database import Database

MODEL = "smollm2:135m"
CHAT = CallContext("ux", "chat", Priority.CHAT)
BACKGROUND = replace(CHAT, operation="summarize", priority=Priority.BACKGROUND)


@pytest.fixture
async def pool(model_folder: Path, tmp_path: Path) -> AsyncIterator[ModelPool]:
    """A real model in the slots that it has by default."""
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    files = ModelFiles(model_folder, hub_url="http://127.0.0.1:9")
    made = ModelPool(
        EmbeddedBackend(files, log=tmp_path / "engine.log", timeout_s=60.0, slots={MODEL: UX_SLOTS}),
        ux_model=MODEL,
        task_model=MODEL,
        tracker=TokenTracker(Recorder(CallStore(database))),
        memory_limit_bytes=10**10,
        routing="off",
        monitor_interval_s=3_600.0,
        provider_reason="It is a test.",
    )
    await made.start()
    yield made
    await made.close()
    await database.close()


def request(*messages: Message) -> ChatRequest:
    return ChatRequest("", messages, max_tokens=12, temperature=0.0, seed=1)


@pytest.mark.model
async def test_after_background_work_a_chat_finds_the_turn_before_in_the_cache(pool: ModelPool) -> None:
    talk = [Message("system", CHAT_INSTRUCTIONS), Message("user", "What is rain?")]
    first = await pool.complete(request(*talk), CHAT)
    old = "User: I like tea.\ntale: Tea is fine.\n" * 20
    await pool.complete(request(Message("system", SUMMARY_INSTRUCTIONS), Message("user", old)), BACKGROUND)
    talk += [Message("assistant", first.text), Message("user", "And what is snow?")]
    second = await pool.complete(request(*talk), CHAT)

    assert first.usage.input_tokens is not None
    assert second.usage.cached_tokens is not None
    assert second.usage.cached_tokens >= first.usage.input_tokens > 0
