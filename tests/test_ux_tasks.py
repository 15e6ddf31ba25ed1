"""In a conversation tasks are handed on, followed, told of and stopped, whatever dies meanwhile."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.servers import PlayedLearning, Process, rows, running, settings_for, soon, until
from fakes.speaker import INTENTS, Speaker, held

from tale.conversation.context import CHAT_INSTRUCTIONS
from tale.credentials import Scope
from tale.exceptions import TaleBaseException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.storage.key_store import KeyStore


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path), intents=INTENTS) as process:
        yield process


@pytest.fixture
async def speaker(process: Process) -> Speaker:
    return Speaker(await process.client("ux_agent"))


async def test_a_request_becomes_a_task_at_once_and_its_result_comes_later(process: Process, speaker: Speaker) -> None:
    gate = held(process.backend)
    answer = await speaker.say("Write a poem")
    assert (answer["kind"], answer["label"]) == ("hand_off", "task")
    assert answer["state"] in {"hand_off", "progress"}  # it may have begun by then
    assert answer["reply"].startswith("I'm on it, as task 1: “Write a poem”.")
    assert answer["model"] is None
    await soon(process.backend.started)
    assert (await speaker.history())["state"] == "progress"
    gate.set()
    (result,) = await speaker.hear()
    assert (result["kind"], result["content"]) == ("result", "Task 1 is done:\n\nHello world")
    assert result["task_id"] == answer["task_id"]
    history = await speaker.history()
    assert history["state"] == "result"
    assert [(card["number"], card["status"], card["text"]) for card in history["tasks"]] == [
        (1, "completed", "Write a poem")
    ]


async def test_talk_goes_on_while_a_task_runs_and_questions_are_answered_from_what_is_known(
    process: Process, speaker: Speaker
) -> None:
    gate = held(process.backend)
    await speaker.say("Write a poem about rain")
    await soon(process.backend.started)
    asked = len(process.backend.requests)
    last = await speaker.say("What was my last request?")
    assert "Your last request was task 1: “Write a poem about rain”. It is " in last["reply"]
    assert (last["kind"], last["state"], last["model"]) == ("status", "progress", None)
    standing = await speaker.say("Check the status of my task")
    assert standing["reply"].startswith("Task 1, “Write a poem about rain”: ")
    assert len(process.backend.requests) == asked  # no model was asked
    process.backend.word_gate = None
    assert (await speaker.say("Hello"))["reply"] == "Hello world"
    gate.set()


async def test_a_word_stops_the_task(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    await speaker.say("Write a poem")
    await soon(process.backend.started)
    answer = await speaker.say("stop")
    assert answer["reply"] == "Cancelled: task 1 (“Write a poem”). What was written so far is kept."
    assert rows(process.settings, "SELECT status FROM tasks") == [{"status": "cancelled"}]
    assert await speaker.hear(timeout_s=1) == []  # nothing more is to be said of it
    assert (await speaker.say("stop"))["reply"] == "Nothing of this conversation is under way."


async def test_one_of_several_is_stopped_by_its_number_or_subject(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    for subject in ("whales", "planets", "rivers"):
        await speaker.say(f"Write about {subject}")
    await speaker.say("cancel the second one")
    await speaker.say("cancel the text about rivers")
    cards = (await speaker.history())["tasks"]
    assert [card["status"] for card in cards] == ["running", "cancelled", "cancelled"]
    assert (await speaker.say("cancel #9"))["reply"] == "There is no such task here."
    assert "2. “Write about planets”" not in (await speaker.say("cancel the second one"))["reply"]


async def test_which_of_several_is_asked_and_all_are_stopped_on_demand(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    await speaker.say("Write about whales")
    await speaker.say("Write about rivers")
    answer = await speaker.say("cancel the thing please")
    assert (answer["kind"], answer["state"]) == ("which", "clarify")
    assert "1. “Write about whales”" in answer["reply"]
    assert "“stop 1”, or “stop all”" in answer["reply"]
    assert (await speaker.say("the second one"))["reply"].startswith("Cancelled: task 2")
    await speaker.say("stop all")
    assert {row["status"] for row in rows(process.settings, "SELECT status FROM tasks")} == {"cancelled"}


async def test_stop_breaks_off_the_answer_that_is_being_written(process: Process, speaker: Speaker) -> None:
    await speaker.say("Hello")
    held(process.backend)
    talk = asyncio.create_task(
        speaker.client.call_tool("conversation", {"message": "Tell", "conversation_id": speaker.id})
    )
    await soon(process.backend.started)
    other = Speaker(await process.client("ux_agent"), speaker.id)
    assert (await other.say("stop"))["reply"] == "I've stopped."
    answer = await talk
    assert (answer["reply"], answer["finish_reason"], answer["model"]) == ("Hello", "stopped", "small")
    process.backend.word_gate = None
    await other.say("And?")
    read = [message.content for message in process.backend.requests[-1].messages]
    assert read[1:] == ["Hello", "Hello world", "Tell", "Hello", "And?"]


async def test_the_queue_is_paused_and_resumed(process: Process, speaker: Speaker) -> None:
    assert "no task begins" in (await speaker.say("pause"))["reply"]
    answer = await speaker.say("Write a poem")
    assert "The queue is paused" in answer["reply"]
    assert "is paused" in (await speaker.say("How long is the queue?"))["reply"]
    assert "cannot be held by itself" in (await speaker.say("pause #1"))["reply"]
    assert "The queue goes on" in (await speaker.say("resume"))["reply"]
    (result,) = await speaker.hear()
    assert result["kind"] == "result"


async def test_a_task_is_tried_again_with_its_files_and_another_limit(process: Process, speaker: Speaker) -> None:
    await speaker.say("Write a poem")
    await speaker.hear()
    answer = await speaker.say("again with 300 tokens")
    assert answer["reply"] == "Once more, as task 2: “Write a poem”."
    (result,) = await speaker.hear()
    assert result["content"].startswith("Task 2 is done")
    found = rows(process.settings, "SELECT text, max_output_tokens FROM tasks ORDER BY created_at")
    assert [tuple(row.values()) for row in found] == [("Write a poem", 2_048), ("Write a poem", 300)]


async def test_a_waiting_task_is_put_ahead_of_the_others(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    for subject in ("whales", "planets", "rivers"):
        await speaker.say(f"Write about {subject}")
    answer = await speaker.say("put the rivers first")
    assert answer["reply"] == "It waits ahead of the others now: task 3 (“Write about rivers”)."
    found = rows(process.settings, "SELECT status, priority FROM tasks ORDER BY created_at")
    assert [tuple(row.values()) for row in found] == [("running", 0), ("queued", 0), ("queued", 10)]
    assert "Only a task that waits" in (await speaker.say("put the whales first"))["reply"]


async def test_what_is_unclear_is_asked_about_once(process: Process, speaker: Speaker) -> None:
    asked = await speaker.say("report.pdf")
    assert (asked["kind"], asked["state"]) == ("clarify", "clarify")
    assert "What would you like me to do with “report.pdf”?" in asked["reply"]
    assert (await speaker.say("that file there"))["kind"] == "chat"
    await speaker.say("report.pdf")
    handed = await speaker.say("Write a summary of it")
    assert handed["kind"] == "hand_off"
    (file,) = rows(process.settings, "SELECT name, text FROM attachments WHERE task_id = ?", handed["task_id"])
    assert (file["name"], file["text"]) == ("message.txt", "report.pdf")


async def test_what_a_user_puts_right_is_kept_to_learn_from(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    handed = await speaker.say("Write me something?")
    process.backend.word_gate = None
    answer = await speaker.say("no, just chat")
    assert (answer["kind"], answer["reply"], answer["label"]) == ("chat", "Hello world", "chat")
    assert process.backend.requests[-1].messages[-1].content == "Write me something?"
    await until(
        lambda: (
            rows(process.settings, "SELECT status FROM tasks WHERE id = ?", handed["task_id"])[0]["status"]
            == "cancelled"
        )
    )
    answer = await speaker.say("A poem would be nice")
    assert answer["kind"] == "chat"
    assert (await speaker.say("do it"))["kind"] == "hand_off"
    found = rows(process.settings, "SELECT text, label, detected, conversation_id FROM corrections ORDER BY created_at")
    assert [tuple(row.values()) for row in found] == [
        ("Write me something?", "chat", "task", speaker.id),
        ("A poem would be nice", "task", "chat", speaker.id),
    ]
    learning = process.shared.learning
    assert isinstance(learning, PlayedLearning)
    assert learning.corrections == 2


async def test_corrections_are_not_kept_where_no_words_are(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, content="hash"), intents=INTENTS) as process:
        speaker = Speaker(await process.client("ux_agent"))
        await speaker.say("A poem would be nice")
        await speaker.say("do it")
        assert rows(process.settings, "SELECT * FROM corrections") == []


async def test_a_wish_holds_for_answers_and_tasks_and_a_fresh_start_forgets_the_talk(
    process: Process, speaker: Speaker
) -> None:
    await speaker.say("Hello")
    assert "Noted for all answers" in (await speaker.say("answer in German from now on"))["reply"]
    await speaker.say("Hi")
    assert "- answer in German from now on" in process.backend.requests[-1].messages[0].content
    task = await speaker.say("Write a poem")
    (file,) = rows(process.settings, "SELECT text FROM attachments WHERE task_id = ?", task["task_id"])
    assert file["text"] == "answer in German from now on"
    await speaker.hear()
    assert "your wishes for answers end" in (await speaker.say("start over"))["reply"]
    await speaker.say("Hi again")
    assert [message.content for message in process.backend.requests[-1].messages] == [CHAT_INSTRUCTIONS, "Hi again"]


async def test_the_larger_model_answers_on_demand(process: Process, speaker: Speaker) -> None:
    await speaker.say("Hello")
    assert "the larger model, large, answers" in (await speaker.say("use the big model from now on"))["reply"]
    assert (await speaker.say("Hello"))["model"] == "large"
    chosen = await speaker.client.call_tool("choose_model", {"conversation_id": speaker.id, "size": "small"})
    assert chosen == {"conversation_id": speaker.id, "model": "small"}
    assert (await speaker.say("Hello"))["model"] == "small"


async def test_a_long_result_is_summed_up_by_the_small_model(process: Process, speaker: Speaker) -> None:
    process.backend.words = ["word "] * 500
    await speaker.say("Write a long text")
    (result,) = await speaker.hear()
    assert "In short:\n\nword word" in result["content"]
    assert "The full text (2,500 characters): `tale result " in result["content"]
    found = rows(process.settings, "SELECT role, operation, priority FROM model_calls WHERE operation = 'summarize'")
    assert found == [{"role": "ux", "operation": "summarize", "priority": 20}]


async def test_progress_is_told_in_plain_words(process: Process, speaker: Speaker) -> None:
    gate = held(process.backend)
    await speaker.say("Write a poem")
    await soon(process.backend.started)
    heard: list[str | None] = []
    following = asyncio.create_task(speaker.hear(on_progress=lambda _f, _t, words: heard.append(words)))
    await until(lambda: heard)
    assert heard[0] is not None
    assert heard[0].startswith("1. Write a poem: ")
    gate.set()
    assert [turn["kind"] for turn in await following] == ["result"]


async def test_of_two_clients_in_one_conversation_each_hears_the_other(process: Process, speaker: Speaker) -> None:
    await speaker.say("Hello")
    other = Speaker(await process.client("ux_agent"), speaker.id)
    other.last = speaker.last
    listening = asyncio.create_task(other.hear())
    await speaker.say("It is me again")
    assert (await listening)[0]["content"] == "It is me again"
    await asyncio.gather(speaker.say("One"), other.say("Two"))
    said = [turn["content"] for turn in (await speaker.history())["turns"]][-4:]
    assert said in (["One", "Hello world", "Two", "Hello world"], ["Two", "Hello world", "One", "Hello world"])


async def test_a_result_that_came_while_the_agent_was_away_is_told_when_it_is_back(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with running(settings, ("execution", "gateway"), intents=INTENTS) as others:
        async with running(settings, ("ux_agent",), pool=others.shared.pool, intents=INTENTS) as agent:
            speaker = Speaker(await agent.client("ux_agent"))
            gate = held(others.backend)
            await speaker.say("Write a poem")
        gate.set()
        await until(lambda: rows(settings, "SELECT status FROM tasks") == [{"status": "completed"}])
        assert rows(settings, "SELECT * FROM messages WHERE kind = 'result'") == []
        async with running(settings, ("ux_agent",), pool=others.shared.pool, intents=INTENTS) as agent:
            speaker = Speaker(await agent.client("ux_agent"), speaker.id)
            speaker.last = 1
            assert [turn["kind"] for turn in await speaker.hear()] == ["result"]
    assert len(rows(settings, "SELECT * FROM messages WHERE kind = 'result'")) == 1


async def test_an_answer_that_its_reader_left_is_kept_as_far_as_it_was_heard(
    process: Process, speaker: Speaker
) -> None:
    await speaker.say("Hello")
    held(process.backend)
    talk = asyncio.create_task(speaker.say("Tell me"))
    await soon(process.backend.started)
    await until(lambda: process.shared.pool is not None)
    talk.cancel()
    await asyncio.gather(talk, return_exceptions=True)
    await until(lambda: process.backend.stopped == 1)
    process.backend.word_gate = None
    other = Speaker(await process.client("ux_agent"), speaker.id)
    assert (await other.say("Are you there?"))["reply"] == "Hello world"


async def test_a_conversation_ends_with_its_tasks_and_can_still_be_read(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    task_id = (await speaker.say("Write a poem"))["task_id"]
    ended = await speaker.client.call_tool("end_conversation", {"conversation_id": speaker.id, "cancel_tasks": True})
    assert ended["cancelled"] == [task_id]
    with pytest.raises(ValidationException, match="has been ended; leave out its id"):
        await speaker.say("Hello")
    again = await speaker.client.call_tool("end_conversation", {"conversation_id": speaker.id})
    assert again["ended_at"] == ended["ended_at"]
    assert (await speaker.history())["ended_at"] == ended["ended_at"]
    (line,) = (await speaker.client.call_tool("list_conversations"))["conversations"]
    assert (line["id"], line["title"], line["ended_at"]) == (speaker.id, "Write a poem", ended["ended_at"])


async def test_answers_and_results_are_rated(process: Process, speaker: Speaker) -> None:
    answer = await speaker.say("Hello")
    rate = {"conversation_id": speaker.id, "rating": "good", "comment": "nice"}
    rated = await speaker.client.call_tool("rate_answer", rate)
    assert rated == {"conversation_id": speaker.id, "position": answer["position"], "rating": "good", "task_id": None}
    task_id = (await speaker.say("Write a poem"))["task_id"]
    await speaker.hear()
    rated = await speaker.client.call_tool("rate_answer", {**rate, "rating": "bad"})
    assert rated["task_id"] == task_id
    assert rows(process.settings, "SELECT rating, comment FROM feedback") == [{"rating": "bad", "comment": "nice"}]
    assert [turn["rating"] for turn in (await speaker.history())["turns"]] == [None, "good", None, None, "bad"]
    with pytest.raises(ValidationException, match="no such answer"):
        await speaker.client.call_tool("rate_answer", {**rate, "position": 0})


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("follow_conversation", {}),
        ("end_conversation", {}),
        ("choose_model", {"size": "small"}),
    ],
)
async def test_an_unknown_conversation_is_refused(speaker: Speaker, tool: str, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationException, match="There is no conversation"):
        await speaker.client.call_tool(tool, {"conversation_id": str(uuid.uuid4()), **given})


async def test_what_a_message_asks_for_can_be_asked(speaker: Speaker) -> None:
    found = await speaker.client.call_tool("task_detected", {"text": "Write a poem"})
    assert found == {
        "label": "task",
        "confidence": 0.9,
        "reasons": ["it begins so"],
        "source": "model",
        "probabilities": {"task": 0.9},
    }


async def test_orders_are_given_in_the_name_of_whoever_asks(tmp_path: Path) -> None:
    """A key that may only use tale does not pause the queue of all, by way of a conversation either."""
    settings = settings_for(tmp_path, api_key="k" * 20)
    async with running(settings, intents=INTENTS) as process:
        _, key = await KeyStore(process.shared.database).create("ann", Scope.SUBMIT, now=1.0)
        async with HTTPMCPClient(settings.url_of("ux_agent"), api_key=key) as client:
            speaker = Speaker(client)
            assert "That could not be done" in (await speaker.say("pause"))["reply"]
            await speaker.say("Write a poem")
            assert rows(settings, "SELECT key_name FROM tasks") == [{"key_name": "ann"}]


async def test_a_gateway_that_is_away_is_told_and_the_conversation_goes_on(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path), ("ux_agent",), intents=INTENTS) as process:
        speaker = Speaker(await process.client("ux_agent"))
        assert "That could not be done" in (await speaker.say("pause"))["reply"]
        with pytest.raises(TaleBaseException):
            await speaker.say("Write a poem")
        assert (await speaker.say("Hello"))["reply"] == "Hello world"


async def test_a_task_that_was_cancelled_elsewhere_is_told_of(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    task_id = (await speaker.say("Write a poem"))["task_id"]
    await soon(process.backend.started)
    await (await process.client()).call_tool("cancel_task", {"task_id": task_id})
    (told,) = await speaker.hear()
    assert told["content"] == f"Task 1 (“Write a poem”) was cancelled. What it had written: `tale result {task_id}`."
