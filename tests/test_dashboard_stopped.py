"""Pages while the service is stopped: they say what to run, let go of what was looked at, weigh by what is known."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit
from fakes.dashboard_pages import buttons, dashboard, open_page, pick, words
from fakes.gateway import FakeGateway, model, serving
from fakes.learned_history import keep_learned


@pytest.fixture(autouse=True)
def pages(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tale_home.mkdir()
    with dashboard(monkeypatch):
        yield


def test_a_followed_task_can_be_closed_whether_it_runs_is_unknown_or_the_service_has_stopped(
    tale_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = FakeGateway(home=str(tale_home), outcome={"status": "running", "ended_at": None, "result": None})
    asyncio.run(gateway.submit_task("Write a long story."))
    (running,) = gateway.tasks
    with serving(gateway) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        for task_id, told in ((running, "Write a long story."), (str(uuid.uuid4()), "No such task")):
            app = open_page("tasks", task=task_id)
            assert told in words(app)
            assert "task" not in buttons(app, "Close")[0].click().run().query_params
        app = open_page("tasks", task=running)
    streamlit.cache_data.clear()  # what is known is shown for a while
    told = words(app.run())
    assert "The service is not running" in told and "tale servers start" in told
    assert not app.error and "circuit" not in told
    buttons(app, "Close")[0].click().run()
    assert "The service is not running" not in words(app)


def test_an_explanation_can_be_closed_and_says_what_to_run(tale_home: Path) -> None:
    asyncio.run(keep_learned(f"sqlite:///{tale_home}/tale.db", now=time.time()))
    app = pick(open_page("learning", window="6h"), "predicted", 60)
    for _ in range(6):  # more often than a server is asked in vain before it is left alone
        told = words(app.run())
        assert "The service is not running" in told and "tale servers start" in told
        assert not app.error and "circuit" not in told
    buttons(app, "Close")[0].click().run()
    assert "The service is not running" not in words(app)


def test_tokens_are_weighed_by_the_models_that_fill_the_roles_in_every_window(
    tale_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the service tells, else as the settings name them, else as they were seen."""
    import learning_view

    url = f"sqlite:///{tale_home}/tale.db"
    asyncio.run(keep_learned(url, now=time.time()))

    def weighed(hours: float) -> tuple[float, float]:
        seen, savings, _, _ = learning_view.shown(hours, None, url)
        return learning_view.cost_of_small(seen), savings["verified"].saved

    assert {weighed(hours) for hours in (0.25, 1.0, 6.0)} == {(0.516, 0.329)}
    monkeypatch.setenv("TALE_TASK_MODEL", "qwen2.5:32b")
    streamlit.cache_resource.clear()
    assert {weighed(hours) for hours in (0.25, 1.0, 6.0)} == {(0.238, 0.607)}
    with serving(FakeGateway(home=str(tale_home), models=[model("small-model", "ux")])) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        streamlit.cache_resource.clear()
        streamlit.cache_data.clear()
        assert {weighed(hours) for hours in (0.25, 1.0, 6.0)} == {(1.0, -0.155)}
