"""The page Learning, alerts on pages, and the files of models: they show what is stored, and say what to run."""

import asyncio
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import streamlit
import streamlit.config
from fakes.dashboard_pages import pick
from fakes.gateway import FakeGateway, model, serving
from fakes.learned_history import keep_alerts, keep_learned, predicted
from fakes.sample_history import LARGE, NOW, SMALL, sample
from polars.testing import assert_frame_equal
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

from tale import figures
from tale.analytics import frames, open_history
from tale.analytics.alerts import told_alerts
from tale.analytics.learned import MOST_PREDICTIONS, Learned, learned, records_of, versions_frame
from tale.exceptions import ModelException
from tale.learning.live_figures import estimated_savings, live_figures, verified_savings
from tale.mcp.http_server import HTTPMCPServer
from tale.storage.database import Database
from tale.storage.monitoring_store import MonitoringStore
from tale.storage.prediction_store import PredictionStore

FOLDER = Path(__file__).parent.parent / "dashboard"
PATIENCE_S = 60
HOURS = 6.0
SHADOWS = 12

Open = Callable[..., AppTest]


class ExplainingGateway(FakeGateway):
    """A gateway that tells why."""

    async def explain_task(self, task_id: str) -> dict[str, Any]:
        """What mattered."""
        self.calls.append(("explain_task", {"task_id": task_id}))
        expected = {"output_tokens": 100, "upper_tokens": 200, "role": "task", "complexity": "simple", "reason": "Why."}
        outcome = {"output_tokens": 120, "succeeded": None}
        known = {
            "parts": [{"name": "asks for a list", "factor": 1.5}, {"name": "short", "factor": 0.8}],
            "alternatives": [
                {"model": "small-model", "role": "ux", "success": 0.4}
                | dict.fromkeys(("output_tokens", "upper_tokens", "weighted_tokens"), 7)
            ],
            "like": [{"id": "1", "text": "Write a haiku about snow.", "likeness": 0.9}],
        }
        attempts = [{"attempt": 1, "prediction": expected, "outcome": outcome}]
        return {
            **{"task_id": task_id, "text": "Write a haiku.", "attempts": attempts},
            **{"explanation": known, "note": None},
        }

    def server(self, port: int = 0) -> HTTPMCPServer:
        """The server with this tool, too."""
        server = super().server(port)
        server.add_tool(self.explain_task)
        return server


@pytest.fixture
def gateway(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExplainingGateway]:
    fake = ExplainingGateway(home=str(tale_home))
    with serving(fake) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        yield fake


