"""Each page of the dashboard shows what the history holds, says what to run where it is empty, and what is broken."""

import asyncio
import json
import random
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
from fakes.dashboard_pages import FOLDER, PATIENCE_S, pick, words
from fakes.gateway import FakeGateway, serving
from fakes.sample_history import LARGE, SMALL, Sample, call, keep, sample, seeded
from sqlalchemy import insert
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

from tale.analytics import open_history
from tale.analytics.windows import last_hours
from tale.exceptions import ValidationException
from tale.mcp.http_server import HTTPMCPServer
from tale.monitoring.cards import cards_of, percent
from tale.monitoring.pages import MOST_READ, Choice, overview
from tale.records import ModelCall
from tale.storage.database import Database
from tale.storage.rows import values_of
from tale.storage.tables import model_calls

PAGES = ("overview", "latency", "targets", "tokens", "models", "reliability", "calls", "tasks")
WATCHING = PAGES[:-1]

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
        if page != "overview":
            app.switch_page(f"views/{page}.py")
        app.run()
        assert [error.value for error in app.exception] == []
        return app

    yield opened
    streamlit.cache_resource.clear()
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sample]:
    """A history that ends now, made once."""
    path = tmp_path_factory.mktemp("history") / "tale.db"
    return path, seeded(f"sqlite:///{path}", now=time.time(), count=300)


