"""In quiet moments the small model is warmed up and old talk is summed up; any message goes before that."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.servers import Process, rows, running, settings_for, soon, until

from tale.conversation.context import CHAT_INSTRUCTIONS, SUMMARY_INSTRUCTIONS
from tale.records import CallContext, ChatRequest, Message
from tale.servers.ux_answers import ANSWER_TOKENS, ModelAnswers
from tale.servers.ux_idle import IdleWork
from tale.settings import Settings

CONTEXT_TOKENS = ANSWER_TOKENS + 2_000


def idle_work(process: Process, settings: Settings | None = None) -> tuple[IdleWork, ModelAnswers]:
    """Idle work that need not wait for its quiet moment."""
    shared = process.shared
    chosen = settings or shared.settings
    answers = ModelAnswers(chosen, shared.conversations, shared.pool, clock=shared.clock)
    return IdleWork(chosen, shared.conversations, shared.pool, answers, quiet_s=0.0), answers


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path, ux_context_tokens=CONTEXT_TOKENS), ("gateway",)) as process:
        yield process


async def talked(process: Process, turns: int) -> str:
    """A conversation of so many turns of a hundred bytes each."""
    conversation_id = str(uuid.uuid4())
    for place in range(turns):
        role = "user" if place % 2 == 0 else "assistant"
        text = f"Turn {place:03} ".ljust(100, ".")
        await process.shared.conversations.append(conversation_id, role, text, now=float(place), kind="chat")
    return conversation_id


async def test_the_model_reads_the_instructions_before_anybody_speaks(process: Process) -> None:
    idle, _ = idle_work(process, process.settings.model_copy(update={"prewarm": True}))
    await idle.start()
    try:
        query = "SELECT role, operation, priority, budget_tokens, finish_reason FROM model_calls WHERE ended_at > 0"
        await until(lambda: rows(process.settings, query))
        assert rows(process.settings, query) == [
            {"role": "ux", "operation": "warm", "priority": 20, "budget_tokens": 1, "finish_reason": "stop"}
        ]
        assert process.backend.requests[0].messages[0].content == CHAT_INSTRUCTIONS
    finally:
        await idle.stop()


async def test_old_talk_is_summed_up_in_one_block_and_then_read_in_short(process: Process) -> None:
    conversation_id = await talked(process, 30)
    process.backend.words = ["They", " counted", " turns."]
    idle, answers = idle_work(process)
    await idle.start()
    try:
        idle.has_grown(conversation_id)
        query = "SELECT summary, summarized FROM conversations"
        await until(lambda: rows(process.settings, query)[0]["summary"])
    finally:
        await idle.stop()
    (kept,) = rows(process.settings, query)
    assert kept["summary"] == "They counted turns."
    assert 10 < kept["summarized"] < 30
    (request,) = process.backend.requests
    assert request.messages[0].content == SUMMARY_INSTRUCTIONS
    assert "Turn 000" in request.messages[1].content
    assert f"Turn {kept['summarized']:03}" not in request.messages[1].content
    view = await process.shared.conversations.view(conversation_id)
    assert view is not None
    assert view.turns[0].position == kept["summarized"]
    await answers.close()


async def test_a_short_talk_is_left_as_it_is(process: Process) -> None:
    conversation_id = await talked(process, 4)
    idle, _ = idle_work(process)
    await idle.start()
    idle.has_grown(conversation_id)
    idle.has_grown(str(uuid.uuid4()))  # one that is not there harms nobody
    longer = await talked(process, 30)
    idle.has_grown(longer)
    query = "SELECT summarized FROM conversations WHERE id = ?"
    await until(lambda: rows(process.settings, query, longer)[0]["summarized"])
    await idle.stop()
    assert rows(process.settings, query, conversation_id) == [{"summarized": 0}]


async def test_a_message_breaks_off_what_is_done_meanwhile_and_it_is_done_later(process: Process) -> None:
    conversation_id = await talked(process, 30)
    process.backend.word_gate = gate = asyncio.Event()
    idle, _ = idle_work(process)
    await idle.start()
    try:
        idle.has_grown(conversation_id)
        await soon(process.backend.started)
        idle.give_way()
        await until(lambda: process.backend.stopped == 1)
        assert rows(process.settings, "SELECT summarized FROM conversations") == [{"summarized": 0}]
        gate.set()  # the call that is made anew may be waiting there already
        await until(lambda: rows(process.settings, "SELECT summarized FROM conversations")[0]["summarized"])
    finally:
        await idle.stop()


async def test_it_waits_while_a_model_is_at_work(process: Process) -> None:
    conversation_id = await talked(process, 30)
    process.backend.word_gate = gate = asyncio.Event()
    request = ChatRequest(model="", messages=(Message("user", "Hi"),))
    work = asyncio.create_task(process.shared.pool.complete(request, CallContext("task", "execute")))
    await soon(process.backend.started)
    idle, _ = idle_work(process)
    await idle.start()
    idle.has_grown(conversation_id)
    for _ in range(200):  # it has looked more than once by then
        await asyncio.sleep(0)
    assert len(process.backend.requests) == 1
    gate.set()
    await work
    await until(lambda: rows(process.settings, "SELECT summarized FROM conversations")[0]["summarized"])
    await idle.stop()
