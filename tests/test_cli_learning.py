"""`tale predict`, `explain` and `learn`: what they say, and what they say when there is nothing yet."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import Outcome
from fakes.gateway import FakeGateway, serving
from fakes.past_attempts import past
from fakes.scripted_pool import ScriptedPool

from tale.ids import new_call_id
from tale.learning.engine_explain import explain
from tale.learning.engine_learner import LearnerStatus
from tale.learning.intent_data import data_folder
from tale.learning.performance_engine import PerformanceEngine
from tale.learning.priors import PRIORS, read_priors
from tale.mcp.http_server import HTTPMCPServer
from tale.models.pool import ModelState
from tale.predictions import EngineVersion, LearningEvent, TaskQuestion
from tale.predictions import Outcome as Truth
from tale.records import ModelCall, Task, TaskStatus
from tale.servers.prediction_link import PredictionLink
from tale.servers.prediction_tools import PredictionTools, add_prediction_tools
from tale.settings import load_settings
from tale.storage.database import Database
from tale.storage.learning_store import LearningStore
from tale.storage.prediction_store import PredictionStore
from tale.storage.rows import values_of
from tale.storage.tables import model_calls
from tale.storage.task_store import TaskStore

Tale = Callable[..., Outcome]


class PlayedServer:
    """A learning server with an engine, or none; None to everything while it is away."""

    def __init__(self, engine: PerformanceEngine | None) -> None:
        self.engine = engine
        self.is_away = False
        self.state = "ready"
        self.last: str | None = None  # came of the last round

    async def ask(self, tool: str, arguments: Mapping[str, Any], *, limit_s: float) -> dict[str, Any] | None:
        if self.is_away:
            return None
        if tool in ("tasks_status", "learn_tasks"):
            version = "v1" if self.engine else None
            last = "waiting: there are 3 answers" if tool == "learn_tasks" else self.last
            return asdict(LearnerStatus(self.state, version, 200, 280, 0.96 if self.engine else None, last))
        key = "prediction" if tool == "predict" else "explanation"
        if self.engine is None:
            return {key: None}
        question = TaskQuestion(**arguments)
        told = self.engine.predict(question, version="v1") if tool == "predict" else explain(self.engine, question)
        return {key: json.loads(json.dumps(asdict(told)))}

    def learnable(self) -> None:
        """Nobody waits for that."""


class LearningGateway(FakeGateway):
    """The fake gateway with the real tools about predictions, over a real database."""

    def __init__(self, home: str, database: Database, server: PlayedServer) -> None:
        super().__init__(home=home)
        self.database = database
        self.learning = server

    def server(self, port: int) -> HTTPMCPServer:
        made = super().server(port)
        pool = ScriptedPool(tokens=9)
        pool.states = (ModelState("small", "ux", "ready"), ModelState("large", "task", "ready"))
        tools = PredictionTools(
            load_settings({"home": self.home}, environment={}, folder=Path(self.home)),
            PredictionLink(self.learning),
            pool=pool,
            tasks=TaskStore(self.database),
            predictions=PredictionStore(self.database),
            learning=LearningStore(self.database),
        )
        add_prediction_tools(made, tools)
        return made


@pytest.fixture(scope="module")
def engine() -> PerformanceEngine:
    return PerformanceEngine(trees=20).fit(past(200))


@pytest.fixture
def played(tale_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LearningGateway]:
    database = Database.open(f"sqlite:///{tmp_path / 'played.db'}")
    gateway = LearningGateway(str(tale_home), database, PlayedServer(None))
    with serving(gateway) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        monkeypatch.setenv("TALE_UX_AGENT_PORT", str(port))
        yield gateway
    asyncio.run(database.close())


def kept_tasks(played: LearningGateway, engine: PerformanceEngine, count: int) -> list[str]:
    """Tasks that were predicted and done; returns their ids."""

    async def keep() -> list[str]:
        tasks, predictions = TaskStore(played.database), PredictionStore(played.database)
        ids: list[str] = []
        for number, row in enumerate(past(count, seed=8)):
            task = Task(str(uuid.uuid4()), row.text, TaskStatus.QUEUED, float(number), expect='{"regex": "x"}')
            await tasks.insert(task)
            await tasks.claim(task.id, expected_attempt=None, now=number + 0.1, max_failures=3)
            expected = engine.predict(TaskQuestion(row.text, 2_048, role="ux"), version="v1")
            await predictions.add(task.id, 1, expected, now=number + 0.2)
            truth = Truth(row.output_tokens, "stop", was_cut=number % 10 == 0, succeeded=number % 2 == 0)
            await tasks.finish(task.id, 1, status=TaskStatus.COMPLETED, now=number + 0.9, truth=truth)
            ids.append(task.id)
        return ids

    return asyncio.run(keep())


async def shadowed(played: LearningGateway) -> None:
    """Have ten tasks that were done both ways, the user's way by a call of 40 tokens."""
    tasks, predictions = TaskStore(played.database), PredictionStore(played.database)
    for task in (await tasks.list(limit=10))[:10]:
        call = ModelCall(
            *(new_call_id(), 1.0, "task", "execute", "large", "scripted"),
            task_id=task.id,
            input_tokens=30,
            output_tokens=10,
            ended_at=2.0,
        )
        await played.database.insert(model_calls, values_of(call))
        await predictions.add_shadow(task.id, succeeded=True, naive_tokens=100, naive_succeeded=True, now=99.0)