@pytest.fixture
def look(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a page as a browser would, on the database of a home of its own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    tale_home.mkdir()
    address = streamlit.config.get_option("server.address")
    streamlit.config.set_option("server.address", "127.0.0.1")
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
    streamlit.config.set_option("server.address", address)
    streamlit.cache_resource.clear()
    own = {path.stem for path in FOLDER.glob("*.py")}
    for name in own:
        sys.modules.pop(name, None)


def words(app: AppTest) -> str:
    """All the text of a page."""
    kinds = (app.markdown, app.caption, app.code, app.error, app.warning, app.header, app.subheader)
    return "\n".join(str(each.value) for kind in kinds for each in kind)


def button(app: AppTest, label: str) -> Button:
    return next(each for each in app.button if each.label == label)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learned") / "tale.db"
    asyncio.run(keep_learned(f"sqlite:///{path}", now=NOW))
    return path


@pytest.fixture
def seen(kept: Path) -> Learned:
    with open_history(kept, clock=lambda: NOW) as history:
        return learned(history, HOURS)


def test_the_frame_holds_what_was_expected_and_what_came(seen: Learned):
    expected = predicted(sample(count=400, now=NOW, hours=3).tasks)
    assert len(seen.predictions) == len(expected) > 100
    assert seen.predictions["at"].is_sorted()
    by_id = {row["task_id"]: row for row in expected}
    for row in seen.predictions.iter_rows(named=True):
        told = by_id[row["task_id"]]
        assert (row["predicted_tokens"], row["budget_tokens"]) == (told["output_tokens"], told["upper_tokens"])
        assert (row["output_tokens"], row["chance"]) == (told["true_output_tokens"], told[f"{told['role']}_success"])
        assert row["model"] in (SMALL, LARGE)


def test_a_word_of_a_user_counts_where_no_check_failed(seen: Learned):
    """Every fifth rating of the sample is bad."""
    expected = {row["task_id"]: row["succeeded"] for row in predicted(sample(count=400, now=NOW, hours=3).tasks)}
    for task_id, succeeded in seen.predictions.select("task_id", "succeeded").iter_rows():
        if expected[task_id] is False:
            assert succeeded is False
    assert seen.predictions["succeeded"].null_count() < sum(each is None for each in expected.values())


async def test_the_figures_of_the_page_are_those_of_the_command(kept: Path, seen: Learned):
    """What `tale learn --report` tells comes from the store, what the page shows from frames."""
    database = Database.open(f"sqlite:///{kept}")
    store = PredictionStore(database)
    newest, both = await store.newest(1_000), await store.newest_shadows(1_000)
    await database.close()
    assert estimated_savings(records_of(seen.predictions)) == estimated_savings(newest)
    assert verified_savings(seen.shadows) == verified_savings(both)
    ended = sorted(records_of(seen.predictions), key=lambda each: (each.ended_at, each.task_id))
    assert [each.mean_error_tokens for each in live_figures(ended)] == [
        each.mean_error_tokens for each in live_figures(newest)
    ]


def test_the_simplest_guess_is_the_median_of_what_came_before(seen: Learned):
    own = seen.predictions.filter(role="ux").select("plain_tokens", "output_tokens")
    guesses, truths = own["plain_tokens"].to_list(), own["output_tokens"].to_list()
    assert guesses[:3] == [None, truths[0], max(truths[:2])]


def test_the_simplest_guess_knows_the_answers_before_the_window(kept: Path, seen: Learned):
    with open_history(kept, clock=lambda: NOW) as history:
        hour = learned(history, 1.0).predictions
    known = seen.predictions.tail(len(hour)).select("task_id", "plain_tokens")
    assert_frame_equal(hour.select("task_id", "plain_tokens"), known)
    assert hour["plain_tokens"].null_count() == 0


def test_a_window_and_a_model_narrow_what_is_read(kept: Path, seen: Learned):
    with open_history(kept, clock=lambda: NOW) as history:
        hour, large = learned(history, 1.0), learned(history, HOURS, model=LARGE)
    assert 0 < len(hour.predictions) < len(seen.predictions)
    assert set(large.predictions["model"]) == {LARGE}
    assert large.models == seen.models and seen.models["task"] == LARGE  # both, whatever was chosen
    assert hour.is_whole
    assert len(hour.predictions) < MOST_PREDICTIONS


def test_versions_come_with_their_verdicts_and_losses(seen: Learned):
    rows = seen.versions.select("id", "verdict", "loss", "serving_loss", "plain_loss").rows()
    assert rows == [("v1", "refused", 0.4, 0.5, 0.7), ("v0", "promoted", 0.4, 0.5, 0.7)]


def test_a_version_without_scores_is_told_without_them():
    row = ("v", NOW, "serving", 10, "{}", "Brought back.")
    told = versions_frame([row], frames.empty(frames.LEARNING_EVENTS))
    assert told.select("loss", "verdict").row(0) == (None, None)


def test_the_learning_curve_is_the_mean_error_of_the_latest_answers(seen: Learned):
    drawn = {trace.name: trace for trace in figures.learning_curve(seen.predictions).data}
    error = (seen.predictions["predicted_tokens"] - seen.predictions["output_tokens"]).abs()
    assert drawn["error"].y[-1] == pytest.approx(error.tail(50).mean())
    assert drawn["error"].x[-1] == len(seen.predictions)
    versions = seen.predictions["version"].to_list()
    changes = [place for place in range(1, len(versions)) if versions[place] != versions[place - 1]]
    shown = [line.x0 for line in figures.learning_curve(seen.predictions).layout.shapes]
    assert shown == [place + 1 for place in changes if place + 1 >= figures.learning.ROLLING]
    assert shown


def test_the_shares_of_routes_add_up_to_all_attempts(seen: Learned):
    drawn = figures.routes(seen.predictions, seen.window).data
    assert [sum(shares) for shares in zip(*(trace.y for trace in drawn), strict=True)] == pytest.approx(
        [1.0] * len(drawn[0].y)
    )
    counted = {trace.name: sum(trace.customdata) for trace in drawn}
    assert sum(counted.values()) == len(seen.predictions)
    assert counted["task model"] == len(seen.predictions.filter(role="task"))


def test_regret_counts_what_the_small_model_wrote_in_vain(seen: Learned):
    drawn = {trace.name: trace for trace in figures.regret(seen.predictions, seen.window, small_cost=0.5).data}
    in_vain = seen.predictions.filter(pl.col("role") == "ux", pl.col("succeeded").not_())
    assert not in_vain.is_empty()
    assert drawn["all together"].y[-1] == pytest.approx(0.5 * in_vain["output_tokens"].sum())


def test_versions_are_drawn_by_what_became_of_them(seen: Learned):
    drawn = {trace.name: trace for trace in figures.version_losses(seen.versions).data}
    assert (list(drawn["promoted"].y), list(drawn["refused"].y)) == ([0.4], [0.4])
    assert list(drawn["plain quantiles"].y) == [0.7, 0.7]


@pytest.mark.parametrize("drawn", ["curve", "routes", "regret", "versions", "parts"])
def test_without_data_a_figure_of_learning_says_so(drawn: str, seen: Learned):
    nothing = frames.empty(frames.LEARNED)
    made = {
        "curve": lambda: figures.learning_curve(nothing),
        "routes": lambda: figures.routes(nothing, seen.window),
        "regret": lambda: figures.regret(nothing, seen.window, small_cost=0.3),
        "versions": lambda: figures.version_losses(frames.empty(frames.VERSIONS)),
        "parts": lambda: figures.what_mattered([]),
    }[drawn]()
    assert list(made.data) == []
    assert made.layout.annotations[0].text


@pytest.mark.postgres
async def test_learned_reads_alike_on_postgres(postgres_url: str, kept: Path):
    await keep_learned(postgres_url, now=NOW)
    with (
        open_history(postgres_url, clock=lambda: NOW) as one,
        open_history(kept, clock=lambda: NOW) as other,
    ):
        found, expected = learned(one, HOURS), learned(other, HOURS)
    order = ["at", "task_id"]
    columns = [name for name in frames.LEARNED if name != "plain_tokens"]  # which depends on the order of ends at once
    assert_frame_equal(found.predictions.select(columns).sort(order), expected.predictions.select(columns).sort(order))
    assert_frame_equal(found.versions, expected.versions)
    assert verified_savings(found.shadows) == verified_savings(expected.shadows)


def test_the_page_shows_savings_versions_and_attempts(look: Open, kept: Path, monkeypatch: pytest.MonkeyPatch):
    path = kept.parent / "now.db"
    if not path.exists():
        asyncio.run(keep_learned(f"sqlite:///{path}", now=time.time()))
    monkeypatch.setenv("TALE_DATABASE_URL", f"sqlite:///{path}")
    app = look("learning", window="6h")
    told = words(app)
    assert "Verified" in told
    assert "12 tasks" in told
    assert "Estimated" in told
    assert "predicted attempts" in told
    verdicts = [set(each.value["verdict"]) for each in app.dataframe if "verdict" in each.value]
    assert verdicts == [{"refused", "promoted"}]


def test_tokens_tell_what_was_saved_and_which_budgets_were_missed(
    look: Open, tale_home: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = asyncio.run(keep_learned(f"sqlite:///{tale_home}/tale.db", now=time.time()))
    with closing(sqlite3.connect(tale_home / "tale.db")) as database, database:
        database.execute("UPDATE predictions SET finish_reason = 'length' WHERE true_output_tokens % 2 = 0")
    too_long = [row["true_output_tokens"] > row["upper_tokens"] for row in expected]
    was_whole = [row["true_output_tokens"] % 2 == 1 for row in expected]
    missed, known = sum(too_long), sum(map(max, too_long, was_whole))
    told = words(look("tokens", window="6h"))
    assert f"{missed:,} of {known:,}" in told and missed and known < len(expected)
    assert "Verified" in told and "12 tasks" in told and "Estimated" in told


def test_the_explained_task_stays_the_one_that_was_picked(look: Open, gateway: ExplainingGateway, tale_home: Path):
    asyncio.run(keep_learned(f"sqlite:///{tale_home}/tale.db", now=time.time()))
    app = look("learning", window="6h")
    assert not gateway.asked("explain_task")
    pick(app, "predicted", 60)
    (asked,) = gateway.asked("explain_task")
    app.segmented_control(key="window").set_value("15m").run()
    assert [error.value for error in app.exception] == []
    assert len(app.dataframe) and {each["task_id"] for each in gateway.asked("explain_task")} == {asked["task_id"]}
    assert "Write a haiku about snow." in words(app)
    app.button(key="close-explanation").click().run()
    assert "Write a haiku about snow." not in words(app)


def test_the_page_without_predictions_says_what_to_run(look: Open):
    app = look("learning")
    assert not app.error
    assert "tale submit" in words(app)


def test_the_page_says_in_a_sentence_that_the_database_is_broken(look: Open, tale_home: Path):
    (tale_home / "tale.db").write_text("this is no database " * 500)
    app = look("learning")
    assert any("database" in error.value for error in app.error)


def explained() -> None:
    """What the page runs when a row is picked."""
    import learning_view

    from tale.figures import LIGHT

    learning_view.explain("a-task", 0.0, LIGHT)


def test_a_task_is_explained_in_the_words_of_the_service(look: Open, gateway: ExplainingGateway):
    app = AppTest.from_function(explained, default_timeout=PATIENCE_S).run()
    assert [error.value for error in app.exception] == []
    told = words(app)
    assert "Write a haiku about snow." in told
    assert list(app.dataframe[0].value["why"]) == ["Why."]
    assert list(app.dataframe[1].value["model"]) == ["small-model (small model)"]


def test_alerts_are_open_until_met_or_seen(tmp_path: Path):
    path = tmp_path / "tale.db"
    asyncio.run(keep_alerts(f"sqlite:///{path}", NOW))
    with open_history(path, clock=lambda: NOW) as history:
        found = told_alerts(history)
    still = found.filter("is_open")
    assert still["name"].to_list() == ["interrupt", "ux_first_token"]
    assert still.filter(name="ux_first_token").select("text", "action").row(0) == (
        "First words: p95 is 2 s.",
        "Do less.",
    )
    with open_history(path, clock=lambda: NOW + 4_000) as history:
        assert told_alerts(history).filter("is_open")["name"].to_list() == ["ux_first_token"]


async def test_an_alert_of_a_violation_that_ended_without_a_word_is_not_open(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/tale.db"
    await keep_alerts(url, NOW)
    database = Database.open(url)
    store = MonitoringStore(database)
    (violation,) = await store.open_violations()
    await store.keep([replace(violation, ended_at=NOW - 60)], [])
    await database.close()
    with open_history(url, clock=lambda: NOW) as history:
        found = told_alerts(history)
    assert found.filter("is_open")["name"].to_list() == ["interrupt"]
    assert found.filter(name="ux_first_token")["action"].to_list() == ["Do less."]


def test_overview_and_targets_show_alerts_with_what_to_do(look: Open, tale_home: Path):
    asyncio.run(keep_alerts(f"sqlite:///{tale_home}/tale.db", time.time()))
    strip = [warning.value for warning in look("overview").warning]
    assert any("p95 is 2 s" in text and "**Do less.**" in text for text in strip)
    assert len(strip) == 2
    rows = next(each.value for each in look("targets").dataframe if "is_open" in each.value)
    assert len(rows) == 5


def test_models_are_listed_with_what_can_be_done(look: Open):
    app = look("models")
    assert not app.error
    told = words(app)
    assert "smollm2:135m" in told
    assert button(app, "Fetch it")


def test_a_model_in_use_is_not_deleted(look: Open, gateway: ExplainingGateway):
    gateway.models = [model("smollm2:135m", "ux")]
    look("models")
    import model_files  # type: ignore[import-not-found]  # of dashboard/, which is on the path here

    with pytest.raises(ModelException, match="in use"):
        model_files.remove("smollm2:135m")


def test_others_on_the_network_only_look_at_models(look: Open):
    streamlit.config.set_option("server.address", "0.0.0.0")
    app = look("models")
    assert "with the key" in words(app)
    offers = [each for each in app.button if each.label in ("Fetch it", "Delete it")]
    assert offers and all(each.disabled for each in offers)  # their popovers are, too, but that is only shown
