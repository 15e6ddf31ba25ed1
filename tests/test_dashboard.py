"""Each page of the dashboard shows what the history holds, says what to run where it is empty, and what is broken."""

import asyncio
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import streamlit
import streamlit.config
from fakes.gateway import FakeGateway, serving
from fakes.sample_history import LARGE, SMALL, Sample, keep, sample, seeded
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

from tale.analytics.windows import last_hours
from tale.exceptions import ValidationException
from tale.mcp.http_server import HTTPMCPServer
from tale.records import ModelCall
from tale.storage.database import Database

FOLDER = Path(__file__).parent.parent / "dashboard"
PAGES = ("overview", "latency", "targets", "tokens", "models", "reliability", "calls", "tasks")
WATCHING = PAGES[:-1]
PATIENCE_S = 60

Open = Callable[..., AppTest]


class PredictingGateway(FakeGateway):
    """A gateway that tells beforehand what it knows of a task."""

    async def predict_task(self, text: str) -> dict[str, Any]:
        """What is known."""
        known = {"complexity": "simple", "input_tokens": len(text), "output_tokens": 1_234, "max_output_tokens": 2_048}
        return {**known, "model": "large-model", "role": "task", "reason": "Haikus are short."}

    def server(self, port: int = 0) -> HTTPMCPServer:
        """The server with this tool, too."""
        server = super().server(port)
        server.add_tool(self.predict_task)
        return server


@pytest.fixture
def gateway(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PredictingGateway]:
    fake = PredictingGateway(home=str(tale_home))
    with serving(fake) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        yield fake


@pytest.fixture(autouse=True)
def own_address() -> Iterator[None]:
    """That of dashboard/.streamlit/config.toml, which is not read here."""
    before = streamlit.config.get_option("server.address")
    streamlit.config.set_option("server.address", "127.0.0.1")
    yield
    streamlit.config.set_option("server.address", before)


