"""A call goes to the engine on which it should be done first; the choice is pure, its clock an argument."""

import asyncio
import math
from dataclasses import dataclass

import pytest
from fakes.scripted_backend import ScriptedBackend
from hypothesis import given
from hypothesis import strategies as st

from tale.exceptions import ModelException, NetworkException, TaleBaseException, ValidationException
from tale.models.backend import ChatStream
from tale.models.engine import Engine, is_engine_fault, least_expected_delay
from tale.models.priority_slots import PrioritySlots
from tale.records import ChatRequest, Priority, Reply, Usage

REQUEST = ChatRequest("small", ())


@dataclass
class Clock:
    """A clock that stands until it is set."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Paced(ScriptedBackend):
    """Takes its time for ten tokens, by the clock that it is given."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self.seconds = seconds

    async def chat(self, request: ChatRequest) -> ChatStream:
        self._clock.now += self.seconds
        yield Reply("", request.model, "stop", Usage(output_tokens=10))


async def used(clock: Clock, name: str, seconds: float) -> Engine:
    """An engine that has served one call of so many seconds."""
    engine = Engine(name, Paced(clock, seconds), clock=clock)
    engine.ready.add("small")
    engine.take("small")
    async for _ in engine.chat(REQUEST):
        pass
    engine.give_back("small")
    return engine


def busy(engine: Engine, calls: int) -> None:
    for _ in range(calls):
        engine.take("small")


async def test_of_engines_of_one_speed_the_one_with_the_fewest_calls_is_taken() -> None:
    clock = Clock()
    one, other = await used(clock, "one", 1.0), await used(clock, "other", 1.0)
    busy(one, 2)
    busy(other, 1)
    assert least_expected_delay([one, other], clock.now) is other


async def test_a_fast_engine_is_taken_until_its_calls_outweigh_its_speed() -> None:
    clock = Clock()
    fast, slow = await used(clock, "fast", 1.0), await used(clock, "slow", 3.0)
    taken: list[str] = []
    for _ in range(8):
        engine = least_expected_delay([fast, slow], clock.now)
        engine.take("small")
        taken.append(engine.name)
    assert (taken.count("fast"), taken.count("slow")) == (6, 2)


async def test_an_engine_that_nothing_is_known_of_is_tried() -> None:
    clock = Clock()
    known, unknown = await used(clock, "known", 1.0), Engine("unknown", ScriptedBackend(), clock=clock)
    assert least_expected_delay([known, unknown], clock.now) is unknown


async def test_engines_between_which_nothing_decides_take_turns() -> None:
    engines = [Engine(name, ScriptedBackend()) for name in "abc"]
    taken = list[str]()
    for _ in range(6):
        engine = least_expected_delay(engines, 0.0)
        engine.take("small")
        engine.give_back("small")
        taken.append(engine.name)
    assert taken == ["a", "b", "c", "a", "b", "c"]


async def test_a_slow_call_is_forgotten_with_time() -> None:
    clock = Clock()
    slow, fast = await used(clock, "slow", 60.0), await used(clock, "fast", 1.0)
    busy(fast, 1)
    assert least_expected_delay([slow, fast], clock.now) is fast
    assert least_expected_delay([slow, fast], clock.now + 600.0) is slow


