"""Conversations are kept message by message, on both databases, whoever writes to them at the same time."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tale.records import Correction, Task, TaskStatus
from tale.storage.conversation_store import PAGE_TURNS, PAGES_READ, ConversationStore
from tale.storage.correction_store import CorrectionStore
from tale.storage.database import Database
from tale.storage.task_store import TaskStore

ID = "c1111111-1111-4111-8111-111111111111"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    sqlite = f"sqlite:///{tmp_path / 'tale.db'}"
    url = sqlite if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database.open(url)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> ConversationStore:
    return ConversationStore(database)


async def said(store: ConversationStore, count: int, **more: Any) -> None:
    for place in range(count):
        role = "user" if place % 2 == 0 else "assistant"
        await store.append(ID, role, f"Turn {place}", now=float(place), **more)


async def test_what_there_is_to_know_is_read_in_one_look(database: Database, store: ConversationStore) -> None:
    assert await store.view(ID) is None
    await said(store, 4, kind="chat")
    await store.append(ID, "user", "Answer in German", now=9.0, kind="wish")
    tasks = TaskStore(database)
    made = [
        Task(str(uuid.uuid4()), f"Task {place}", TaskStatus.FAILED, float(place), conversation_id=ID, ended_at=99.0)
        for place in range(25)
    ]
    for task in made:
        await tasks.insert(task)
    await tasks.insert(replace(made[0], id=str(uuid.uuid4()), conversation_id=None))
    view = await store.view(ID)
    assert view is not None
    assert [turn.content for turn in view.turns] == ["Turn 0", "Turn 1", "Turn 2", "Turn 3", "Answer in German"]
    assert view.wishes == ("Answer in German",)
    assert [task.text for task in view.tasks] == [f"Task {place}" for place in range(5, 25)]
    assert view.first_number == 6
    assert view.numbered[25].text == "Task 24"


async def test_all_tasks_under_way_are_known_by_their_numbers(database: Database, store: ConversationStore) -> None:
    await said(store, 1)
    tasks = TaskStore(database)
    made = [
        Task(f"{place:036}", f"Task {place}", TaskStatus.QUEUED, float(place // 2), conversation_id=ID)
        for place in range(30)
    ]
    for place, task in enumerate(made):
        ended = replace(task, status=TaskStatus.COMPLETED, ended_at=99.0)
        await tasks.insert(ended if place in (0, 1, 2, 29) else task)
    view = await store.view(ID)
    assert view is not None
    assert (view.first_number, len(view.tasks)) == (4, 27)
    assert [task.text for task in view.tasks] == [f"Task {place}" for place in range(3, 30)]
    assert [await store.number_of(made[place]) for place in (0, 1, 29)] == [1, 2, 30]


async def test_a_fresh_start_ends_the_summary_and_the_wishes_said_before(store: ConversationStore) -> None:
    await store.append(ID, "user", "Answer in German", now=1.0, kind="wish")
    await store.sum_up(ID, "They greeted.", until=1)
    last = await store.append(ID, "user", "start over", now=2.0, kind="control")
    await store.start_afresh(ID, until=last.position + 1)
    await store.append(ID, "user", "Be brief", now=3.0, kind="wish")
    await store.sum_up(ID, "A summary of later on.", until=3)
    view = await store.view(ID)
    assert view is not None
    assert (view.wishes, view.conversation.summary) == (("Be brief",), "A summary of later on.")


async def test_an_order_becomes_a_wish_and_is_taken_back(store: ConversationStore) -> None:
    turn = await store.append(ID, "user", "Be brief", now=1.0, kind="control")
    for kind, wishes in (("wish", ("Be brief",)), ("control", ())):
        await store.change_kind(turn, kind)
        view = await store.view(ID)
        assert view is not None
        assert view.wishes == wishes


async def test_what_lies_before_a_view_is_found(database: Database, store: ConversationStore) -> None:
    assert await store.last_wish(ID) is None
    assert await store.task_numbered(ID, 1) is None
    await store.append(ID, "user", "Be brief", now=0.0, kind="wish")
    await store.append(ID, "user", "Be kind", now=1.0, kind="wish")
    await said(store, 4)
    await store.sum_up(ID, "They greeted.", until=5)
    wish = await store.last_wish(ID)
    assert wish is not None
    assert (wish.content, wish.position) == ("Be kind", 1)
    assert [turn.position for turn in await store.first_turns(ID, limit=3)] == [0, 1, 2]
    assert [turn.position for turn in await store.first_turns(ID, limit=3, since=4)] == [4, 5]
    tasks = TaskStore(database)
    made = [Task(f"{place:036}", "Write", TaskStatus.FAILED, 0.0, conversation_id=ID, ended_at=1.0) for place in (2, 1)]
    for task in made:
        await tasks.insert(task)
    found = [await store.task_numbered(ID, number) for number in (0, 1, 2, 3)]
    assert [task and task.id for task in found] == [None, made[1].id, made[0].id, None]


async def test_the_first_turn_of_a_view_stays_for_a_hundred_turns(database: Database, store: ConversationStore) -> None:
    await said(store, PAGE_TURNS * (PAGES_READ + 1) + 5)
    view = await store.view(ID)
    assert view is not None
    assert (view.turns[0].position, len(view.turns)) == (PAGE_TURNS, PAGE_TURNS * PAGES_READ + 5)


async def test_how_a_task_ended_is_told_once_however_many_try(database: Database, store: ConversationStore) -> None:
    await said(store, 1)
    told = await asyncio.gather(*(store.append_result(ID, "Done", task_id="t", now=2.0) for _ in range(5)))
    assert sum(turn is not None for turn in told) == 1
    assert [turn.kind for turn in await store.turns(ID)] == [None, "result"]


async def test_tasks_whose_end_was_not_told_are_found(database: Database, store: ConversationStore) -> None:
    tasks = TaskStore(database)
    for number, status in enumerate(("queued", "completed", "failed", "cancelled", "completed")):
        task = Task(f"{number}" * 36, "x", TaskStatus(status), 10.0 + number, conversation_id=ID)
        await tasks.insert(task)
        await store.append(ID, "assistant", "On it", now=1.0, kind="hand_off", task_id=task.id)
    await store.append_result(ID, "Done", task_id="4" * 36, now=2.0)
    await tasks.insert(Task("5" * 36, "not of the talk", TaskStatus.QUEUED, 12.0))
    assert sorted(task.id[0] for task in await store.untold(since=0.0)) == ["0", "1", "2"]
    assert sorted(task.id[0] for task in await store.untold(since=11.5)) == ["2"]


async def test_a_summary_takes_the_place_of_old_turns_and_never_goes_back(store: ConversationStore) -> None:
    await said(store, 10)
    await store.sum_up(ID, "They counted.", until=6)
    await store.sum_up(ID, "Older.", until=4)
    view = await store.view(ID)
    assert view is not None
    assert (view.conversation.summary, view.conversation.summarized) == ("They counted.", 6)
    assert view.turns[0].position == 6


async def test_pages_of_turns_are_read_backwards_and_news_forwards(store: ConversationStore) -> None:
    await said(store, 10)
    assert [turn.position for turn in await store.turns(ID, limit=3, before=5)] == [2, 3, 4]
    assert [turn.position for turn in await store.turns(ID, after=7)] == [8, 9]
    assert await store.turns("unknown") == []


async def test_a_conversation_is_ended_once_and_listed(store: ConversationStore) -> None:
    await said(store, 3)
    assert await store.end(ID, now=50.0) == 50.0
    assert await store.end(ID, now=60.0) == 50.0
    assert await store.end("unknown", now=60.0) is None
    other = str(uuid.uuid4())
    await store.append(other, "user", "x" * 500, now=99.0)
    first, second = await store.list(limit=5)
    assert (first.conversation.id, first.messages, len(first.title)) == (other, 1, 80)
    assert (second.conversation.ended_at, second.messages, second.title) == (50.0, 3, "Turn 0")
    assert await store.latest() == other


async def test_the_last_answer_is_rated_unless_another_is_named(store: ConversationStore) -> None:
    await said(store, 5)
    rated = await store.rate(ID, "good", position=None, comment="yes")
    assert rated is not None
    assert (rated.position, rated.rating, rated.comment) == (3, "good", "yes")
    assert await store.rate(ID, "bad", position=1, comment=None) is not None
    assert await store.rate(ID, "bad", position=2, comment=None) is None  # what the user said
    assert [turn.rating for turn in await store.turns(ID)] == [None, "bad", None, "good", None]


async def test_tokens_and_the_model_that_answers_are_kept(store: ConversationStore) -> None:
    turn = await store.append(ID, "user", "Hello", now=1.0)
    await store.count(turn, 7)
    await store.choose_model(ID, "task")
    view = await store.view(ID)
    assert view is not None
    assert (view.turns[0].tokens, view.conversation.answers) == (7, "task")


async def test_corrections_are_read_newest_first(database: Database) -> None:
    store = CorrectionStore(database)
    for number in range(3):
        await store.add(Correction(f"id{number}", float(number), f"Text {number}", "task", "chat", ID, "ann"))
    assert [each.text for each in await store.newest(2)] == ["Text 2", "Text 1"]