@pytest.fixture
def look(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a page as a browser would, on the database of a home of its own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    tale_home.mkdir()
    streamlit.cache_data.clear()
    streamlit.cache_resource.clear()

    def opened(page: str, **state: Any) -> AppTest:
        app = AppTest.from_file(str(FOLDER / "pages.py"), default_timeout=PATIENCE_S)
        for name, value in state.items():
            app.session_state[name] = value
        app.run()
        if page != "overview":
            app.switch_page(f"views/{page}.py").run()
        assert [error.value for error in app.exception] == []
        return app

    yield opened
    streamlit.cache_resource.clear()
    for name in ("data", "widgets", "live_chart", "task_view"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sample]:
    """A history that ends now, made once."""
    path = tmp_path_factory.mktemp("history") / "tale.db"
    return path, seeded(f"sqlite:///{path}", now=time.time(), count=300)


@pytest.fixture
def history(kept: tuple[Path, Sample], monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.setenv("TALE_DATABASE_URL", f"sqlite:///{kept[0]}")
    return kept[1]


def words(app: AppTest) -> str:
    """All the text of a page."""
    kinds = (app.markdown, app.caption, app.code, app.error, app.warning, app.header, app.subheader)
    return "\n".join(str(each.value) for kind in kinds for each in kind)


def button(app: AppTest, label: str) -> Button:
    return next(each for each in app.button if each.label == label)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_without_data_says_what_to_run(look: Open, page: str):
    app = look(page)
    assert app.header[0].value
    if page in ("overview", "latency", "tokens", "reliability", "calls", "tasks"):
        assert "tale submit" in words(app)
    if page == "models":
        assert "tale servers start" in words(app)
    assert not app.error


def counts(history: Sample, fits: Callable[[ModelCall], bool] = lambda _: True) -> set[int]:
    """How many such calls a page may tell that was looked at within the last minute: slots end in between."""
    moments = (last_hours(6, time.time() - ago_s) for ago_s in (PATIENCE_S, 0))
    ended = [each for each in history.calls if each.ended_at and fits(each)]
    return {sum(window.since <= each.started_at < window.until for each in ended) for window in moments}


@pytest.mark.parametrize("page", WATCHING)
def test_a_page_tells_how_much_it_looked_at(look: Open, history: Sample, page: str):
    app = look(page, window="6h")
    assert not app.error
    if page == "calls":
        assert len(app.dataframe[0].value) == 50
    else:
        shown = next(each.value for each in app.caption if "read in" in each.value)
        is_told = (lambda each: each.role == "ux") if page == "targets" else lambda _: True
        assert int(shown.split()[0]) in counts(history, is_told)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_says_in_a_sentence_that_the_database_is_broken(look: Open, tale_home: Path, page: str):
    (tale_home / "tale.db").write_text("this is no database " * 500)
    app = look(page)
    assert any("database" in error.value for error in app.error)
    assert "Traceback" not in words(app)


def test_the_cards_tell_the_figures_of_the_window(look: Open, history: Sample):
    metrics = {metric.label: metric for metric in look("overview", window="6h").metric}
    assert int(metrics["Calls"].value) in counts(history)
    failed = counts(history, lambda each: each.error_class == "ModelException")
    share = float(metrics["Failed calls"].value.rstrip("%")) / 100
    assert any(share == pytest.approx(some / whole, abs=1e-4) for some in failed for whole in counts(history))
    assert metrics["First words, p95"].value.endswith("s")
    assert len(metrics) == 6


def test_the_choice_of_a_model_holds_for_all_pages(look: Open, history: Sample):
    app = look("overview", window="6h")
    assert app.selectbox(key="model").options == ["All models", LARGE, SMALL]
    app.selectbox(key="model").select(LARGE).run()
    shown = {metric.label: metric.value for metric in app.metric}
    assert int(shown["Calls"]) in counts(history, lambda each: each.model == LARGE)
    app.switch_page("views/calls.py").run()
    assert set(app.dataframe[0].value["model"]) == {LARGE}


def test_calls_are_filtered_and_paged(look: Open, history: Sample):
    app = look("calls", window="6h")
    first = app.dataframe[0].value
    button(app, "Older").click().run()
    second = app.dataframe[0].value
    assert second["started_at"].max() <= first["started_at"].min()
    button(app, "Newest").click().run()
    assert app.dataframe[0].value.equals(first)
    app.selectbox(key="outcome").select("failed").run()
    failed = sum(each.error_class == "ModelException" for each in history.calls)
    assert (len(app.dataframe[0].value), set(app.dataframe[0].value["outcome"])) == (failed, {"failed"})


def test_targets_that_are_missed_come_with_what_to_do(look: Open, tale_home: Path):
    """The chat's first words take two seconds."""
    now = time.time()
    made = sample(count=200, now=now)
    slow = [replace(each, time_to_first_token_s=each.ended_at and 2.0) for each in made.calls]
    asyncio.run(keep(f"sqlite:///{tale_home}/tale.db", Sample(slow, made.tasks, made.attempts), now=now))
    app = look("targets")
    rows = app.dataframe[0].value.set_index("target")
    assert rows.loc["First words of the chat", "stands"] == "✗ missed"
    assert rows.loc["Recovery after a crash", "stands"] == "not measured here"
    assert any("First words of the chat" in warning.value for warning in app.warning)


def test_a_task_is_handed_in_watched_and_its_result_shown(look: Open, gateway: FakeGateway, tale_home: Path):
    app = look("submit")
    app.text_area(key="text").set_value("Write a haiku.").run()
    button(app, "Submit").click().run()
    assert [asked["text"] for asked in gateway.asked("submit_task")] == ["Write a haiku."]
    assert "1,234" in words(app) and "Haikus are short." in words(app)
    assert "print('hello')" in words(app)
    app.query_params["task"] = app.session_state["handed-in"]
    app.switch_page("views/tasks.py").run()
    assert "print('hello')" in words(app)
    button(app, "Close").click().run()
    assert "print('hello')" not in words(app)


def test_a_task_that_runs_can_be_stopped(look: Open, gateway: FakeGateway, tale_home: Path):
    gateway.outcome = {"status": "running", "ended_at": None, "result": None}
    app = look("submit")
    app.text_area(key="text").set_value("Write a long story.").run()
    button(app, "Submit").click().run()
    button(app, "Cancel").click().run()
    assert len(gateway.asked("cancel_task")) == 1


def test_a_refused_task_is_told_in_the_words_of_the_service(look: Open, gateway: FakeGateway, tale_home: Path):
    gateway.refusal = ValidationException("The queue is full; try again in a minute.")
    app = look("submit")
    app.text_area(key="text").set_value("Write.").run()
    button(app, "Submit").click().run()
    assert any("queue is full" in error.value for error in app.error)


def test_where_others_reach_the_dashboard_only_the_key_lets_them_hand_in(
    look: Open, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    streamlit.config.set_option("server.address", "0.0.0.0")
    monkeypatch.setenv("TALE_API_KEY", "a-key-of-this-test")
    app = look("submit")
    app.text_area(key="text").set_value("Write.").run()
    assert button(app, "Submit").disabled
    app.sidebar.text_input[0].set_value("a-key-of-this-test").run()
    assert not button(app, "Submit").disabled


async def test_the_service_is_told_with_its_models(look: Open, gateway: FakeGateway, tale_home: Path):
    await Database.open(f"sqlite:///{tale_home}/tale.db").close()
    assert "service ok" in words(look("overview"))
    rows = look("models").dataframe[0].value
    assert rows["model"].to_list() == ["small-model", "large-model"]


def test_the_dashboard_is_bound_to_this_machine_and_tells_nobody():
    told = tomllib.loads((FOLDER / ".streamlit" / "config.toml").read_text())
    assert told["server"]["address"] == "127.0.0.1"
    assert told["browser"]["gatherUsageStats"] is False


def test_pages_are_short_and_none_is_named_like_a_package():
    assert all(len(path.read_text().splitlines()) <= 60 for path in FOLDER.glob("views/*.py"))
    assert not {path.stem for path in FOLDER.glob("*.py")} & set(sys.stdlib_module_names)