async def test_an_engine_that_falls_silent_is_slow_whatever_it_was_before() -> None:
    clock = Clock()
    hung, slow = await used(clock, "hung", 1.0), await used(clock, "slow", 3.0)
    busy(hung, 1)
    assert least_expected_delay([hung, slow], clock.now) is hung
    clock.now += 1.0
    assert least_expected_delay([hung, slow], clock.now) is slow
    hung.give_back("small")
    assert least_expected_delay([hung, slow], clock.now) is hung


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 50)), min_size=1, max_size=6), st.floats(0, 1e6))
def test_the_choice_is_one_of_the_engines_whatever_their_figures(
    figures: list[tuple[float, int]], later_s: float
) -> None:
    async def play() -> None:
        clock = Clock()
        engines = [await used(clock, str(number), seconds) for number, (seconds, _) in enumerate(figures)]
        for engine, (_, calls) in zip(engines, figures, strict=True):
            busy(engine, calls)
        best_s = min(engine.pace_s or math.inf for engine in engines)
        assert all(engine.expected_pace_s(best_s, clock.now + later_s) >= best_s for engine in engines)
        assert least_expected_delay(engines, clock.now + later_s) in engines

    asyncio.run(play())


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (NetworkException("No answer."), True),
        (ModelException("Overloaded.", {"status": 503}), True),
        (ModelException("Slow down.", {"status": 429}), True),
        (ModelException("Wrong key.", {"status": 401}), True),
        (ModelException("Not here.", {"status": 404}), True),
        (ModelException("No such option.", {"status": 400}), False),
        (ModelException("A form that is not OpenAI's."), False),
        (ValidationException("Too long."), False),
    ],
)
def test_some_failures_speak_against_the_engine_and_some_against_the_request(
    error: TaleBaseException, is_fault: bool
) -> None:
    assert is_engine_fault(error) == is_fault


async def test_chat_has_a_slot_of_its_own_on_each_engine() -> None:
    engines = [Engine(name, ScriptedBackend()) for name in ("one", "other")]
    slots, gate = PrioritySlots(engines, "small", 2, reserved=1), asyncio.Event()

    async def hold(priority: int) -> None:
        async with slots.held(priority):
            await gate.wait()

    work = [asyncio.create_task(hold(Priority.TASK)) for _ in range(3)]
    await asyncio.sleep(0)
    assert ([engine.in_flight["small"] for engine in engines], slots.waiting) == ([1, 1], 1)
    chats = [asyncio.create_task(hold(Priority.CHAT)) for _ in range(2)]
    await asyncio.sleep(0)
    assert ([engine.in_flight["small"] for engine in engines], slots.waiting) == ([2, 2], 1)
    gate.set()
    await asyncio.gather(*work, *chats)


async def test_one_that_avoids_a_free_engine_holds_up_nobody_behind_it() -> None:
    one, other = engines = [Engine(name, ScriptedBackend()) for name in ("one", "other")]
    slots = PrioritySlots(engines, "small", 1)
    order = list[str]()

    async def serve(name: str, avoid: Engine | None = None) -> None:
        async with slots.held(Priority.TASK, avoid=avoid) as engine:
            order.append(f"{name} on {engine.name}")

    async with slots.held(Priority.TASK, avoid=one) as held:
        assert held is other
        second = asyncio.create_task(serve("second try", avoid=one))
        third = asyncio.create_task(serve("first try"))
        await third
        assert not second.done()
    await second
    assert order == ["first try on one", "second try on other"]


async def test_the_only_engine_is_taken_even_by_who_avoids_it() -> None:
    engine = Engine("one", ScriptedBackend())
    async with PrioritySlots([engine], "small", 1).held(Priority.TASK, avoid=engine) as held:
        assert held is engine


@given(st.lists(st.tuples(st.sampled_from([0, 10, 20]), st.booleans(), st.integers(-1, 2)), max_size=30))
def test_no_engine_has_more_than_its_slots_and_all_get_their_turn(calls: list[tuple[int, bool, int]]) -> None:
    async def play() -> None:
        engines = [Engine(name, ScriptedBackend()) for name in "abc"]
        slots, most, done = PrioritySlots(engines, "small", 2, reserved=1), 0, 0

        async def one(priority: int, avoid: Engine | None) -> None:
            nonlocal most, done
            async with slots.held(priority, avoid=avoid) as engine:
                assert engine is not avoid
                most = max(most, engine.in_flight["small"])
                await asyncio.sleep(0)
            done += 1

        tasks = [asyncio.create_task(one(priority, (*engines, None)[avoid])) for priority, _, avoid in calls]
        await asyncio.sleep(0)
        for task, (_, cancelled, _) in zip(tasks, calls, strict=True):
            if cancelled:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [result for result in results if isinstance(result, Exception)]
        assert most <= 2
        assert done == sum(result is None for result in results)
        assert [engine.in_flight.total() for engine in engines] == [0, 0, 0]
        assert (slots.running, slots.waiting) == (0, 0)

    asyncio.run(play())
