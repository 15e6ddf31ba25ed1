"""A service with a real learning server: it learns from the tasks that were done, and the next ones go by that."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fakes.scripted_backend import ScriptedBackend
from fakes.scripted_pool import ScriptedPool
from fakes.servers import LEARNING_PATIENCE_S, PATIENCE_S, rows, running, settings_for, until

from tale.learning.engine_learner import LearnerStatus
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer
from tale.models.backend import ChatStream
from tale.models.pool import ModelState, PoolStatus
from tale.predictions import Prediction, TaskQuestion
from tale.records import ChatRequest
from tale.servers.learning_link import FAILURE_LIMIT, LearningLink
from tale.servers.learning_tools import add_task_learning_tools
from tale.servers.prediction_link import PredictionLink
from tale.servers.role_models import LIMIT_S, RoleModels

LENGTHS = {"haiku": 3, "essay": 60}
THINGS = ("rain", "cats", "tea", "wood", "chess", "salt")


class Writer(ScriptedBackend):
    """Writes as many words as a task's kind of text has, and no more than it may."""

    async def chat(self, request: ChatRequest) -> ChatStream:
        text = request.messages[-1].content
        count = next((length for kind, length in LENGTHS.items() if kind in text), 1)
        self.words = ["word "] * min(count + len(text) % 2, request.max_tokens or count)
        async for event in super().chat(request):
            yield event


@dataclass
class PlayedLink:
    """Answers what it was told to, and keeps what it was asked."""

    answer: dict[str, Any] | None = None
    asked: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    async def ask(self, tool: str, arguments: Mapping[str, Any], *, limit_s: float) -> dict[str, Any] | None:
        self.asked.append((tool, arguments))
        return self.answer

    def learnable(self) -> None:
        """Nobody learns."""


async def learned(client: HTTPMCPClient) -> dict[str, Any]:
    """Hand in two dozen pairs of tasks, and have them learned from."""

    async def done(text: str) -> None:
        task = await client.call_tool("submit_task", {"text": text})
        await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": PATIENCE_S})

    for number in range(24):
        thing = f"{THINGS[number % len(THINGS)]} {number}"
        await asyncio.gather(done(f"Write a haiku about {thing}"), done(f"Write an essay about {thing}"))
    return await client.call_tool("learn_from_tasks", {})


async def test_a_service_learns_from_its_tasks_and_predicts_the_next_ones(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, learning="on", task_slots=2)
    async with running(settings, backend=Writer()) as process:
        await process.shared.learning.start()
        process.stack.push_async_callback(process.shared.learning.stop)
        client = await process.client()

        async def answers() -> bool:
            return (await client.call_tool("get_learning_report", {}))["status"] is not None

        await until(answers, patience_s=LEARNING_PATIENCE_S)
        status = await learned(client)
        assert str(status["last"]).startswith("promoted")
        short = await client.call_tool("predict_task", {"text": "Write a haiku about cats"})
        long = await client.call_tool("predict_task", {"text": "Write an essay about cats"})
        assert short["output_tokens"] < 10 < 40 < long["output_tokens"]
        assert (short["version"], short["model"]) == (status["version"], "large")
        task = await process.done("Write a haiku about cats")
        written = task["usage"]["output_tokens"]
        (kept,) = rows(settings, "SELECT * FROM predictions WHERE task_id = ?", task["id"])
        assert (kept["version"], kept["true_output_tokens"]) == (status["version"], written)
        assert kept["cap_tokens"] == process.backend.requests[-1].max_tokens < 2_048
        told = await client.call_tool("explain_task", {"task_id": task["id"]})
        assert told["attempts"][0]["outcome"]["output_tokens"] == written
        assert told["explanation"]["parts"] and told["note"] is None


