"""`tale dashboard` shows the figures of the history at any width, live and once, and starts the one for the browser."""

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import COMMAND, Outcome, Terminal, free_port
from fakes.gateway import FakeGateway
from fakes.sample_history import LARGE, SMALL, Sample, keep, sample
from rich.console import Console

from tale.analytics.windows import last_hours
from tale.cli.dashboard_screen import parts_of, spark
from tale.cli.dashboard_web import can_open, dashboard_folder
from tale.records import TaskStatus
from tale.storage.database import Database
from tale.storage.monitoring_store import MonitoringStore, TargetAlert

Tale = Callable[..., Outcome]
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Sample]:
    """A history that ends now, made once; one target is missed."""
    now = time.time()
    url, made = f"sqlite:///{tmp_path_factory.mktemp('history')}/tale.db", sample(count=300, now=now)

    async def fill() -> None:
        await keep(url, made, now=now)
        database = Database.open(url)
        await MonitoringStore(database).keep([], [TargetAlert("a", now, None, "interrupt", "missed", "Too slow.")])
        await database.close()

    asyncio.run(fill())
    return url, made


@pytest.fixture
def history(tale_home: Path, kept: tuple[str, Sample], monkeypatch: pytest.MonkeyPatch) -> Sample:
    monkeypatch.setenv("TALE_DATABASE_URL", kept[0])
    return kept[1]


def looked(tale: Tale, *arguments: str) -> dict[str, Any]:
    done = tale("dashboard", "--once", "--json", *arguments)
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def test_json_tells_the_figures_of_the_history(tale: Tale, history: Sample):
    before = last_hours(3, time.time())
    found = looked(tale, "--hours", "3")
    windows = (before, last_hours(3, time.time()))
    ended = [call for call in history.calls if call.ended_at]
    counts = {sum(each.since <= call.started_at for call in ended) for each in windows}
    assert found["figures"]["calls"] in counts
    assert found["queue"]["running"] == sum(task.status is TaskStatus.RUNNING for task in history.tasks)
    assert [card["label"] for card in found["cards"]][:2] == ["First words, p95", "Calls whole, p95"]
    assert [call["at"] for call in found["calls"]] == sorted((call["at"] for call in found["calls"]), reverse=True)
    assert {call["model"] for call in found["calls"]} <= {SMALL, LARGE}
    assert [alert["text"] for alert in found["alerts"] if alert["of"] == "target"] == ["Too slow."]
    assert "ux_first_token" in {target["name"] for target in found["targets"]}


