"""Which charts stand on which page, by key and title, each of them drawn from what the history holds."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.dashboard_pages import dashboard, open_page, pick
from fakes.gateway import FakeGateway, serving, task
from fakes.learned_history import GIB, MODEL_BYTES, SERVICE_BYTES, keep_learned, keep_watched
from fakes.sample_history import LARGE, SMALL
from streamlit.testing.v1 import AppTest

from tale.mcp.http_server import HTTPMCPServer

Charts = dict[str, dict[str, Any]]

CHARTS = {
    "overview": {
        "overview-latency": "Time of a call, whole: median, p95, p99",
        "overview-first": "Time to first token: median, p95, p99",
        "overview-outcomes": "Calls by outcome",
        "overview-tokens": "Tokens by model",
        "overview-queue": "Tasks waiting and running",
    },
    "latency": {
        "latency-first": "Time to first token: median, p95, p99",
        "latency-rate": "Writing speed: median, p95, p99",
        "latency-whole": "Time of a call, whole: median, p95, p99",
        "latency-heat": "Time of a call, whole: how many calls",
        "latency-parts": "Where the time of a call goes",
        "latency-ecdf-first": "Time to first token: distribution",
        "latency-ecdf": "Time of a call, whole: distribution",
    },
    "targets": {
        "targets-days": "Which days met the targets",
        "targets-burn": "What is left of the allowance",
    },
    "tokens": {
        "tokens-models": "Tokens by model",
        "tokens-kinds": "Tokens read, cached and written",
        "tokens-budgets": "Budgets: used in the period that runs",
    },
    "learning": {
        "learning-error": "Error of predicted lengths",
        "learning-coverage": "Answers within their predicted budget",
        "learning-curve": "Learning curve: mean error of 50 answers",
        "learning-reliability": "Predicted and real success",
        "learning-routes": "Which model does the tasks",
        "learning-regret": "Regret of routing: what the small model wrote in vain",
        "learning-versions": "Versions: loss on later answers",
    },
    "models": {
        "models-memory": "Memory of the models",
        "models-loads": "Waits for a model to be loaded",
        "models-speed": "Writing speed against load",
        "models-rate": "Writing speed: distribution",
        "models-machine": "Memory and processor",
    },
    "reliability": {
        "reliability-outcomes": "Calls by outcome",
        "reliability-rate": "Failed calls",
        "reliability-classes": "Why calls failed",
        "reliability-again": "Tasks that were tried again",
    },
    "calls": {},
    "tasks": {},
}


class ExplainingGateway(FakeGateway):
    """A gateway that tells what mattered for a task."""

    async def explain_task(self, task_id: str) -> dict[str, Any]:
        """What made it longer, and what shorter."""
        parts = [{"name": "asks for a list", "factor": 1.5}, {"name": "short", "factor": 0.8}]
        known = {"parts": parts, "alternatives": [], "like": []}
        return {"task_id": task_id, "text": "Write a haiku.", "attempts": [], "explanation": known, "note": None}

    def server(self, port: int = 0) -> HTTPMCPServer:
        """The server with this tool, too."""
        server = super().server(port)
        server.add_tool(self.explain_task)
        return server


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A history that ends now, in which predictions were made and the machine was watched; its tasks that were done."""
    url, now = f"sqlite:///{tmp_path_factory.mktemp('history')}/tale.db", time.time()
    done = asyncio.run(keep_learned(url, now=now))
    asyncio.run(keep_watched(url, now=now))
    return url, [row["task_id"] for row in done]


@pytest.fixture(autouse=True)
def history(kept: tuple[str, list[str]], tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Pages show it; the ids of its tasks."""
    monkeypatch.setenv("TALE_DATABASE_URL", kept[0])
    with dashboard(monkeypatch):
        yield kept[1]


@pytest.fixture
def gateway(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExplainingGateway]:
    fake = ExplainingGateway(home=str(tale_home))
    with serving(fake) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        yield fake


def charts(app: AppTest) -> Charts:
    """The charts of a page by their keys: the title that a screen reader tells, and what Plotly gets."""
    drawn = [each.proto for each in app.get("bidi_component") if each.proto.json]
    return {each.id.split("-", 2)[2]: json.loads(each.json) for each in drawn}


def titles(drawn: Charts) -> dict[str, str]:
    return {key: told["title"] for key, told in drawn.items()}


def traces(drawn: Charts, key: str) -> list[dict[str, Any]]:
    return json.loads(drawn[key]["figure"])["data"]


@pytest.mark.parametrize("page", CHARTS)
def test_the_charts_of_a_page_stand_there_and_show_something(page: str) -> None:
    drawn = charts(open_page(page, window="6h"))
    assert titles(drawn) == CHARTS[page]
    assert [key for key in drawn if not traces(drawn, key)] == []


def test_a_followed_task_shows_what_its_calls_did(gateway: ExplainingGateway, history: list[str]) -> None:
    followed = history[3]
    gateway.tasks[followed] = task("Write a haiku.", id=followed)
    drawn = charts(open_page("tasks", window="6h", task=followed))
    assert titles(drawn) == {f"waterfall-{followed}": "What its calls did"}
    assert "writing" in [trace.get("name") for trace in traces(drawn, f"waterfall-{followed}")]


def test_a_task_that_is_explained_shows_what_mattered(gateway: ExplainingGateway) -> None:
    app = pick(open_page("learning", window="6h"), "predicted", 10)
    key = f"parts-{app.session_state['explained-task']}"
    drawn = charts(app)
    assert titles(drawn) == {**CHARTS["learning"], key: "What matters for its length"}
    assert {name for trace in traces(drawn, key) for name in trace["y"]} == {"asks for a list", "short"}


def test_memory_and_processor_are_drawn_as_the_monitor_saw_them() -> None:
    """The large model was loaded half way."""
    drawn = charts(open_page("models", window="6h"))
    memory = {trace["name"]: trace["y"] for trace in traces(drawn, "models-memory")}
    assert {name: (values[0], values[-1]) for name, values in memory.items()} == {SMALL: (5, 5), LARGE: (0, 9)}
    machine = {trace["name"]: trace["y"] for trace in traces(drawn, "models-machine")}
    assert machine["models"][-1] == sum(MODEL_BYTES.values()) / GIB
    assert set(machine["service"]) == {SERVICE_BYTES / GIB}
    assert all(0.1 <= share <= 0.7 for share in machine["processor"]) and set(machine) >= {"models", "service"}