@pytest.fixture
def history(kept: tuple[Path, Sample], monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.setenv("TALE_DATABASE_URL", f"sqlite:///{kept[0]}")
    return kept[1]


def button(app: AppTest, label: str) -> Button:
    return next(each for each in app.button if each.label == label)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_without_data_says_what_to_run(look: Open, page: str):
    app = look(page)
    assert app.header[0].value
    if page in ("overview", "latency", "targets", "tokens", "reliability", "calls", "tasks"):
        assert "tale submit" in words(app)
    if page == "models":
        assert "tale servers start" in words(app)
    assert not app.error


def counts(history: Sample, fits: Callable[[ModelCall], bool] = lambda _: True) -> set[int]:
    """How many such calls a page may tell that was looked at within the last minute: slots end in between."""
    moments = (last_hours(6, time.time() - ago_s) for ago_s in (PATIENCE_S, 0))
    ended = [each for each in history.calls if each.ended_at and fits(each)]
    return {sum(window.since <= each.started_at for each in ended) for window in moments}


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
    assert len(metrics) == 8


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


def test_what_has_just_happened_is_shown_however_long_the_time_is(look: Open, tale_home: Path):
    """The first calls of a new history: the slot of six hours is not over, and charts hold none that is."""
    made = seeded(f"sqlite:///{tale_home}/tale.db", now=time.time(), count=40, hours=0.01)
    failed = [each for each in made.calls if each.error_class == "ModelException"]
    ended = [each for each in made.calls if each.ended_at]
    shown = {metric.label: metric.value for metric in look("overview", window="30d").metric}
    assert shown["Calls"] == str(len(ended))
    sums = next(each.value for each in look("tokens", window="30d").dataframe if "unreported" in each.value)
    assert sums["calls"].sum() == len(ended)
    assert "charts end at" in words(look("latency", window="30d"))
    app = look("reliability", window="30d")
    assert len(app.dataframe[0].value) == len(failed) > 0


def test_counts_are_compared_by_the_minute_with_a_time_before_that_is_shorter(kept: tuple[Path, Sample]):
    path, made = kept
    now = max(each.started_at for each in made.calls) // 60 * 60 + 40
    with open_history(path, clock=lambda: now) as history:
        seen = overview(history, Choice(1.0))
        card = next(each for each in cards_of(seen, history.reader.under_way()) if each.label == "Calls")
    since, until = seen.window.since, seen.window.until
    began = [each.started_at for each in made.calls if each.ended_at]
    rate = sum(since <= at < now // 60 * 60 + 60 for at in began) / (now - since)
    before = sum(2 * since - until <= at < since for at in began) / (until - since)
    assert (seen.until, until) == (now, now - 40)
    assert card.change == percent(rate / before - 1)


def test_what_is_less_than_was_chosen_says_so(look: Open, tale_home: Path):
    now, chance = time.time(), random.Random(5)
    made, lost = sample(count=60, now=now), {"error_class": "ModelException", "error": "Gone.", "output_tokens": None}
    failed = [replace(call(chance, now - 3_600 - n, now), **lost) for n in range(MOST_READ + 5)]
    history = Sample([*made.calls, *failed], made.tasks, made.attempts)
    asyncio.run(keep(f"sqlite:///{tale_home}/tale.db", history, now=now))
    assert "Slowest calls, the last day" in words(look("latency", window="7d"))
    assert "the last day" not in words(look("latency", window="24h"))
    assert "Tasks waiting and running, the last day" in words(look("overview", window="7d"))
    assert f"Why calls failed, the latest {MOST_READ}" in words(look("reliability", window="24h"))
    assert "the latest" not in words(look("reliability", window="15m"))


def store(tale_home: Path, rows: list[dict[str, Any]]) -> None:
    """Add calls to the history of that home."""

    async def write() -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        await database.write(lambda c: c.execute(insert(model_calls), rows).rowcount)
        await database.close()

    asyncio.run(write())


def test_a_picked_call_stays_the_one_that_was_picked(look: Open, tale_home: Path):
    """Another call comes before the choice reaches the page, and moves all rows on."""
    now = time.time()
    seeded(f"sqlite:///{tale_home}/tale.db", now=now, count=200)
    app = look("calls", window="6h")
    began = app.dataframe[0].value["started_at"][30]
    store(tale_home, [values_of(call(random.Random(9), now - 0.5, now))])
    streamlit.cache_data.clear()
    pick(app, "calls", 30)
    assert app.dataframe[0].value["started_at"][31] == began
    told = json.loads(app.json[0].value)
    app.selectbox(key="outcome").select("failed").run()
    assert [error.value for error in app.exception] == []
    assert 0 < len(app.dataframe[0].value) < 30
    assert "The call" not in words(app)
    app.selectbox(key="outcome").select(None).run()
    pick(app, "calls", 31)
    assert json.loads(app.json[0].value) == told
    button(app, "Close").click().run()
    assert "The call" not in words(app)
    pick(app, "calls", 31)
    button(app, "Older").click().run()
    assert "The call" not in words(app)


def test_a_picked_task_is_followed(look: Open, history: Sample):
    app = look("tasks", window="6h")
    text = app.dataframe[0].value["text"][3]
    pick(app, "tasks", 3)
    assert app.query_params["task"] == next(task.id for task in history.tasks if task.text == text)


def test_a_service_of_another_home_is_not_taken_for_ours(
    look: Open, tale_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = PredictingGateway(home=str(tmp_path / "another"))
    with serving(other) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        for page in ("overview", "models", "submit"):
            told = words(look(page))
            assert "another tale" in told and "TALE_GATEWAY_PORT" in told
            assert "service ok" not in told and "small-model" not in told
        assert not look("submit").text_area
        monkeypatch.setenv("TALE_GATEWAY_URL", f"http://127.0.0.1:{port}")
        streamlit.cache_data.clear()
        streamlit.cache_resource.clear()
        assert "service ok" in words(look("overview"))
    assert other.calls == []


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


def figure(app: AppTest, key: str) -> dict[str, Any]:
    """A chart of a page, as Plotly gets it."""
    (found,) = [each.proto for each in app.get("bidi_component") if each.proto.id.endswith(f"-{key}")]
    return json.loads(json.loads(found.json)["figure"])


def test_ones_own_limits_of_targets_hold_on_all_pages(look: Open, history: Sample, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TALE_TARGET_LIMITS", "ux_first_token=0.015,model_load=30")
    app = look("targets", window="6h")
    row = app.dataframe[0].value.set_index("target").loc["First words of the chat"]
    assert (row["should be"], row["stands"]) == ("at most 0.015 s", "✗ missed")
    assert "Machine profile: **unknown**, while the service is stopped." in words(app)
    app = look("overview", window="6h")
    card = next(each for each in app.metric if each.label == "First words, p95")
    assert card.proto.delta_description == "vs 0.015 s"
    assert "0.015 s" in str(figure(app, "overview-first")["layout"])
    assert "0.015 s" in str(figure(look("latency", window="6h"), "latency-first")["layout"])
    assert "30 s" in str(figure(look("models", window="6h"), "models-loads")["layout"])


def test_charts_of_first_words_are_of_the_chat_alone(look: Open, tale_home: Path):
    """The tasks of the small model take a minute to their first token."""
    now, chance = time.time(), random.Random(3)
    seeded(f"sqlite:///{tale_home}/tale.db", now=now, count=200, hours=1.0)
    slow = [replace(call(chance, now - 1_800 - n, now), operation="execute") for n in range(200)]
    store(tale_home, [values_of(replace(each, time_to_first_token_s=60.0)) for each in slow])
    app = look("overview", window="6h")
    drawn = [figure(app, "overview-first"), figure(look("latency", window="6h"), "latency-first")]
    highest = [value for chart in drawn for trace in chart["data"] for value in trace["y"] if value is not None]
    assert highest and max(highest) < 30
    spread = figure(look("latency", window="6h"), "latency-ecdf-first")
    assert max(value for trace in spread["data"] for value in trace["x"]) < 30
    assert "first token: distribution, in the chat" in words(look("latency", window="6h"))


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


def test_every_page_of_figures_looks_again_while_it_is_live():
    for page in (*PAGES, "learning"):
        assert "@st.fragment(run_every=widgets.pace())" in (FOLDER / "views" / f"{page}.py").read_text()


def test_pages_are_short_and_none_is_named_like_a_package():
    assert all(len(path.read_text().splitlines()) <= 60 for path in FOLDER.glob("views/*.py"))
    assert not {path.stem for path in FOLDER.glob("*.py")} & set(sys.stdlib_module_names)
