"""Orders in words keep what a task builds on, reach every task of a conversation, and can be taken back."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.servers import Process, rows, running, settings_for, soon, until
from fakes.speaker import INTENTS, Speaker, held

from tale.records import Task, TaskStatus

AWAITED = "SELECT after_id FROM task_dependencies WHERE task_id = ?"


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path), intents=INTENTS) as process:
        yield process


@pytest.fixture
async def speaker(process: Process) -> Speaker:
    return Speaker(await process.client("ux_agent"))


def kinds(process: Process) -> list[tuple[str, str]]:
    found = rows(process.settings, "SELECT content, kind FROM messages WHERE role = 'user' ORDER BY position")
    return [(row["content"], row["kind"]) for row in found]


async def handed_in(process: Process, speaker: Speaker, text: str, **given: Any) -> str:
    """A task of the conversation that another program hands in; returns its id."""
    client = await process.client()
    return (await client.call_tool("submit_task", {"text": text, "conversation_id": speaker.id, **given}))["id"]


async def finished(process: Process, task_id: str) -> dict[str, Any]:
    return await (await process.client()).call_tool("wait_for_task", {"task_id": task_id})


async def test_another_model_can_be_chosen_with_the_first_message(process: Process, speaker: Speaker) -> None:
    assert "the larger model, large, answers" in (await speaker.say("use the larger model"))["reply"]
    assert (await speaker.say("Hello"))["model"] == "large"
    assert kinds(process) == [("use the larger model", "control"), ("Hello", "chat")]


async def test_a_task_that_is_tried_again_gets_the_results_that_it_builds_on(
    process: Process, speaker: Speaker
) -> None:
    await speaker.say("Hello")
    first = await handed_in(process, speaker, "Write a list")
    second = await handed_in(process, speaker, "Make it short", after=[first], with_results=True)
    await finished(process, second)
    third = (await speaker.say("again"))["task_id"]
    await finished(process, third)
    assert rows(process.settings, AWAITED, third) == [{"after_id": first}]
    read = [request.messages[-1].content for request in process.backend.requests]
    assert read[-1] == read[-2]
    assert "Hello world" in read[-1]  # the result of the list


async def test_what_builds_on_a_lost_task_is_tried_again_after_that(process: Process, speaker: Speaker) -> None:
    await speaker.say("Hello")
    await (await process.client()).call_tool("pause_queue")
    first = await handed_in(process, speaker, "Write a list")
    second = await handed_in(process, speaker, "Make it short", after=[first], with_results=True)
    await (await process.client()).call_tool("cancel_task", {"task_id": first})
    answer = await speaker.say("again #2")
    assert answer["reply"] == "It builds on “Write a list”, which was cancelled: try that again first."
    assert (answer["kind"], answer["task_id"]) == ("control", None)
    third = (await speaker.say("again #1"))["task_id"]
    fourth = (await speaker.say("again #2"))["task_id"]
    assert rows(process.settings, AWAITED, fourth) == [{"after_id": third}]
    await (await process.client()).call_tool("resume_queue")
    assert (await finished(process, fourth))["status"] == "completed"
    assert (await finished(process, second))["status"] == "failed"


async def test_a_task_that_others_wait_for_changes_its_place_and_they_go_on_waiting(
    process: Process, speaker: Speaker
) -> None:
    gate = held(process.backend)
    for subject in ("whales", "planets", "rivers"):
        await speaker.say(f"Write about {subject}")
    await soon(process.backend.started)
    _, planets, rivers = [card["id"] for card in (await speaker.history())["tasks"]]
    waiting = await handed_in(process, speaker, "Compare them", after=[rivers])
    assert (await speaker.say("put the rivers first"))["task_id"] is None
    assert "behind the others now: task 2" in (await speaker.say("put the planets at the end of the queue"))["reply"]
    gate.set()
    assert (await finished(process, waiting))["status"] == "completed"
    assert (await finished(process, planets))["status"] == "completed"
    begun = rows(process.settings, "SELECT text FROM tasks ORDER BY started_at")
    assert [row["text"] for row in begun[:2]] == ["Write about whales", "Write about rivers"]


async def test_the_one_put_first_last_is_the_first(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    for subject in ("whales", "planets", "rivers"):
        await speaker.say(f"Write about {subject}")
    await soon(process.backend.started)
    await speaker.say("put the planets first")
    await speaker.say("put the rivers first")
    found = rows(process.settings, "SELECT priority FROM tasks ORDER BY created_at")
    assert [row["priority"] for row in found] == [0, 10, 20]


async def test_stop_all_reaches_every_task_of_a_long_conversation(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    await speaker.say("Write about 0")
    await asyncio.gather(*(handed_in(process, speaker, f"Write about {number}") for number in range(1, 25)))
    assert (await speaker.say("stop all"))["reply"].count("task ") == 25
    await until(lambda: {row["status"] for row in rows(process.settings, "SELECT status FROM tasks")} == {"cancelled"})


async def test_the_end_of_a_conversation_reaches_every_task(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    await speaker.say("Write about 0")
    await asyncio.gather(*(handed_in(process, speaker, f"Write about {number}") for number in range(1, 25)))
    given = {"conversation_id": speaker.id, "cancel_tasks": True}
    assert len((await speaker.client.call_tool("end_conversation", given))["cancelled"]) == 25


async def test_a_result_is_told_by_the_number_of_its_task_however_many_came_since(
    process: Process, speaker: Speaker
) -> None:
    gate = held(process.backend)
    await speaker.say("Write about whales")
    await speaker.say("Write about rivers")
    for number in range(25):
        whose: dict[str, Any] = {"conversation_id": speaker.id, "ended_at": time.time()}
        done = Task(str(uuid.uuid4()), f"{number}", TaskStatus.COMPLETED, time.time(), **whose)
        await process.shared.tasks.insert(done)
    gate.set()
    query = "SELECT content FROM messages WHERE kind = 'result' ORDER BY position"
    await until(lambda: len(rows(process.settings, query)) == 2)
    told = [row["content"].partition(" is")[0] for row in rows(process.settings, query)]
    assert told == ["Task 1", "Task 2"]


async def test_a_wish_is_taken_back(process: Process, speaker: Speaker) -> None:
    noted = await speaker.say("answer in German from now on")
    assert noted["reply"].endswith("“answer in German from now on”. Say “forget that” to take it back.")
    assert kinds(process)[-1] == ("answer in German from now on", "wish")
    assert (await speaker.say("forget that"))["reply"] == "Taken back: “answer in German from now on”."
    assert kinds(process) == [("answer in German from now on", "control"), ("forget that", "control")]
    assert (await speaker.say("stop"))["reply"] == "Nothing of this conversation is under way."


async def test_stop_right_after_a_wish_stops_what_runs_and_the_words_for_a_wish_do_not(
    process: Process, speaker: Speaker
) -> None:
    held(process.backend)
    await speaker.say("Write a poem")
    await speaker.say("answer in German from now on")
    assert (await speaker.say("forget that"))["reply"].startswith("Taken back")
    assert (await speaker.history())["tasks"][0]["ended_at"] is None
    await speaker.say("answer in German from now on")
    assert (await speaker.say("stop"))["reply"].startswith("Cancelled: task 1")
    assert kinds(process)[-2] == ("answer in German from now on", "wish")
