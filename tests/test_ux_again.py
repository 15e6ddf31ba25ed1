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


async def lose_answers(process: Process, *kinds: str) -> None:
    """As after a crash: of what was said nothing is there but the user's words, and what became of them."""
    lost = delete(messages).where(messages.c.role == "assistant", messages.c.kind.in_(kinds))
    await process.shared.database.write(lambda connection: connection.execute(lost))


def said_by_the_user(process: Process) -> list[str]:
    found = rows(process.settings, "SELECT content FROM messages WHERE role = 'user' ORDER BY position")
    return [row["content"] for row in found]


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


@pytest.mark.parametrize("second", ["How far is it?", "Make a song", "Hello", "use the large model"])
@pytest.mark.parametrize("is_backwards", [False, True])
async def test_messages_that_lost_their_answers_together_each_stand_once(
    process: Process, speaker: Speaker, second: str, is_backwards: bool
) -> None:
    both = ["Write an essay about whales", second]
    before = [(await speaker.say(each))["task_id"] for each in both]
    await lose_answers(process, "hand_off", "status", "chat", "control")
    answers = {each: await speaker.say(each, again=True) for each in sorted(both, reverse=is_backwards)}
    assert [answers[each]["task_id"] for each in both] == before
    assert said_by_the_user(process) == both


async def test_a_reply_is_understood_by_what_it_replied_to_though_another_message_was_answered_since(
    process: Process, speaker: Speaker
) -> None:
    await speaker.say("report.pdf")
    handed = await speaker.say("do it")
    await speaker.say("How far is it?")
    await lose_answers(process, "hand_off", "status")
    await speaker.say("How far is it?", again=True)
    again = await speaker.say("do it", again=True)
    assert (again["kind"], again["task_id"]) == ("hand_off", handed["task_id"])
    assert said_by_the_user(process) == ["report.pdf", "do it", "How far is it?"]


async def test_an_answer_that_was_kept_and_never_arrived_is_told_to_whoever_knows_where_the_message_stands(
    process: Process, speaker: Speaker
) -> None:
    handed = await speaker.say("Write a poem")
    await speaker.say("How far is it?")
    again = await speaker.say("Write a poem", again=True, after=-1)
    told = ("position", "reply", "kind", "label", "task_id")
    assert [again[name] for name in told] == [handed[name] for name in told]
    assert said_by_the_user(process) == ["Write a poem", "How far is it?"]
    another = await speaker.say("Write a poem", again=True, after=speaker.last)
    assert another["task_id"] not in (None, handed["task_id"])


async def test_a_start_afresh_whose_answer_was_lost_stands_once(process: Process, speaker: Speaker) -> None:
    await speaker.say("Hello")
    await speaker.say("start over")
    await lose_answers(process, "control")
    again = await speaker.say("start over", again=True)
    assert "start afresh" in again["reply"]
    assert said_by_the_user(process) == ["Hello", "start over"]
