"""The page Submit: what is known beforehand, one task, a file of them, the queue; and the feed that the pages hear."""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit.config
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes.dashboard_pages import (
    LOOK_INTERVAL_S,
    PATIENCE_S,
    back,
    buttons,
    dashboard,
    looked,
    open_page,
    point_at,
    press,
    service_of,
    words,
)
from fakes.dashboard_pages import held as held_model
from fakes.gateway import FakeGateway, serving
from fakes.in_thread import in_thread
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import Process, rows, settings_for
from streamlit.testing.v1 import AppTest

from tale.exceptions import DatabaseException, ServerException
from tale.mcp.http_server import HTTPMCPServer
from tale.orchestration.task_events import TaskEvents
from tale.orchestration.task_feed import TaskFeed
from tale.orchestration.task_texts import TaskTexts
from tale.records import McpCall, Task, TaskStatus
from tale.servers.task_stream import task_routes
from tale.settings import Settings


class PredictingGateway(FakeGateway):
    """A gateway that has learned."""

    async def predict_task(self, text: str) -> dict[str, Any]:
        """What is expected."""
        known = {"complexity": "simple", "input_tokens": 7, "output_tokens": 1_234, "max_output_tokens": 2_048}
        spread = {"lower_tokens": 900, "upper_tokens": 1_600, "complexity_shares": {"simple": 0.7, "medium": 0.3}}
        return {**known, **spread, "model": "large-model", "role": "task", "reason": f"It is like {text}."}

    def server(self, port: int = 0) -> HTTPMCPServer:
        """The server with this tool, too."""
        server = super().server(port)
        server.add_tool(self.predict_task)
        return server


