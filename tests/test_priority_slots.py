"""Slots are given out by priority, and chat has one of its own."""

import asyncio

import pytest
from fakes.scripted_backend import ScriptedBackend
from hypothesis import given
from hypothesis import strategies as st

from tale.models.engine import Engine
from tale.models.priority_slots import PrioritySlots
from tale.records import Priority


def slots_on_one(total: int, *, reserved: int = 0) -> PrioritySlots:
    """Slots on a single engine."""
    return PrioritySlots([Engine("one", ScriptedBackend())], "small", total, reserved=reserved)


async def hold(slots: PrioritySlots, priority: int, name: str, order: list[str], gate: asyncio.Event) -> None:
    async with slots.held(priority):
        order.append(name)
        await gate.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_waits_is_served_by_priority_then_arrival() -> None:
    slots, order = slots_on_one(1), list[str]()
    first, rest = asyncio.Event(), asyncio.Event()
    rest.set()
    tasks = [asyncio.create_task(hold(slots, Priority.TASK, "first", order, first))]
    await settle()
    for priority, name in [(20, "background"), (10, "task a"), (10, "task b"), (0, "chat")]:
        tasks.append(asyncio.create_task(hold(slots, priority, name, order, rest)))
        await settle()
    assert (slots.running, slots.waiting) == (1, 4)
    first.set()
    await asyncio.gather(*tasks)
    assert order == ["first", "chat", "task a", "task b", "background"]
    assert (slots.running, slots.waiting) == (0, 0)


async def test_a_reserved_slot_is_for_chat_alone() -> None:
    slots, order, gate = slots_on_one(2, reserved=1), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(hold(slots, Priority.TASK, f"task {n}", order, gate)) for n in range(2)]
    await settle()
    tasks.append(asyncio.create_task(hold(slots, Priority.CHAT, "chat", order, gate)))
    await settle()
    assert order == ["task 0", "chat"]
    gate.set()
    await asyncio.gather(*tasks)
    assert order == ["task 0", "chat", "task 1"]


async def test_cancelling_one_that_waits_gives_its_turn_to_the_next() -> None:
    slots, order, gate = slots_on_one(1), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(hold(slots, Priority.TASK, f"{n}", order, gate)) for n in range(3)]
    await settle()
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert slots.waiting == 1
    gate.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert order == ["0", "2"]


async def test_a_slot_that_comes_just_as_its_caller_goes_away_is_not_lost() -> None:
    slots, order, gate = slots_on_one(1), list[str](), asyncio.Event()
    async with slots.held(Priority.TASK):
        second = asyncio.create_task(hold(slots, Priority.TASK, "second", order, gate))
        await settle()
    second.cancel()  # its turn has come by the line above, but it has not run yet
    with pytest.raises(asyncio.CancelledError):
        await second
    assert order == []
    async with slots.held(Priority.TASK):
        assert slots.running == 1
    assert slots.running == 0


@given(st.lists(st.tuples(st.sampled_from([0, 10, 20]), st.booleans()), max_size=30), st.integers(1, 4))
def test_never_more_run_than_there_are_slots_and_all_get_their_turn(calls: list[tuple[int, bool]], total: int) -> None:
    async def play() -> None:
        slots, most, done = slots_on_one(total, reserved=total // 2), 0, 0

        async def one(priority: int) -> None:
            nonlocal most, done
            async with slots.held(priority):
                most = max(most, slots.running)
                await asyncio.sleep(0)
            done += 1

        tasks = [asyncio.create_task(one(priority)) for priority, _ in calls]
        await asyncio.sleep(0)
        for task, (_, cancelled) in zip(tasks, calls, strict=True):
            if cancelled:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= total
        assert done == sum(not isinstance(result, BaseException) for result in results)
        assert (slots.running, slots.waiting) == (0, 0)

    asyncio.run(play())
