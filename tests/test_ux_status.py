"""How things stand, what failed and what came out is told from the rows, never from a model's words."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes.servers import Process, rows, running, settings_for, until
from fakes.speaker import INTENTS, Speaker, held
from sqlalchemy import text

from tale.records import Task, TaskStatus


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path), intents=INTENTS) as process:
        yield process


@pytest.fixture
async def speaker(process: Process) -> Speaker:
    return Speaker(await process.client("ux_agent"))


async def test_questions_about_budget_servers_and_errors_are_answered_from_the_rows(
    process: Process, speaker: Speaker
) -> None:
    await speaker.say("Hello")
    told = (await speaker.say("How many tokens have I used?"))["reply"]
    assert "has read 10 and written 2 tokens, in 1 call of a model" in told
    assert "No budget is set" in told
    gateway = await process.client()
    await gateway.call_tool("set_budget", {"limit_tokens": 5_000})
    assert "12 of 5,000 tokens are used, 4,988 are left" in (await speaker.say("How is the budget?"))["reply"]
    assert "The small model, small, is ready" in (await speaker.say("How are the servers?"))["reply"]
    assert "0 tasks under way, 0 waiting." in (await speaker.say("How long is the queue?"))["reply"]
    assert (await speaker.say("Why did it fail?"))["reply"] == "There are no tasks here yet."


async def test_what_failed_is_told_though_another_task_came_since(process: Process, speaker: Speaker) -> None:
    await speaker.say("Hello")
    whose: dict[str, Any] = {"conversation_id": speaker.id, "ended_at": 2.0, "error": "No memory was left."}
    await process.shared.tasks.insert(Task(str(uuid.uuid4()), "Write a list", TaskStatus.FAILED, 1.0, **whose))
    await speaker.say("Write a poem")
    await speaker.hear()
    told = (await speaker.say("Why did it fail?"))["reply"]
    assert told == "Task 1 (“Write a list”): No memory was left. It is failed."
    assert (await speaker.say("How is it: what was the last error?"))["reply"] == told
    assert (await speaker.say("How: did anything fail in the last hour?"))["reply"] == told
    assert (await speaker.say("Why did task 2 fail?"))["reply"] == "Task 2 has not failed."
    assert (await speaker.say("Why did the last one fail?"))["reply"] == "Task 2 has not failed."


async def test_a_result_is_not_told_before_it_is_whole(process: Process, speaker: Speaker) -> None:
    gate = held(process.backend)
    await speaker.say("Write a poem")
    await until(lambda: rows(process.settings, "SELECT result FROM tasks")[0]["result"])
    told = (await speaker.say("How is the result?"))["reply"]
    assert told.startswith("Task 1, “Write a poem”: ") and "done" not in told
    gate.set()
    await speaker.hear()
    assert (await speaker.say("How is the result?"))["reply"] == "Task 1 is done:\n\nHello world"


async def test_a_result_that_cannot_be_kept_for_a_moment_is_told_after_it(
    process: Process, speaker: Speaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tale.servers.ux_tasks.ERROR_RETRY_DELAY", 0.05)
    caplog.set_level("INFO", "tale.servers.ux_tasks")
    full = (
        "CREATE TRIGGER full BEFORE INSERT ON messages WHEN NEW.kind = 'result' BEGIN SELECT RAISE(FAIL, 'full'); END"
    )
    await process.shared.database.write(lambda connection: connection.execute(text(full)))
    await speaker.say("Write a poem")
    await until(lambda: "followed now" in caplog.text or "could not be told" in caplog.text)
    await process.shared.database.write(lambda connection: connection.execute(text("DROP TRIGGER full")))
    (result,) = await speaker.hear()
    assert result["content"] == "Task 1 is done:\n\nHello world"