@pytest.fixture(autouse=True)
def pages(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tale_home.mkdir()
    with dashboard(monkeypatch):
        yield


@pytest.fixture
def settings(tale_home: Path, pages: None, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = settings_for(tale_home)
    point_at(settings, monkeypatch)
    return settings


@pytest.fixture
def process(settings: Settings) -> Iterator[Process]:
    with service_of(settings) as process:
        yield process


def typed(app: AppTest, text: str) -> AppTest:
    return app.text_area(key="text").set_value(text).run()


def submit(app: AppTest) -> AppTest:
    return buttons(app, "Submit")[0].click().run()


def upload(app: AppTest, *lines: object) -> AppTest:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return app.file_uploader[0].set_value(("tasks.jsonl", text.encode(), "application/json")).run()


def stored(settings: Settings) -> list[dict[str, Any]]:
    return rows(settings, "SELECT text, status, priority, timeout_s, expect FROM tasks ORDER BY created_at")


def test_without_a_service_one_sentence_says_what_to_run() -> None:
    app = open_page("submit")
    assert "The service is not running" in words(app) and "tale servers start" in words(app)
    assert not app.text_area


def test_a_service_of_another_home_is_asked_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from feed import Heard, listen
    from service import service

    other = PredictingGateway(home=str(tmp_path / "another"))
    with serving(other) as port:
        for role in ("GATEWAY", "UX_AGENT"):
            monkeypatch.setenv(f"TALE_{role}_PORT", str(port))
        assert "another tale" in words(open_page("chat"))
        for role in ("gateway", "ux_agent"):
            with pytest.raises(ServerException, match=f"another tale .* TALE_{role.upper()}_PORT"):
                service().ask("list_tasks", role)
        heard = Heard("a-task")
        listening = service().begin(listen(service(), heard))
        until(lambda: heard.is_away)
        listening.cancel()
    assert other.calls == []


def test_a_broken_database_ends_no_page(tale_home: Path) -> None:
    (tale_home / "tale.db").write_text("this is no database " * 500)
    assert "Traceback" not in words(open_page("submit"))


def test_what_is_expected_is_told_before_a_task_is_handed_in(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = PredictingGateway(home=str(tale_home))
    with serving(gateway) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        app = typed(open_page("submit"), "a haiku")
        told = words(app)
    for figure in ("simple 70%", "medium 30%", "1,234", "900 to 1,600", "2,048", "large-model", "It is like a haiku."):
        assert figure in told
    assert not gateway.asked("submit_task")


def test_a_task_is_handed_in_with_its_options_watched_and_rated(settings: Settings, process: Process) -> None:
    gate = held_model(process.backend)
    app = typed(open_page("submit"), "Write a haiku")
    assert "Nothing is expected: learning is off." in words(app)
    app.number_input(key="priority").set_value(7)
    app.number_input(key="timeout").set_value(60)
    app.selectbox(key="check").select("a regular expression").run()
    app.text_input(key="rule").set_value("^Hello")
    submit(app)
    looked(app, lambda page: "running" in words(page) and "What is written so far" in str(page))
    gate.set()
    looked(app, lambda page: page.feedback and "Hello world" in words(page) and "completed" in words(page))
    expected = {"priority": 7, "timeout_s": 60, "expect": '{"regex":"^Hello"}', "status": "completed"}
    (row,) = stored(settings)
    assert {**row, "expect": row["expect"].replace(" ", "")} == {"text": "Write a haiku", **expected}
    app.feedback[0].set_value(0).run()
    assert [row["rating"] for row in rows(settings, "SELECT rating FROM feedback")] == ["bad"]
    (task,) = rows(settings, "SELECT id FROM tasks")
    page = open_page("tasks", task=task["id"])
    assert "Hello world" in words(page)


def test_a_task_that_is_handed_in_on_a_paused_page_is_shown_at_once(settings: Settings, process: Process) -> None:
    held_model(process.backend)
    app = press(typed(open_page("submit", live="false"), "Write a haiku"), "Submit")
    assert "**Write a haiku**" in words(app) and "Under way" in words(app)
    assert len(stored(settings)) == 1


def test_a_file_that_was_handed_in_is_followed_after_a_look_at_another_page(
    settings: Settings, process: Process
) -> None:
    app = upload(open_page("submit"), {"text": "one"}, {"text": "two"})
    buttons(app, "Submit 2 tasks")[0].click().run()
    address = app.query_params["batch"]
    back(app, "submit", without="batch")
    assert app.query_params["batch"] == address
    looked(app, lambda page: "2 of 2 tasks have ended" in words(page))
    app.button(key="close-batch").click().run()
    back(app, "submit", without="batch")
    assert "batch" not in app.query_params


def test_a_check_that_is_none_hands_nothing_in(settings: Settings, process: Process) -> None:
    app = typed(open_page("submit"), "Write a haiku")
    app.selectbox(key="check").select("a JSON schema").run()
    app.text_input(key="rule").set_value("{no json")
    submit(app)
    assert any("schema is not JSON" in error.value for error in app.error)
    assert stored(settings) == []


def test_what_waits_and_runs_is_listed_and_can_be_cancelled(settings: Settings, process: Process) -> None:
    from service import service

    held_model(process.backend)
    app = open_page("submit")
    assert "No task waits or runs." in words(app)
    service().ask("submit_task", text="Write a story")
    looked(app, lambda page: len(buttons(page, "Cancel")) >= 1 and "running" in words(page))
    buttons(app, "Cancel")[-1].click().run()
    looked(app, lambda page: not buttons(page, "Cancel") and "No task waits or runs." in words(page))
    assert [row["status"] for row in stored(settings)] == ["cancelled"]


def test_of_a_file_with_wrong_lines_nothing_is_handed_in_unless_that_is_chosen(
    settings: Settings, process: Process
) -> None:
    lines = [{"text": "one"}, "nonsense", {"text": "two", "priority": 3}, {"texts": "three"}]
    app = upload(open_page("submit"), *lines)
    faults = app.dataframe[1].value
    assert faults["line"].to_list() == [2, 4]
    assert "it is not JSON" in faults["reason"][0] and "no option 'texts'" in faults["reason"][1]
    (button,) = buttons(app, "Submit 2 tasks")
    assert button.disabled and stored(settings) == []
    app.checkbox(key="leave-out").check().run()
    buttons(app, "Submit 2 tasks")[0].click().run()
    looked(app, lambda page: "2 of 2 tasks have ended" in words(page))
    assert [(row["text"], row["priority"]) for row in stored(settings)] == [("one", 0), ("two", 3)]
    assert "2 completed" in words(app)


def test_the_same_file_twice_is_the_same_tasks_and_failures_are_told_by_line(
    settings: Settings, process: Process
) -> None:
    lines = [{"text": "one"}, {"text": "two", "expect": {"regex": "never"}}]
    for _ in range(2):
        app = upload(open_page("submit"), *lines)
        buttons(app, "Submit 2 tasks")[0].click().run()
        looked(app, lambda page: "2 of 2 tasks have ended" in words(page))
        assert "1 completed, 1 failed" in words(app)
        failed = app.dataframe[-1].value
        assert failed["line"].to_list() == [2] and failed["reason"][0]
    assert len(stored(settings)) == 2


def test_a_file_that_a_dashboard_before_this_one_handed_in_is_told_of(settings: Settings, process: Process) -> None:
    app = open_page("submit", batch="of-another-process")
    assert "Hand the same file in again" in words(app)
    app.button(key="close-batch").click().run()
    assert "batch" not in app.query_params and "Hand the same file in again" not in words(app)


def test_where_others_reach_the_dashboard_nobody_hands_in_without_the_key(process: Process) -> None:
    streamlit.config.set_option("server.address", "0.0.0.0")
    app = typed(open_page("submit"), "Write a haiku")
    assert buttons(app, "Submit")[0].disabled
    assert app.file_uploader[0].disabled
    assert "One can only look here" in words(app)


def until(condition: Callable[[], Any]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(LOOK_INTERVAL_S)


def test_the_feed_of_a_page_goes_on_through_a_restart_of_the_gateway(settings: Settings) -> None:
    """Its attempt ends with the service; the next one writes something else, which is heard from its first word."""
    from service import service

    with service_of(settings) as first:
        held_model(first.backend)
        task_id = service().ask("submit_task", text="Write a haiku")["id"]
        heard = service().feeds.follow(task_id)
        until(lambda: heard.text == "Hello" and heard.status == "running")
        assert not heard.is_away
    until(lambda: heard.is_away)
    backend = ScriptedBackend()
    backend.words = ["Good", " day", " to", " you"]
    with service_of(settings, backend):
        until(lambda: heard.is_over)
    (row,) = rows(settings, "SELECT status, result, attempt FROM tasks")
    assert (heard.status, heard.text, heard.attempt) == (row["status"], row["result"], row["attempt"])
    assert (heard.text, heard.states[-2:]) == ("Good day to you", ["running", "completed"])
    assert not heard.is_away


def test_what_came_while_a_listener_was_away_is_heard_once_and_whole(settings: Settings, process: Process) -> None:
    from feed import Heard, listen
    from service import service

    gate = held_model(process.backend)
    task_id = service().ask("submit_task", text="Write a haiku")["id"]
    heard = Heard(task_id)
    listening = service().begin(listen(service(), heard))
    until(lambda: heard.text == "Hello")
    listening.cancel()
    service().begin(asyncio.sleep(0.05)).result(PATIENCE_S)  # in its loop, where that is carried out
    gate.set()
    until(lambda: [row["status"] for row in stored(settings)] == ["completed"])
    assert heard.status == "running"
    service().begin(listen(service(), heard)).result(PATIENCE_S)
    assert heard.text == "Hello world"
    assert heard.states[-1] == "completed" and len(heard.states) == len(set(heard.states))


def test_a_gateway_without_its_database_is_away_until_that_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from feed import Heard, listen
    from service import service

    is_back = threading.Event()

    async def read(task_id: str) -> Task:
        if not is_back.is_set():
            raise DatabaseException("There is no connection to the database server.")
        return Task(task_id, "x", TaskStatus.COMPLETED, 1.0, attempt=1, result="Hello")

    async def record(call: McpCall) -> None:
        pass

    application = web.Application()
    application.add_routes(task_routes(TaskFeed(TaskEvents(), TaskTexts(), read), server="a gateway", record=record))
    with in_thread(TestServer(application)) as server:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(server.port))
        heard = Heard(str(uuid.uuid4()))
        listening = service().begin(listen(service(), heard))
        until(lambda: heard.is_away)
        is_back.set()
        listening.result(PATIENCE_S)
    assert (heard.status, heard.text, heard.is_away) == ("completed", "Hello", False)


def test_a_stream_that_breaks_off_after_its_last_event_leaves_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from feed import Heard, listen
    from service import service

    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        told = json.dumps({"status": "completed", "message": "Task completed"})
        await response.write(f"id: 1\nevent: state\ndata: {told}\n\n".encode())
        assert request.transport is not None
        request.transport.close()
        return response

    application = web.Application()
    application.add_routes([web.get("/tasks/{task_id}/events", break_off)])
    with in_thread(TestServer(application)) as server:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(server.port))
        heard = Heard(str(uuid.uuid4()))
        service().begin(listen(service(), heard)).result(PATIENCE_S)
    assert (heard.status, heard.is_away) == ("completed", False)