def test_predict_says_what_to_expect_and_why(played: LearningGateway, tale: Tale, engine: PerformanceEngine) -> None:
    played.learning.engine = engine
    done = tale("predict", "Explain in detail the history of tea")
    assert done.code == 0
    assert "9 tokens" in done.out and "cut at" in done.out and "with 90%" in done.out
    assert "task model" in done.out and "v1" in done.out and "simple" in done.out
    found = json.loads(tale("predict", "Name the capital of Chad", "--json").out)
    assert found["lower_tokens"] <= found["output_tokens"] <= found["upper_tokens"] <= found["max_output_tokens"]
    assert (found["input_tokens"], found["coverage"], found["version"]) == (9, 0.95, "v1")
    assert found["model"] == {"ux": "small", "task": "large"}[found["role"]]


def test_what_is_like_a_task_is_told_by_its_words(
    played: LearningGateway, tale: Tale, engine: PerformanceEngine
) -> None:
    (task_id,) = kept_tasks(played, engine, 1)
    row, example = past(1, seed=8)[0], read_priors(data_folder() / PRIORS)[0]
    played.learning.engine = PerformanceEngine.from_bytes(engine.to_bytes())
    played.learning.engine.update([replace(row, task_id=known) for known in (example.task_id, task_id)])
    found = json.loads(tale("predict", row.text, "--json").out)
    assert task_id in found["like"] and example.task_id not in found["like"]
    assert found["like_texts"][:2] == [row.text, example.text]
    assert f'"{row.text}"' in tale("predict", row.text).out
    assert f"alike: {row.text}" in tale("explain", task_id).out


def test_predict_says_so_where_nothing_was_learned(played: LearningGateway, tale: Tale) -> None:
    done = tale("predict", "Write a haiku")
    assert done.code == 0
    assert "Tasks go to the task model" in done.out and "tale learn --report" in done.err
    played.learning.is_away = True
    found = json.loads(tale("predict", "Write a haiku", "--json").out)
    assert (found["complexity"], found["output_tokens"], found["role"], found["model"]) == (None, None, "task", "large")
    refused = tale("predict", " ")
    assert refused.code == 2


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("learning", "what comes with tale is being learned, which takes a minute"),
        ("waiting", "no version serves yet"),
        ("failed", "learning failed: the disk is full"),
        ("off", "learning is off, as the disk is full"),
        ("ready", "the learning server did not answer in time"),
    ],
)
def test_why_nothing_is_expected_is_told(played: LearningGateway, tale: Tale, state: str, why: str) -> None:
    played.learning.state, played.learning.last = state, "the disk is full"
    found = json.loads(tale("predict", "Write a haiku", "--json").out)
    assert found["reason"] == f"Nothing is expected: {why}. Tasks go to the task model."