async def test_nothing_is_expected_while_the_learning_server_is_away(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as process:
        client = await process.client()
        task = await process.done("Write a haiku")
        assert (task["status"], task["role"]) == ("completed", "task")
        assert rows(process.settings, "SELECT * FROM predictions") == []
        report = await client.call_tool("get_learning_report", {})
        empty = {"windows": [], "versions": [], "events": [], "verified": None, "estimated": None}
        assert report == {"status": None, **empty}
        assert (await client.call_tool("explain_task", {"task_id": task["id"]}))["explanation"] is None


async def test_answers_that_cannot_be_understood_count_as_none() -> None:
    question = TaskQuestion("Write a haiku", 100, has_check=True)
    for answer in (None, {}, {"prediction": None}, {"prediction": {"role": "ux"}}, {"prediction": {"role": "king"}}):
        link = PlayedLink(answer)
        assert await PredictionLink(link).predict(question) is None
        assert link.asked[0][1]["has_check"] is True


async def test_the_models_that_fill_the_roles_are_told_with_the_question() -> None:
    pool, link, now = ScriptedPool(), PlayedLink(), [0.0]
    models = RoleModels(pool, timer=lambda: now[0])
    question = TaskQuestion("Write a haiku", 100)

    async def told() -> tuple[object, ...]:
        await PredictionLink(link, models).predict(question)
        return tuple(link.asked[-1][1][name] for name in ("ux_model", "task_model", "small_cost"))

    assert await told() == (None, None, None)
    pool.states = (ModelState("qwen2.5:7b", "ux", "ready"), ModelState("qwen2.5:14b", "task", "ready"))
    assert await told() == ("qwen2.5:7b", "qwen2.5:14b", 0.516)
    pool.states = (ModelState("qwen2.5:7b", "ux", "ready"),)
    assert await told() == ("qwen2.5:7b", "qwen2.5:14b", 0.516)
    now[0] = 61.0
    assert await told() == ("qwen2.5:7b", "qwen2.5:7b", 1.0)
    await PredictionLink(link, RoleModels(pool, small_cost=0.1)).explain(question)
    assert (link.asked[-1][0], link.asked[-1][1]["task_model"]) == ("explain", "qwen2.5:7b")
    pool.states = (ModelState("mini", "ux", "ready"), ModelState("large", "task", "ready"))
    assert await PredictionLink(link, RoleModels(pool, small_cost=0.1)).small_cost() == 0.1


async def test_what_was_learned_of_instructions_and_limits_can_be_left_out() -> None:
    expected = Prediction("v1", "story", "simple", {}, 20, 10, 30, 0.95, "task", "", cap_tokens=512)
    question, usual, bare = TaskQuestion("Write a haiku", 100), PlayedLink(), PlayedLink()
    usual.answer = bare.answer = {"prediction": asdict(expected)}
    assert await PredictionLink(usual).predict(question) == expected
    without = PredictionLink(bare, keeps_instructions=True, has_limits=False)
    assert await without.predict(question) == replace(expected, cap_tokens=None)
    await without.explain(question)
    assert [each[1]["keeps_instructions"] for each in (*usual.asked, *bare.asked)] == [False, True, True]


async def test_a_pool_that_does_not_answer_keeps_no_task_waiting() -> None:
    link, pool = PlayedLink(), HeldPool()
    models = RoleModels(pool, small_cost=0.1)
    assert await PredictionLink(link, models).predict(TaskQuestion("Write a haiku", 100)) is None
    assert (link.asked[0][1]["task_model"], link.asked[0][1]["small_cost"]) == (None, 0.1)
    await models.stop()
    assert pool.cancelled == 1


async def test_a_pool_that_answers_late_is_asked_once_and_only_the_first_task_waits() -> None:
    link, pool, now = PlayedLink(), HeldPool(), [0.0]
    pool.states = (ModelState("qwen2.5:7b", "ux", "ready"), ModelState("qwen2.5:14b", "task", "ready"))
    link_of_pool = PredictionLink(link, RoleModels(pool, timer=lambda: now[0]))

    async def told() -> tuple[object, ...]:
        await link_of_pool.predict(TaskQuestion("Write a haiku", 100))
        return tuple(link.asked[-1][1][name] for name in ("ux_model", "task_model", "small_cost"))

    assert [await told() for _ in range(3)] == [(None, None, None)] * 3
    pool.gate.set()
    assert await link_of_pool.small_cost() == 0.516  # whoever is shown it waits
    assert (await told(), pool.asked) == (("qwen2.5:7b", "qwen2.5:14b", 0.516), 1)
    pool.gate.clear()
    pool.states, now[0] = (ModelState("qwen2.5:7b", "ux", "ready"),), 61.0
    began = asyncio.get_running_loop().time()
    assert [await told() for _ in range(10)] == [("qwen2.5:7b", "qwen2.5:14b", 0.516)] * 10
    assert asyncio.get_running_loop().time() - began < 10 * LIMIT_S
    pool.gate.set()
    assert await link_of_pool.small_cost() == 1.0
    assert (await told(), pool.asked, pool.cancelled) == (("qwen2.5:7b", "qwen2.5:7b", 1.0), 2, 0)


class HeldPool(ScriptedPool):
    """Says how it stands when it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked = self.cancelled = 0

    async def status(self) -> PoolStatus:
        self.asked += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await super().status()


class BusyLearning:
    """Answers tasks too late, and takes its time for people."""

    def __init__(self) -> None:
        self.predictions = 0

    async def health(self) -> dict[str, Any]:
        """Be well."""
        return {"status": "ok"}

    async def predict(self) -> dict[str, Any]:
        """Take longer than a task waits."""
        self.predictions += 1
        await asyncio.sleep(0.1)
        return {}

    async def tasks_status(self) -> dict[str, Any]:
        """Take longer than a task waits, too."""
        await asyncio.sleep(0.1)
        return {"version": 3}


class PlayedLearner:
    """Expects the same of every task, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[TaskQuestion] = []

    def predict(self, question: TaskQuestion) -> Prediction:
        self.asked.append(question)
        return Prediction("v1", "story", "simple", {}, 20, 10, 30, 0.95, "task", "", cap_tokens=512)

    def status(self) -> LearnerStatus:
        return LearnerStatus("ready", "v1", 60, 100, None, None)


async def test_settings_reach_the_question_and_what_is_made_of_the_answer(tmp_path: Path) -> None:
    learner = PlayedLearner()
    server = HTTPMCPServer("played", version="1", port=0, health=BusyLearning().health)
    add_task_learning_tools(server, learner)
    await server.start()
    address = {"learning": "on", "learning_url": f"http://127.0.0.1:{server.port}"}
    off = {"learned_instructions": "off", "learned_limits": "off", "small_cost": 0.4}
    try:
        for name, chosen in (("usual", {}), ("off", off)):
            async with running(settings_for(tmp_path / name, **address, **chosen), backend=Writer()) as process:
                await process.shared.learning.start()
                process.stack.push_async_callback(process.shared.learning.stop)
                link = process.shared.learning
                await until(lambda link=link: link.ask("tasks_status", {}, limit_s=5.0))
                limits: list[int | None] = []
                asked = len(learner.asked)
                while asked == len(learner.asked) or (not chosen and limits[-1] != 512):  # an answer may come too late
                    await process.done("Write a haiku about tea")
                    limits.append(process.backend.requests[-1].max_tokens)
                assert limits[-1] == (2_048 if chosen else 512)
    finally:
        await server.stop()
    told = [(each.ux_model, each.task_model, each.small_cost, each.keeps_instructions) for each in learner.asked]
    assert set(told) == {("small", "large", 0.32, False), ("small", "large", 0.4, True)}


async def test_who_waits_longer_than_tasks_do_is_answered_by_a_busy_server(tmp_path: Path) -> None:
    busy = BusyLearning()
    server = HTTPMCPServer("busy", version="1", port=0, health=busy.health)
    server.add_tool(busy.predict)
    server.add_tool(busy.tasks_status)
    await server.start()
    link = LearningLink(settings_for(tmp_path, learning="on", learning_url=f"http://127.0.0.1:{server.port}"))
    await link.start()
    try:
        await until(lambda: link.ask("tasks_status", {}, limit_s=5.0))
        assert [await link.ask("predict", {}, limit_s=0.05) for _ in range(8)] == [None] * 8
        assert busy.predictions == FAILURE_LIMIT  # then it was left alone
        assert await link.ask("tasks_status", {}, limit_s=5.0) == {"version": 3}
    finally:
        await link.stop()
        await server.stop()


async def test_a_link_without_a_server_answers_nothing_at_once(tmp_path: Path) -> None:
    link = LearningLink(settings_for(tmp_path))
    assert await link.ask("predict", {}, limit_s=1.0) is None
    named = LearningLink(settings_for(tmp_path, learning="on", learning_url="http://127.0.0.1:9"))
    await named.start()
    try:
        assert [await named.ask("tasks_status", {}, limit_s=0.5) for _ in range(5)] == [None] * 5
    finally:
        await named.stop()