def test_targets_are_held_to_ones_own_limits(tale: Tale, history: Sample, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TALE_TARGET_LIMITS", "ux_first_token=0.01")
    found = looked(tale, "--hours", "3")
    target = next(each for each in found["targets"] if each["name"] == "ux_first_token")
    assert (target["limit"], target["status"]) == (0.01, "missed")
    assert found["cards"][0]["against"] == "vs 0.01 s"


def test_the_keys_of_the_json_are_those_that_help_promises(tale: Tale, history: Sample, gateway: FakeGateway):
    found = looked(tale, "--hours", "3")
    told = " ".join(tale("dashboard", "--help").out.split())
    assert found["version"] == 1
    for key, value in found.items():
        assert key in told
        inner = value[0] if isinstance(value, list) and value else value
        for name in inner if isinstance(inner, dict) else ():
            assert name in told, f"{key}.{name}"


def test_without_a_database_and_a_service_it_says_what_to_run(tale: Tale):
    done = tale("dashboard", "--once")
    assert done.code == 0
    assert "tale servers start" in done.out
    assert "tale submit" in done.out
    assert looked(tale)["service"]["state"] == "stopped"


def test_a_running_service_is_told_with_its_models(tale: Tale, history: Sample, gateway: FakeGateway):
    found = looked(tale)
    assert found["service"]["state"] == "ok"
    assert [model["name"] for model in found["models"]] == ["small-model", "large-model"]
    assert "small-model" in tale("dashboard", "--once").out


def test_a_broken_database_is_told_in_a_sentence(tale: Tale, tale_home: Path):
    tale_home.mkdir()
    (tale_home / "tale.db").write_text("this is no database " * 500)
    done = tale("dashboard", "--once")
    assert done.code != 0
    assert "database" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("width", [30, 44, 80, 100, 150, 200])
def test_nothing_is_wider_than_the_screen_and_what_matters_stands_on_it(
    tale: Tale, history: Sample, gateway: FakeGateway, width: int
):
    found = looked(tale, "--hours", "3")
    console = Console(width=width, record=True, file=open(os.devnull, "w"), legacy_windows=False)  # noqa: SIM115 - closed at the end
    with console.file:
        console.print(*parts_of(found, width=width, height=None), sep="\n")
        lines = console.export_text().splitlines()
    assert max(len(line) for line in lines) <= width
    whole = "\n".join(lines)
    for title in ("Tasks", "Last calls", "Models", "Targets", "Too slow."):
        assert title in whole
    assert "First words" in whole


@pytest.mark.parametrize("height", [24, 40])
def test_the_live_view_fits_a_screen_of_eighty_columns_up_to_the_last_calls(
    tale: Tale, history: Sample, gateway: FakeGateway, height: int
):
    found = looked(tale, "--hours", "3")
    console = Console(width=80, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - closed at the end
    with console.file:
        console.print(*parts_of(found, width=80, height=height), sep="\n")
        lines = console.export_text().splitlines()
    assert next(n for n, line in enumerate(lines) if line.startswith("Last calls")) < height
    assert "q quit, p pause" in lines[0]


def test_the_course_of_values_is_drawn_in_cells():
    assert spark([1.0] * 40, 10) == "█" * 10
    assert spark([0.0, 0.0], 10) == "▁▁"
    assert spark([None, 2.0, None], 10) == "█"


def test_live_it_pauses_and_quits_by_keys_and_leaves_the_terminal_as_it_was(history: Sample):
    terminal = Terminal(["dashboard", "--hours", "3"], columns=80)
    terminal.read_until("Last calls")
    terminal.type("p")
    terminal.read_until("paused")
    terminal.type("q")
    assert terminal.end() == 0
    assert terminal.is_restored


def test_live_it_ends_by_an_interrupt(history: Sample):
    terminal = Terminal(["dashboard"], columns=80)
    terminal.read_until("q quit")
    terminal.interrupt()
    assert terminal.end() == 130
    assert terminal.is_restored


def test_live_it_needs_a_terminal(tale: Tale, history: Sample):
    done = tale("dashboard")
    assert done.code == 2
    assert "--once" in done.err


@pytest.mark.parametrize(
    "wrong", [["--json"], ["--web", "--once"], ["--web", "--hours", "3"], ["--once", "--port", "9"]]
)
def test_ways_to_look_that_do_not_go_together_are_refused(tale: Tale, wrong: list[str]):
    assert tale("dashboard", *wrong).code == 2


def test_a_port_that_is_taken_is_told_before_anything_starts(tale: Tale):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = tale("dashboard", "--web", "--port", str(port))
    assert done.code == 2
    assert f"Port {port}" in done.err


def test_the_one_for_the_browser_is_served_on_this_machine_and_ends_with_the_command(history: Sample, tmp_path: Path):
    """The browser that would be opened notes what it was told to open."""
    port, opened, browser = free_port(), tmp_path / "opened", tmp_path / "browser"
    os.mkfifo(opened)
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    reader = os.open(opened, os.O_RDONLY | os.O_NONBLOCK)
    environment = {**os.environ, "BROWSER": f"{browser} %s"}
    command = [*COMMAND, "dashboard", "--web", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/plotly.js?v=1", timeout=PATIENCE_S) as answer:
            assert b"plotly.js v" in answer.read(1_000)
            assert "immutable" in answer.headers["Cache-Control"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=PATIENCE_S) as answer:
            assert answer.read() == b"ok"
        assert select.select([reader], [], [], PATIENCE_S)[0]
        assert os.read(reader, 1_000).decode().strip() == f"http://127.0.0.1:{port}"
        process.terminate()
        assert process.wait(PATIENCE_S) == 130
    os.close(reader)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1)


def test_a_browser_is_opened_where_it_has_a_window():
    assert can_open({"DISPLAY": ":0"})
    assert can_open({}) == (sys.platform == "darwin")


def test_the_files_for_the_browser_are_found_beside_the_package():
    assert (dashboard_folder() / ".streamlit" / "config.toml").is_file()
