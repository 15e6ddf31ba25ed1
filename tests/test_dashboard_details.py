"""What pages tell of one alert, target, call, task or refusal: in words and figures that people read."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from fakes.dashboard_pages import PATIENCE_S, buttons, dashboard, open_page, pick, words
from fakes.gateway import FakeGateway, model, serving
from fakes.sample_history import seeded
from sqlalchemy import insert
from streamlit.testing.v1 import AppTest

from tale.exceptions import TaskException
from tale.mcp.http_server import HTTPMCPServer
from tale.models.catalog import CATALOG
from tale.models.download import ModelFiles
from tale.monitoring.targets import GIB
from tale.storage.budgets import Alert
from tale.storage.database import Database
from tale.storage.monitoring_store import MonitoringStore, Violation
from tale.storage.rows import values_of
from tale.storage.tables import alerts

MODEL = "smollm2:135m"
DAY_S = 86_400.0
TEXT = "Look at ![this](http://192.0.2.1/a.png).\n\nIt costs $5, not $7."


class RefusingGateway(FakeGateway):
    """A gateway that explains a task, and refuses to stop or rate one."""

    async def explain_task(self, task_id: str) -> dict[str, Any]:
        """What was expected."""
        like = [{"id": "1", "text": "Look at ![that](http://192.0.2.1/b.png).", "likeness": 0.9}]
        return {
            "text": TEXT,
            "attempts": [],
            "explanation": {"parts": [], "alternatives": [], "like": like},
            "note": None,
        }

    async def cancel_task(self, task_id: str) -> dict[str, Any]:
        """Refuse it."""
        self.calls.append(("cancel_task", {"task_id": task_id}))
        raise TaskException("The task cannot be stopped now.")

    async def record_feedback(
        self, task_id: str, rating: Literal["good", "bad"], comment: str | None = None
    ) -> dict[str, Any]:
        """Refuse it."""
        self.calls.append(("record_feedback", {"task_id": task_id, "rating": rating, "comment": comment}))
        raise TaskException("The task cannot be rated now.")

    def server(self, port: int = 0) -> HTTPMCPServer:
        """The server with the explanation, too."""
        server = super().server(port)
        server.add_tool(self.explain_task)
        return server


@pytest.fixture(autouse=True)
def pages(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tale_home.mkdir()
    with dashboard(monkeypatch):
        yield


@pytest.fixture
def gateway(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RefusingGateway]:
    fake = RefusingGateway(home=str(tale_home))
    with serving(fake) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        yield fake


def test_of_a_budget_the_last_alert_is_shown_until_its_period_is_over(tale_home: Path) -> None:
    now = time.time()

    def told(number: int, percent: int, since: float) -> dict[str, Any]:
        given = {"scope": "all", "name": "", "period": "day", "kind": "soft", "percent": percent}
        used = {"used_tokens": 1_000 * percent, "limit_tokens": 100_000}
        times = {"created_at": since + number, "starts_at": since, "resets_at": since + DAY_S}
        return values_of(Alert(id=f"a{number}", budget_id="b", **given, **used, **times))

    rows = [told(1, 80, now - 9 * DAY_S), told(2, 80, now - 60), told(3, 100, now - 60)]

    async def keep() -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        await database.write(lambda c: c.execute(insert(alerts), rows).rowcount)
        await database.close()

    asyncio.run(keep())
    for page in ("tokens", "overview"):
        (warning,) = open_page(page).warning
        assert "100,000 of 100,000 tokens" in warning.value and "tale budgets set" in warning.value


def test_times_in_which_a_target_was_missed_are_told_with_titles_and_units(tale_home: Path) -> None:
    began_at = time.time() - 600

    async def keep() -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        values = (began_at, None, 25.0 * GIB, 27.0 * GIB, 34, "Unload one.")
        missed = [Violation("v1", "models_memory", "cpu", *values), Violation("v2", "of-old", "cpu", *values)]
        await MonitoringStore(database).keep(missed, [])
        await database.close()

    asyncio.run(keep())
    (found,) = [each.value for each in open_page("targets").dataframe if "worst" in each.value]
    told = found.set_index("target").loc["Both models in memory"]
    assert (told["should be"], told["worst"], told["values"]) == ("at most 25 GiB", "27 GiB", 34)
    assert "of-old" in list(found["target"])


def test_a_picked_call_tells_its_times_in_the_zone_of_the_browser(tale_home: Path) -> None:
    made = seeded(f"sqlite:///{tale_home}/tale.db", now=time.time(), count=100)
    app = open_page("calls", window="6h")
    app.context["timezone"] = "Asia/Kolkata"
    pick(app.run(), "calls", 30)
    told = json.loads(app.json[0].value)
    call = next(each for each in made.calls if each.id == told["id"])
    for name in ("started_at", "ended_at"):
        moment = datetime.fromisoformat(told[name])
        assert moment.utcoffset() == timedelta(hours=5.5)
        assert moment.timestamp() == pytest.approx(getattr(call, name), abs=0.001)


def explained() -> None:
    """What the page Learning runs when a row is picked."""
    import learning_view

    from tale.figures import LIGHT

    learning_view.explain("a-task", 0.0, LIGHT)


def test_the_texts_of_tasks_that_are_explained_do_nothing(gateway: RefusingGateway) -> None:
    app = AppTest.from_function(explained, default_timeout=PATIENCE_S).run()
    assert [error.value for error in app.exception] == []
    assert r"**Look at !\[this](http://192.0.2.1/a.png). It costs \$5, not \$7.**" in [
        each.value for each in app.markdown
    ]
    assert r"Tasks like it: Look at !\[that](http://192.0.2.1/b.png)." in [each.value for each in app.caption]


def test_why_a_task_is_not_stopped_is_said_apart_from_the_page(gateway: RefusingGateway) -> None:
    gateway.outcome = {"status": "running", "ended_at": None, "result": None}
    asyncio.run(gateway.submit_task("Write a long story."))
    app = open_page("tasks", task=next(iter(gateway.tasks)))
    buttons(app, "Cancel")[0].click().run()
    assert [each.value for each in app.toast] == ["The task cannot be stopped now."]
    assert not app.error and "Write a long story." in words(app)


def test_a_rating_that_is_refused_is_asked_for_once(gateway: RefusingGateway) -> None:
    asyncio.run(gateway.submit_task("Write a haiku."))
    app = open_page("tasks", task=next(iter(gateway.tasks)))
    app.feedback[0].set_value(1).run()
    assert [each.value for each in app.toast] == ["The task cannot be rated now."]
    assert not app.run().toast and not app.error and "Rated" not in words(app)
    assert [each["rating"] for each in gateway.asked("record_feedback")] == ["good"]
    app.feedback[0].set_value(0).run()
    assert [each["rating"] for each in gateway.asked("record_feedback")] == ["good", "bad"]


def test_why_a_model_is_not_deleted_is_said_apart_from_the_page(tale_home: Path, gateway: RefusingGateway) -> None:
    path = ModelFiles(tale_home / "models", hub_url="http://127.0.0.1:1").path(MODEL)
    path.parent.mkdir()
    path.write_bytes(b"a model")
    found = path.stat()
    noted = {"sha256": CATALOG[MODEL].sha256, "size": found.st_size, "mtime_ns": found.st_mtime_ns}
    path.with_suffix(".verified").write_text(json.dumps(noted))
    gateway.models = [model(MODEL, "ux")]
    app = open_page("models")
    buttons(app, "Delete it")[0].click().run()
    assert [each.value for each in app.toast] == [f"{MODEL} is in use; `tale servers stop` first."]
    assert not app.error and len(buttons(app, "Fetch it")) == len(CATALOG) - 1
    assert path.exists()
