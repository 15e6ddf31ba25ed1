"""Pages of the dashboard as a browser opens them, on a real service whose engine is played."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import streamlit
import streamlit.config
from fakes.in_thread import Gate, in_thread
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import Process, running
from fakes.speaker import INTENTS
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.runtime.scriptrunner import RerunData
from streamlit.testing.v1 import AppTest, local_script_runner
from streamlit.testing.v1.element_tree import Button

from tale.settings import Settings

FOLDER = Path(__file__).parents[2] / "dashboard"
PATIENCE_S = 60
LOOK_INTERVAL_S = 0.05


@contextmanager
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of the dashboard can be imported, and are forgotten afterwards with what they hold."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = streamlit.config.get_option("server.address")
    streamlit.config.set_option("server.address", "127.0.0.1")
    streamlit.cache_data.clear()
    streamlit.cache_resource.clear()
    yield
    streamlit.cache_data.clear()
    streamlit.cache_resource.clear()
    streamlit.config.set_option("server.address", before)
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


def point_at(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the dashboard find that service."""
    for role in ("gateway", "execution", "ux_agent"):
        monkeypatch.setenv(f"TALE_{role.upper()}_PORT", str(getattr(settings, f"{role}_port")))


@contextmanager
def service_of(settings: Settings, backend: ScriptedBackend | None = None) -> Iterator[Process]:
    """The service, in a thread; its engine writes at once unless it is held."""
    with in_thread(running(settings, intents=INTENTS, backend=backend)) as process:
        yield process


def held(backend: ScriptedBackend) -> Gate:
    """From now on the model stops after its first word, until that is set."""
    gate = Gate()
    backend.word_gate = gate  # pyright: ignore[reportAttributeAccessIssue] - it is waited for in another thread
    return gate


def open_page(page: str, **query: str) -> AppTest:
    """A page, opened anew."""
    app = AppTest.from_file(str(FOLDER / "pages.py"), default_timeout=PATIENCE_S)
    app.switch_page(f"views/{page}.py")
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert [error.value for error in app.exception] == []
    return app


def back(app: AppTest, page: str, *, without: str) -> AppTest:
    """The page after a look at another one, of which browsers leave out what no widget of the page is bound to."""
    app.query_params.pop(without, None)
    app.switch_page("views/overview.py").run()
    app.query_params.pop(without, None)
    app.switch_page(f"views/{page}.py").run()
    assert [error.value for error in app.exception] == []
    return app


def looked(app: AppTest, condition: Callable[[AppTest], Any]) -> AppTest:
    """The page when the condition holds, which is looked at again and again as a browser does."""
    ends_at = time.monotonic() + PATIENCE_S
    while not condition(app):
        assert time.monotonic() < ends_at, words(app)
        time.sleep(LOOK_INTERVAL_S)
        app.run()
        assert [error.value for error in app.exception] == []
    return app


def pick(app: AppTest, key: str, row: int) -> AppTest:
    """Pick a row of the table whose key begins so, as a browser tells it."""
    table = next(each for each in app.dataframe if (each.key or "").startswith(key))
    states = app._tree.get_widget_states()  # of tables, AppTest itself cannot tell a choice
    chosen = {"selection": {"rows": [row], "columns": [], "cells": []}}
    states.widgets.append(WidgetState(id=table.proto.id, string_value=json.dumps(chosen)))
    app._run(states)
    assert [error.value for error in app.exception] == []
    return app


def press(app: AppTest, label: str, key: str | None = None) -> AppTest:
    """Press a button as a browser does: of the page, the fragment in which it stands is run, and nothing else."""
    (button,) = [each for each in buttons(app, label) if key in (None, each.key)]
    known = app._session_state._state._new_widget_state.widget_metadata[button.proto.id]
    with pytest.MonkeyPatch.context() as patched:  # AppTest itself runs the whole page
        patched.setattr(local_script_runner, "RerunData", partial(RerunData, fragment_id=known.fragment_id))
        button.click().run()
    assert [error.value for error in app.exception] == []
    return app


def words(app: AppTest) -> str:
    """All the text of a page."""
    kinds = (app.markdown, app.caption, app.code, app.error, app.warning, app.header, app.subheader)
    told = [str(each.value) for kind in kinds for each in kind]
    return "\n".join([*told, *(each.text for each in app.get("progress"))])


def buttons(app: AppTest, label: str) -> list[Button]:
    return [each for each in app.button if each.label == label]
