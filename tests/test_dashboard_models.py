"""The page Models fetches a model, goes on where that broke off, and deletes it: with a real hub and a real disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.dashboard_pages import buttons, dashboard, looked, open_page, press, words
from fakes.hub_server import HubServer
from fakes.in_thread import in_thread
from fakes.ollama_server import served

from tale.models.catalog import CATALOG
from tale.models.download import ModelFiles

MODEL = "smollm2:135m"
BREAKS_OFF = ["cut", "500", "500", "500"]  # as often as a download goes on by itself


@pytest.fixture(autouse=True)
def pages(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tale_home.mkdir()
    with dashboard(monkeypatch):
        yield


@pytest.fixture
def hub(model_folder: Path, tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that has the smallest model, and no packages to fall back to."""
    content = ModelFiles(model_folder, hub_url="http://127.0.0.1:9").path(MODEL).read_bytes()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with in_thread(served(HubServer(content))) as server:
        monkeypatch.setenv("TALE_HUB_URL", server.url)
        yield server


@pytest.mark.model
def test_a_model_is_fetched_goes_on_where_it_broke_off_and_is_deleted(hub: HubServer, tale_home: Path) -> None:
    path = ModelFiles(tale_home / "models", hub_url=hub.url).path(MODEL)
    hub.faults = list(BREAKS_OFF)
    app = press(open_page("models"), "Fetch it", key=f"Fetch-now-{MODEL}")
    (error,) = looked(app, lambda page: page.error).error
    assert "What has arrived is kept; Fetch goes on from there." in error.value
    arrived = path.with_suffix(".hub.part").stat().st_size
    assert not path.exists() and 0 < arrived < len(hub.content)

    press(app, "Fetch it", key=f"Fetch-now-{MODEL}")
    looked(app, lambda page: buttons(page, "Delete it"))
    assert (len(hub.ranges), hub.ranges[-1]) == (len(BREAKS_OFF) + 1, f"bytes={arrived}-")
    assert path.read_bytes() == hub.content
    assert not app.error and "98 MB · Apache-2.0 · here" in words(app)

    press(app, "Delete it")
    assert not path.exists() and not app.toast
    looked(app, lambda page: len(buttons(page, "Fetch it")) == len(CATALOG))
