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

from tale.records import Conversation, Task, TaskStatus
from tale.servers.ux_answers import ModelAnswers
from tale.servers.ux_callers import UXCaller
from tale.storage.conversation_store import ConversationView

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


async def with_ended(
    process: Process, speaker: Speaker, text: str, status: TaskStatus = TaskStatus.COMPLETED, **more: Any
) -> Task:
    """A task of the conversation that has ended, and whose end was told there."""
    now = time.time()
    task = Task(str(uuid.uuid4()), text, status, now, conversation_id=speaker.id, ended_at=now, **more)
    await process.shared.tasks.insert(task)
    await process.shared.conversations.append_result(str(speaker.id), f"{text} has ended", task_id=task.id, now=now)
    return task


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


async def test_a_wish_is_taken_back_after_it_was_summed_up(process: Process, speaker: Speaker) -> None:
    await speaker.say("answer in German from now on")
    await process.shared.conversations.sum_up(str(speaker.id), "They greeted.", until=speaker.last + 1)
    assert (await speaker.say("forget that"))["reply"] == "Taken back: “answer in German from now on”."
    assert kinds(process)[0] == ("answer in German from now on", "control")


async def test_an_order_that_is_not_understood_is_no_wish(process: Process, speaker: Speaker) -> None:
    assert (await speaker.say("put the kettle on"))["reply"].startswith("I'm not sure what to do")
    assert kinds(process) == [("put the kettle on", "control")]
    view = await process.shared.conversations.view(str(speaker.id))
    assert view is not None
    assert view.wishes == ()


async def test_what_is_tried_again_is_what_was_told_of_last(process: Process, speaker: Speaker) -> None:
    held(process.backend)
    await speaker.say("Write about whales")
    await with_ended(process, speaker, "Write a list", TaskStatus.FAILED, error="No.")
    assert (await speaker.say("again"))["reply"] == "Once more, as task 3: “Write a list”."
    assert (await speaker.say("again"))["reply"] == "Once more, as task 4: “Write a list”."


async def test_one_task_is_tried_again_at_a_time(process: Process, speaker: Speaker) -> None:
    await speaker.say("Hello")
    for text in ("Write a list", "Write a poem"):
        await with_ended(process, speaker, text)
    assert (await speaker.say("again 1 and 2"))[
        "reply"
    ] == "I try one task again at a time: say which, as in “retry 1”."
    assert len((await speaker.history())["tasks"]) == 2


async def test_what_lies_long_ago_is_found_all_the_same(process: Process, speaker: Speaker) -> None:
    await speaker.say("Hello")
    for number in range(1, 26):
        await with_ended(process, speaker, f"Write about {number}", error="No." if number == 1 else None)
    await process.shared.conversations.sum_up(str(speaker.id), "They greeted.", until=20)
    assert "“Write about 1”" in (await speaker.say("How was my first request?"))["reply"]
    assert "“Hello”" in (await speaker.say("How: what did I say first?"))["reply"]
    assert "Task 2, “Write about 2”: done" in (await speaker.say("How far is task 2?"))["reply"]
    assert "Task 1 (“Write about 1”): No." in (await speaker.say("Why did task 1 fail?"))["reply"]
    assert (await speaker.say("Why did it fail?"))["reply"] == "None of the latest 20 tasks here has failed."
    assert (await speaker.say("again 2"))["reply"] == "Once more, as task 26: “Write about 2”."
    assert (await speaker.say("again 3 with 300 tokens"))["reply"] == "Once more, as task 27: “Write about 3”."
    assert (await speaker.say("again 4 and 25"))["reply"].startswith("I try one task again at a time")
    assert (await speaker.say("again 99"))["reply"] == "There is no such task here."


async def test_an_answer_is_stopped_once_however_often_it_is_told_to(process: Process) -> None:
    shared, now, conversation_id = process.shared, time.time(), str(uuid.uuid4())
    answers = ModelAnswers(shared.settings, shared.conversations, shared.pool, clock=time.time)
    asked = await shared.conversations.append(conversation_id, "user", "Hello", now=now, kind="chat")
    held(process.backend)
    heard = asyncio.Event()

    async def on_words(_count: int, _words: str) -> None:
        heard.set()

    view = ConversationView(Conversation(conversation_id, now, now))
    talk = asyncio.create_task(answers.answer("Hello", view, caller=UXCaller(), on_words=on_words, asked=asked))
    await soon(heard)
    times = 0
    while answers.stop(conversation_id):
        times += 1
        await asyncio.sleep(0)
    assert times > 1
    answer = await talk
    assert (answer.reply.text, answer.reply.finish_reason) == ("Hello", "stopped")
    await answers.close()
