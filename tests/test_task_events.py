"""Task events reach every listener, in order, up to the final one."""

import asyncio

from tale.orchestration.task_events import LISTENER_BACKLOG, TaskEvent, TaskEvents
from tale.records import TaskStatus


def event(message: str, status: TaskStatus = TaskStatus.RUNNING) -> TaskEvent:
    return TaskEvent("t", status, message)


async def test_a_listener_gets_the_latest_event_and_then_each_new_one_up_to_the_end() -> None:
    events = TaskEvents()
    events.publish(event("before"))
    with events.listen("t") as listener:
        events.publish(event("after"))
        events.publish(event("done", TaskStatus.COMPLETED))
        assert [seen.message async for seen in listener] == ["before", "after", "done"]


async def test_a_final_event_clears_the_board_and_listeners_are_forgotten() -> None:
    events = TaskEvents()
    events.publish(event("done", TaskStatus.FAILED))
    with events.listen("t") as listener:
        assert events.has_listeners("t")
        waiting = asyncio.ensure_future(anext(aiter(listener)))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
    assert not events.has_listeners("t")


async def test_a_slow_listener_loses_old_events_but_never_the_last() -> None:
    events = TaskEvents()
    with events.listen("t") as listener:
        for number in range(LISTENER_BACKLOG * 3):
            events.publish(event(str(number)))
        events.publish(event("done", TaskStatus.CANCELLED))
        seen = [item.message async for item in listener]
    assert len(seen) == LISTENER_BACKLOG
    assert seen[-1] == "done"


async def test_two_listeners_of_one_task_both_hear_it() -> None:
    events = TaskEvents()
    with events.listen("t") as one, events.listen("t") as other:
        events.publish(event("done", TaskStatus.COMPLETED))
        assert [item.message async for item in one] == [item.message async for item in other] == ["done"]


async def test_a_forgotten_task_is_not_told_to_listeners_to_come() -> None:
    events = TaskEvents()
    events.publish(event("running"))
    events.forget("t")
    events.forget("never heard of")
    events.publish(event("done", TaskStatus.COMPLETED))
    with events.listen("t") as listener:
        waiting = asyncio.ensure_future(anext(aiter(listener)))
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
