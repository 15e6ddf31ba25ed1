"""Several engines of the same models: each call goes where it is served best, and a bad engine is left alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.engine_host import EngineHost, hosted
from fakes.engine_script import EngineScript
from fakes.ollama_server import OllamaServer
from fakes.openai_server import OpenAIServer

from tale.exceptions import ModelException, NetworkException
from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.models.backend import Backend
from tale.models.engine import Engine, EngineState
from tale.models.engine_group import EngineGroup
from tale.models.model_pool import ModelPool
from tale.models.ollama_backend import OllamaBackend
from tale.models.openai_backend import OpenAIBackend
from tale.records import CallContext, ChatRequest, Delta, Message, ModelCall, Priority, Reply
from tale.storage.call_store import CallStore
from tale.storage.database import Database

REQUEST = ChatRequest("", (Message("user", "Hi"),), max_tokens=50)
CHAT = CallContext("ux", "chat", Priority.CHAT)
TASK = CallContext("task", "execute", Priority.TASK, task_id="t", attempt=1)


class Hesitant(EngineScript):
    """Waits before its first word, as an engine that reads a long prompt."""

    async def between_words(self, number: int) -> None:
        self.started.set()
        if self.gate is not None and number == 0:
            await self.gate.wait()


async def until(is_so: Callable[[], Any]) -> None:
    """Return when something is so."""
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0)


class Bench:
    """A started pool on two played engines, its calls in a real database."""

    def __init__(
        self,
        hosts: list[EngineHost],
        calls: CallStore,
        *,
        first_rest_s: float = 0.01,
        timeout_s: float = 5.0,
        **settings: Any,
    ) -> None:
        self.timeout_s = timeout_s
        self.one, self.other = hosts
        self.first, self.second = self.one.server.script, self.other.server.script
        self.calls = calls
        self.engines = [Engine(host.server.url, self._backend(host), first_rest_s=first_rest_s) for host in hosts]
        chosen: dict[str, Any] = {"ux_model": "small", "task_model": "large", "memory_limit_bytes": 10_000} | settings
        self.pool = ModelPool(
            EngineGroup(self.engines, check_interval_s=0.01),
            tracker=TokenTracker(Recorder(calls)),
            provider_reason="It is a test.",
            routing="auto",
            monitor_interval_s=60.0,
            **chosen,
        )

    def _backend(self, host: EngineHost) -> Backend:
        if isinstance(host.server, OllamaServer):
            return OllamaBackend(host.server.url, timeout_s=5.0, context_tokens={"small": 4_096, "large": 4_096})
        return OpenAIBackend(host.server.base_url, timeout_s=self.timeout_s)

    def begin(self, context: CallContext = CHAT) -> asyncio.Task[Any]:
        return asyncio.create_task(self.pool.complete(REQUEST, context))

    async def pair(self) -> list[str]:
        """The texts of two calls at once: with one slot an engine each is asked, if it is not left alone."""
        return [reply.text for reply in await asyncio.gather(self.begin(), self.begin())]

    async def state(self, host: EngineHost) -> EngineState:
        return next(engine for engine in (await self.pool.status()).engines if engine.name == host.server.url)

    async def until(self, host: EngineHost, state: str) -> EngineState:
        async with asyncio.timeout(10):
            while (found := await self.state(host)).state != state:
                await asyncio.sleep(0)
        return found

    async def ready(self) -> None:
        """Return when both engines serve both models."""
        await self.pool.complete(REQUEST, TASK)
        await self.pool.complete(REQUEST, CHAT)
        for host in (self.one, self.other):
            engine = next(engine for engine in self.engines if engine.name == host.server.url)
            await until(lambda engine=engine: engine.ready == {"small", "large"})
        self.first.requests.clear()
        self.second.requests.clear()

    async def rows(self) -> list[ModelCall]:
        return await self.calls.calls()


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    benches: list[Bench] = []
    hostings: list[Any] = []

    async def make(*servers: Any, **settings: Any) -> Bench:
        hosting = hosted(*(servers or (OpenAIServer(), OpenAIServer())))
        hostings.append(hosting)
        bench = Bench(await hosting.__aenter__(), CallStore(database), **settings)
        benches.append(bench)
        await bench.pool.start()
        return bench

    yield make
    for bench in benches:
        await bench.pool.close()
    for hosting in hostings:
        await hosting.__aexit__(None, None, None)
    await database.close()


async def test_calls_spread_over_the_engines(start: Start) -> None:
    bench = await start(slots={"task": 2})
    await bench.ready()
    bench.first.gate = bench.second.gate = gate = asyncio.Event()
    calls = [bench.begin(TASK) for _ in range(4)]
    await until(lambda: len(bench.first.requests) + len(bench.second.requests) == 4)
    assert [len(bench.first.requests), len(bench.second.requests)] == [2, 2]
    assert [(await bench.state(host)).running for host in (bench.one, bench.other)] == [2, 2]
    gate.set()
    await asyncio.gather(*calls)


async def test_an_engine_that_is_stuck_holds_up_its_own_call_alone(start: Start) -> None:
    bench = await start(OpenAIServer(Hesitant()), OpenAIServer(Hesitant()), slots={"ux": 1})
    await bench.ready()
    bench.first.gate = bench.second.gate = gate = asyncio.Event()
    stuck = bench.begin()
    await until(lambda: bench.first.requests + bench.second.requests)
    held, free = (bench.first, bench.second) if bench.first.requests else (bench.second, bench.first)
    free.gate = None
    for _ in range(5):
        await bench.pool.complete(REQUEST, CHAT)
    assert (len(held.requests), len(free.requests)) == (1, 5)
    gate.set()
    await stuck


async def test_no_engine_is_given_more_than_its_slots_and_the_wait_is_queue_time(start: Start) -> None:
    bench = await start(slots={"task": 1})
    await bench.ready()
    bench.first.gate = bench.second.gate = gate = asyncio.Event()
    calls = [bench.begin(TASK) for _ in range(3)]
    await until(lambda: bench.first.requests and bench.second.requests)
    large = next(model for model in (await bench.pool.status()).models if model.name == "large")
    assert (large.running, large.waiting) == (2, 1)
    gate.set()
    await asyncio.gather(*calls)
    waited, *others = sorted((row.queue_s or 0.0 for row in (await bench.rows())[:3]), reverse=True)
    assert waited > sum(others)


async def test_a_call_whose_engine_dies_before_the_first_token_is_served_by_the_other(start: Start) -> None:
    bench = await start(OpenAIServer(Hesitant()), OpenAIServer(Hesitant()))
    await bench.ready()
    bench.first.gate = bench.second.gate = asyncio.Event()
    call = bench.begin()
    await until(lambda: bench.first.requests + bench.second.requests)
    used, spare = (bench.one, bench.other) if bench.first.requests else (bench.other, bench.one)
    spare.server.script.gate = None
    await used.die()
    assert (await call).text == "Hello world!"
    assert len(spare.server.script.requests) == 1
    row = (await bench.rows())[0]
    assert (row.error_class, row.engine) == (None, spare.server.url)
    resting = await bench.state(used)
    assert resting.state == "resting"
    assert used.server.url in str(resting.error)


async def test_a_call_whose_engine_says_nothing_for_too_long_is_served_by_the_other(start: Start) -> None:
    bench = await start(OpenAIServer(Hesitant()), OpenAIServer(Hesitant()), timeout_s=0.5)
    await bench.ready()
    bench.first.gate = bench.second.gate = asyncio.Event()
    call = bench.begin()
    await until(lambda: bench.first.requests + bench.second.requests)
    spare = bench.second if bench.first.requests else bench.first
    spare.gate = None
    assert (await call).text == "Hello world!"
    assert len(bench.first.requests) == len(bench.second.requests) == 1


async def test_whatever_an_engine_does_each_call_ends_once_and_no_slot_is_lost(start: Start) -> None:
    bench = await start(slots={"task": 2})
    await bench.ready()
    before = len(await bench.rows())
    calls = [bench.begin(TASK) for _ in range(60)]
    for number in range(3):
        asked = len(bench.first.requests)
        await until(lambda asked=asked: len(bench.first.requests) > asked or all(call.done() for call in calls))
        await bench.one.die()
        calls[20 * number + 10].cancel()
        await bench.one.start()
        await bench.until(bench.one, "ready")
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(end) for end in ends} <= {Reply, NetworkException, asyncio.CancelledError}
    assert sum(isinstance(end, Reply) for end in ends) > len(calls) / 2
    assert [(await bench.state(host)).running for host in (bench.one, bench.other)] == [0, 0]
    assert [model.waiting for model in (await bench.pool.status()).models] == [0, 0]
    rows = await bench.rows()
    assert len(rows) - before == len([end for end in ends if not isinstance(end, asyncio.CancelledError)]) + sum(
        row.finish_reason == "cancelled" for row in rows
    )
    assert all(row.ended_at is not None for row in rows)


async def test_an_engine_that_died_gets_no_calls_and_comes_back_by_itself(start: Start) -> None:
    bench = await start(slots={"ux": 1})
    await bench.ready()
    await bench.one.die()
    for _ in range(3):
        assert await bench.pair() == ["Hello world!"] * 2
    assert (len(bench.first.requests), len(bench.second.requests)) == (0, 6)
    await bench.one.start()
    await bench.until(bench.one, "ready")
    await bench.pair()
    assert (len(bench.first.requests), len(bench.second.requests)) == (1, 7)


async def test_after_text_has_come_no_other_engine_is_asked(start: Start) -> None:
    bench = await start()
    await bench.ready()
    bench.first.break_after = bench.second.break_after = 1
    texts = list[str]()
    with pytest.raises(NetworkException):
        async for event in bench.pool.chat(REQUEST, CHAT):
            if isinstance(event, Delta):
                texts.append(event.text)
    assert texts == ["Hello"]
    assert len(bench.first.requests) + len(bench.second.requests) == 1


async def test_an_engine_that_answers_503_is_left_alone_after_three_calls(start: Start) -> None:
    bench = await start(first_rest_s=3_600.0, slots={"ux": 1})
    await bench.ready()
    bench.first.refuse = (503, {"error": {"message": "overloaded"}})
    for _ in range(6):
        assert await bench.pair() == ["Hello world!"] * 2
    assert (len(bench.first.requests), len(bench.second.requests)) == (3, 12)
    resting = await bench.state(bench.one)
    assert (resting.state, "overloaded" in str(resting.error)) == ("resting", True)


async def test_an_engine_that_stops_answering_503_is_taken_again(start: Start) -> None:
    bench = await start(slots={"ux": 1})
    await bench.ready()
    bench.first.refuse = (503, "busy")
    while len(bench.first.requests) < 3:
        with suppress(ModelException):  # of a call that it refused twice, having answered a look in between
            await bench.pair()
    refused = len(bench.first.requests)
    bench.first.refuse = None
    await bench.until(bench.one, "ready")
    await bench.pair()
    assert len(bench.first.requests) == refused + 1
    assert (await bench.state(bench.one)).error is None


async def test_a_request_that_is_refused_for_its_own_sake_is_not_taken_to_the_other(start: Start) -> None:
    bench = await start()
    await bench.ready()
    bench.first.refuse = bench.second.refuse = (400, {"error": {"message": "no such option"}})
    with pytest.raises(ModelException, match="no such option"):
        await bench.pool.complete(REQUEST, CHAT)
    assert len(bench.first.requests) + len(bench.second.requests) == 1
    assert [(await bench.state(host)).state for host in (bench.one, bench.other)] == ["ready", "ready"]


async def test_an_engine_without_the_model_is_never_asked_until_it_has_it(start: Start) -> None:
    bench = await start(OpenAIServer(EngineScript(models=["other"])), OpenAIServer(), slots={"ux": 1})
    await bench.pair()
    assert not bench.first.requests
    lacking = await bench.until(bench.one, "lacking")
    assert lacking.models == ()
    assert "does not serve 'small'" in str(lacking.error)
    bench.first.models.append("small")
    assert (await bench.until(bench.one, "ready")).models == ("small",)
    await bench.pair()
    assert len(bench.first.requests) == 1


async def test_an_engine_that_lost_the_model_is_passed_over_from_the_first_refusal(start: Start) -> None:
    bench = await start(slots={"ux": 1})
    await bench.ready()
    bench.first.models.clear()
    bench.first.refuse = (404, {"error": {"message": "The model does not exist."}})
    for _ in range(3):
        assert await bench.pair() == ["Hello world!"] * 2
    assert (len(bench.first.requests), len(bench.second.requests)) == (1, 6)


async def test_when_all_engines_are_down_one_sentence_names_each(start: Start) -> None:
    bench = await start()
    await bench.ready()
    for host in (bench.one, bench.other):
        await host.die()
    with pytest.raises((ModelException, NetworkException)) as caught:
        await bench.pool.complete(REQUEST, CHAT)
    one, other = bench.one.server.base_url, bench.other.server.base_url
    model = "large" if "large" in caught.value.message else "small"  # the other one was to stand in
    assert caught.value.message == (
        f"None of the engines serves {model} now: the engine at {one} does not answer, "
        f"the engine at {other} does not answer; mend one of them, or name others in openai_url."
    )
    assert (await bench.rows())[0].error == caught.value.message
    await bench.other.start()
    await bench.until(bench.other, "ready")
    assert (await bench.pool.complete(REQUEST, CHAT)).text == "Hello world!"


async def test_engines_that_are_down_at_the_start_are_used_once_they_are_there(start: Start) -> None:
    bench = await start(first_retry_s=3_600.0)
    await bench.one.die()
    await bench.other.die()
    with pytest.raises(ModelException, match="None of the engines"):
        await bench.pool.complete(REQUEST, CHAT)
    await bench.other.start()
    await bench.until(bench.other, "ready")
    assert (await bench.pool.complete(REQUEST, CHAT)).text == "Hello world!"


async def test_calls_that_wait_go_to_an_engine_that_has_come_back(start: Start) -> None:
    bench = await start(slots={"task": 1})
    await bench.ready()
    await bench.one.die()
    bench.second.gate = asyncio.Event()
    calls = [bench.begin(TASK) for _ in range(2)]
    await bench.until(bench.one, "resting")
    await until(lambda: bench.second.requests)
    await bench.one.start()
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(bench.first.requests), len(bench.second.requests)) == (1, 1, 1)
    bench.second.gate.set()
    await asyncio.gather(*calls)


async def test_a_cancelled_call_stops_on_the_engine_that_runs_it(start: Start) -> None:
    bench = await start(slots={"ux": 1})
    await bench.ready()
    bench.first.gate = bench.second.gate = asyncio.Event()
    calls = [bench.begin(), bench.begin()]
    await until(lambda: bench.first.requests and bench.second.requests)
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    lefts = [asyncio.create_task(script.left.wait()) for script in (bench.first, bench.second)]
    await asyncio.wait(lefts, return_when=asyncio.FIRST_COMPLETED)
    assert sum(script.left.is_set() for script in (bench.first, bench.second)) == 1
    bench.first.gate.set()
    assert (await calls[1]).text == "Hello world!"
    for left in lefts:
        left.cancel()
    assert [(await bench.state(host)).running for host in (bench.one, bench.other)] == [0, 0]


async def test_vectors_are_made_by_the_engine_that_is_left(start: Start) -> None:
    bench = await start()
    await bench.ready()
    await bench.one.die()
    for _ in range(4):
        assert (await bench.pool.embed("", ["ab"], CHAT)).rows == [[2.0]]


async def test_several_ollamas_share_the_work(start: Start) -> None:
    bench = await start(OllamaServer(), OllamaServer())
    await bench.ready()
    assert [set(host.server.running) for host in (bench.one, bench.other)] == [{"small", "large"}] * 2
    bench.first.gate = bench.second.gate = gate = asyncio.Event()
    calls = [bench.begin(TASK) for _ in range(2)]
    await until(lambda: bench.first.requests and bench.second.requests)
    gate.set()
    await asyncio.gather(*calls)
    await bench.one.die()
    assert [(await bench.pool.complete(REQUEST, CHAT)).text for _ in range(3)] == ["Hello world!"] * 3
