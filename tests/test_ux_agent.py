"""The UX agent talks with the small model at once, streams its words, and keeps the conversation."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import Process, rows, running, settings_for, soon, until

from tale.conversation.context import CHAT_INSTRUCTIONS
from tale.exceptions import ModelException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.servers.ux_answers import ANSWER_TOKENS
from tale.storage.content import erase


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path), intents={}) as process:
        yield process


@pytest.fixture
async def agent(process: Process) -> HTTPMCPClient:
    return await process.client("ux_agent")


def asked(backend: ScriptedBackend, number: int = -1) -> list[tuple[str, str]]:
    """What the model was given to read."""
    return [(message.role, message.content) for message in backend.requests[number].messages]


async def test_an_answer_is_streamed_word_by_word(process: Process, agent: HTTPMCPClient) -> None:
    process.backend.words = ["Good", " morning", "!"]
    heard: list[tuple[float, str | None]] = []
    answer = await agent.call_tool(
        "conversation", {"message": " Hello "}, on_progress=lambda figure, _, word: heard.append((figure, word))
    )
    assert heard == [(1, "Good"), (2, " morning"), (3, "!")]
    assert (answer["reply"], answer["model"], answer["finish_reason"]) == ("Good morning!", "small", "stop")
    assert (answer["input_tokens"], answer["output_tokens"], answer["cached_tokens"]) == (10, 3, 4)
    assert asked(process.backend) == [("system", CHAT_INSTRUCTIONS), ("user", "Hello")]


async def test_a_conversation_goes_on_where_it_was_after_a_restart_too(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with running(settings, intents={}) as process:
        agent = await process.client("ux_agent")
        first = await agent.call_tool("conversation", {"message": "My name is Ann"})
    async with running(settings, intents={}) as process:
        agent = await process.client("ux_agent")
        given = {"message": "What is my name?", "conversation_id": first["conversation_id"]}
        second = await agent.call_tool("conversation", given)
        assert second["conversation_id"] == first["conversation_id"]
        assert asked(process.backend)[1:] == [
            ("user", "My name is Ann"),
            ("assistant", "Hello world"),
            ("user", "What is my name?"),
        ]
        history = await agent.call_tool("get_history")
        assert history["conversation_id"] == first["conversation_id"]
        assert [turn["role"] for turn in history["turns"]] == ["user", "assistant", "user", "assistant"]
        assert len((await agent.call_tool("get_history", {"limit": 1}))["turns"]) == 1


async def test_conversations_do_not_hear_each_other(process: Process, agent: HTTPMCPClient) -> None:
    await agent.call_tool("conversation", {"message": "A secret"})
    other = await agent.call_tool("conversation", {"message": "Hello"})
    assert asked(process.backend)[1:] == [("user", "Hello")]
    history = await agent.call_tool("get_history", {"conversation_id": other["conversation_id"]})
    assert [turn["content"] for turn in history["turns"]] == ["Hello", "Hello world"]


async def test_only_the_latest_turns_that_fit_are_read_and_the_first_is_the_user_s(tmp_path: Path) -> None:
    room = 100
    context = ANSWER_TOKENS + len(CHAT_INSTRUCTIONS) + len("Next") + room
    async with running(settings_for(tmp_path, ux_context_tokens=context), intents={}) as process:
        agent = await process.client("ux_agent")
        process.backend.words = ["a" * 30]
        given: dict[str, str] = {}
        for letter in "123":
            answer = await agent.call_tool("conversation", {"message": letter * 25, **given})
            given = {"conversation_id": answer["conversation_id"]}
        # A pair has 25 bytes, one token as the engine counts it, and 8 tokens around each: two pairs fit, not three.
        # It is cut in steps of half the room, so that the start of what is read seldom changes.
        await agent.call_tool("conversation", {"message": "Next", **given})
        assert asked(process.backend)[1:] == [("user", "3" * 25), ("assistant", "a" * 30), ("user", "Next")]


async def test_a_question_that_was_never_answered_is_kept_but_not_read_again(
    process: Process, agent: HTTPMCPClient
) -> None:
    process.backend.chat_failures = [ModelException("It broke.")]
    conversation = {"conversation_id": str(uuid.uuid4())}
    with pytest.raises(ModelException, match="It broke"):
        await agent.call_tool("conversation", {"message": "First", **conversation})
    await agent.call_tool("conversation", {"message": "Second", **conversation})
    assert asked(process.backend)[1:] == [("user", "Second")]  # models stumble over two questions in a row
    turns = (await agent.call_tool("get_history", conversation))["turns"]
    assert [turn["content"] for turn in turns] == ["First", "Second", "Hello world"]


async def test_a_listener_that_leaves_stops_the_model(process: Process, agent: HTTPMCPClient) -> None:
    process.backend.word_gate = asyncio.Event()
    talk = asyncio.create_task(agent.call_tool("conversation", {"message": "Hello"}))
    await soon(process.backend.started)
    talk.cancel()
    await until(lambda: process.backend.stopped == 1)
    query = "SELECT finish_reason, operation FROM model_calls"
    await until(lambda: rows(process.settings, query) == [{"finish_reason": "cancelled", "operation": "chat"}])


async def test_it_answers_while_a_task_runs(process: Process, agent: HTTPMCPClient) -> None:
    gateway = await process.client()
    task = await gateway.call_tool("submit_task", {"text": "A long task"})
    process.backend.word_gate = asyncio.Event()
    await soon(process.backend.started)
    process.backend.word_gate, task_gate = None, process.backend.word_gate
    assert (await agent.call_tool("conversation", {"message": "Hello"}))["reply"] == "Hello world"
    assert (await gateway.call_tool("get_task_status", {"task_id": task["id"]}))["status"] == "running"
    task_gate.set()


@pytest.mark.parametrize(
    ("tool", "given", "complaint"),
    [
        ("conversation", {"message": ""}, "empty"),
        ("conversation", {"message": "x" * 10_001}, "10,001 characters"),
        ("conversation", {"message": "Hello", "conversation_id": "nonsense"}, "not the id of a conversation"),
        ("get_history", {"limit": 0}, "1 to 200"),
        ("get_history", {"limit": 201}, "1 to 200"),
        ("get_history", {"conversation_id": "nonsense"}, "not the id of a conversation"),
        ("get_history", {}, "There is no conversation yet"),
    ],
)
async def test_what_cannot_be_is_refused(
    agent: HTTPMCPClient, tool: str, given: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValidationException, match=complaint):
        await agent.call_tool(tool, given)


async def test_a_message_larger_than_the_context_is_refused_with_both_numbers(tmp_path: Path) -> None:
    backend = ScriptedBackend(context_tokens=1_024)
    backend.tokens = 3_000
    async with running(settings_for(tmp_path, ux_context_tokens=1_024), backend=backend, intents={}) as process:
        agent = await process.client("ux_agent")
        with pytest.raises(ValidationException, match="3,000 tokens") as caught:
            await agent.call_tool("conversation", {"message": "word " * 1_500})
        assert caught.value.context == {"input_tokens": 3_000, "context_tokens": 1_024}


async def test_words_that_were_erased_are_not_read_to_the_model(process: Process, agent: HTTPMCPClient) -> None:
    first = await agent.call_tool("conversation", {"message": "A secret"})
    await erase(process.shared.database, "hash", process.shared.clock() + 1)
    await agent.call_tool("conversation", {"message": "Hello", "conversation_id": first["conversation_id"]})
    assert asked(process.backend)[1:] == [("user", "Hello")]