def test_explain_says_what_mattered_and_what_came(
    played: LearningGateway, tale: Tale, engine: PerformanceEngine
) -> None:
    played.learning.engine = engine
    first, second = kept_tasks(played, engine, 2)
    done = tale("explain", first)
    assert done.code == 0
    for told in ("Attempt 1", "cut at the limit and gone on with, succeeded", "What matters", " alike", "weighted"):
        assert told in done.out
    found = json.loads(tale("explain", second, "--json").out)
    assert found["attempts"][0]["outcome"]["succeeded"] is False
    assert {each["role"] for each in found["explanation"]["alternatives"]} == {"ux", "task"}
    assert found["note"] is None


def test_explain_says_what_is_missing(played: LearningGateway, tale: Tale, engine: PerformanceEngine) -> None:
    (known,) = kept_tasks(played, engine, 1)
    task = Task(str(uuid.uuid4()), "Write a haiku", TaskStatus.QUEUED, 1.0)
    asyncio.run(TaskStore(played.database).insert(task))
    assert "nothing has been learned yet" in tale("explain", task.id).err
    assert "does not tell why" in tale("explain", known).err
    unknown = tale("explain", str(uuid.uuid4()))
    assert unknown.code == 2
    assert "No such task" in unknown.err


def test_the_report_shows_windows_versions_and_what_happened(
    played: LearningGateway, tale: Tale, engine: PerformanceEngine
) -> None:
    played.learning.engine = engine
    kept_tasks(played, engine, 40)
    version = EngineVersion("v1", 1.0, "serving", 60, 50.0, "1.9", {}, "loss 0.2 against plain 0.9")
    store = LearningStore(played.database)
    asyncio.run(store.add_version(version, b"x"))
    asyncio.run(store.add_event(LearningEvent("e1", 2.0, "drifted", "70% stayed within limits meant for 95%", "v1")))
    asyncio.run(shadowed(played))
    done = tale("learn", "--report")
    assert done.code == 0
    assert (
        "verified: 60% (60% to 60%), and 0.0 points of success lost (-16.3 to 16.3), on 10 tasks done both" in done.out
    )
    assert "estimated: " in done.out
    assert "200 answers are known" in done.out and "loss 0.2 against plain 0.9" in done.out
    assert "drifted: 70%" in done.err
    found = json.loads(tale("learn", "--report", "--json").out)
    assert [window["answers"] for window in found["windows"]] == [10, 10, 10, 10]
    first = found["windows"][0]
    assert (first["cut"], first["small_share"], first["coverage"]) == (0.1, 1.0, 0.95)
    assert first["wasted_tokens"] > 0 and first["mean_error_tokens"] < found["windows"][1]["plain_error_tokens"]


def test_the_report_of_an_empty_history_says_what_to_run(played: LearningGateway, tale: Tale) -> None:
    done = tale("learn", "--report")
    assert 'tale submit "Write a haiku"' in done.out and "No version serves yet" in done.out
    assert "200 answers are known; learning goes on at 280." in done.out
    played.learning.state = "off"
    assert "200 answers are known." in tale("learn", "--report").out
    played.learning.is_away = True
    assert "does not answer" in tale("learn", "--report").out


def test_learn_says_what_came_of_it_or_who_does_not_answer(played: LearningGateway, tale: Tale) -> None:
    assert "waiting: there are 3 answers" in tale("learn").out
    assert json.loads(tale("learn", "--json").out)["state"] == "ready"
    played.learning.is_away = True
    done = tale("learn")
    assert done.code == 3 and "does not answer" in done.err
