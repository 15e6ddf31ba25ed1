"""A message that is sent again, because the server died over its answer, is one message."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.servers import Process, rows, running, settings_for
from fakes.speaker import INTENTS, Speaker, held
from sqlalchemy import delete

from tale.storage.tables import messages


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path), intents=INTENTS) as process:
        yield process


@pytest.fixture
async def speaker(process: Process) -> Speaker:
    return Speaker(await process.client("ux_agent"))


async def test_a_message_whose_answer_was_lost_stands_once_and_becomes_one_task(
    process: Process, speaker: Speaker
) -> None:
    handed = await speaker.say("Write a poem")
    # The server dies after the task was handed in, and before it says so.
    lost = delete(messages).where(messages.c.role == "assistant", messages.c.kind == "hand_off")
    await process.shared.database.write(lambda connection: connection.execute(lost))
    again = await speaker.say("Write a poem", again=True)
    assert (again["task_id"], again["reply"]) == (handed["task_id"], handed["reply"])
    said = "SELECT content FROM messages WHERE role = 'user'"
    assert rows(process.settings, said) == [{"content": "Write a poem"}]
    another = await speaker.say("Write a poem", again=True)  # it has been answered: this one is new
    assert another["task_id"] != handed["task_id"]
    assert rows(process.settings, said) == [{"content": "Write a poem"}] * 2


async def test_a_retry_whose_answer_was_lost_is_one_task(process: Process, speaker: Speaker) -> None:
    await speaker.say("Write a poem")
    await speaker.hear()
    gate = held(process.backend)
    handed = await speaker.say("again")
    lost = delete(messages).where(messages.c.task_id == handed["task_id"])
    await process.shared.database.write(lambda connection: connection.execute(lost))
    again = await speaker.say("again", again=True)
    assert (again["task_id"], again["reply"]) == (handed["task_id"], "Once more, as task 2: “Write a poem”.")
    gate.set()
    assert len(rows(process.settings, "SELECT id FROM tasks")) == 2
