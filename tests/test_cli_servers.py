"""`tale serve` and `tale servers`: real service processes, with a played engine behind them."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from fakes.command_line import Outcome, Terminal, free_port, in_subprocess
from fakes.engine_script import EngineScript
from fakes.in_thread import Gate, in_thread
from fakes.ollama_server import OllamaServer, served

Tale = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def engine(tale_home: Path, tale: Tale, monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaServer]:
    """An engine that answers at once; servers that a test leaves behind are stopped."""
    for name, value in {
        "BACKEND": "ollama",
        "UX_MODEL": "small",
        "TASK_MODEL": "large",
        "ACKNOWLEDGE": "false",
    }.items():
        monkeypatch.setenv(f"TALE_{name}", value)
    with in_thread(served(OllamaServer(EngineScript()))) as server:
        monkeypatch.setenv("TALE_OLLAMA_URL", server.url)
        yield server
        if (tale_home / "run").exists():
            tale("servers", "stop")


@pytest.fixture
def foreign(engine: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> int:
    """The gateway's port is that of another program."""
    port = int(engine.url.rpartition(":")[2])
    monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
    return port


def states(tale: Tale) -> dict[str, tuple[str, int | None]]:
    """State and process of every server."""
    return {row["role"]: (row["state"], row["pid"]) for row in json.loads(tale("servers", "status", "--json").out)}


def test_serve_runs_in_the_foreground_until_an_interrupt_and_ends_well(tale: Tale) -> None:
    terminal = Terminal(["serve", "--http"])
    terminal.read_until("Serving gateway, execution, ux_agent")
    answered = tale("submit", "Work")
    terminal.interrupt()

    assert terminal.end() == 0
    assert terminal.is_restored
    assert "Ctrl-C stops." in terminal.plain
    assert "Stopping: SIGINT" in terminal.plain
    assert (answered.code, answered.out) == (0, "Hello world!\n")
    assert {state for state, _ in states(tale).values()} == {"stopped"}


def test_serve_takes_roles_and_a_port_and_ends_well_when_it_is_terminated(foreign: int) -> None:
    port = free_port()
    terminal = Terminal(["serve", "--port", str(port), "--roles", "gateway,execution"])
    terminal.read_until(f"Starting gateway http://127.0.0.1:{port}, execution")
    terminal.read_until("Serving gateway, execution on")
    terminal.process.send_signal(signal.SIGTERM)

    assert terminal.end() == 0


def test_a_second_serve_of_a_home_is_refused_and_the_first_goes_on(tale: Tale) -> None:
    terminal = Terminal(["serve"])
    terminal.read_until("Serving")
    second = Terminal(["serve"])

    assert second.end() == 3
    assert "already runs on" in second.plain
    assert "Traceback" not in second.plain
    assert states(tale)["gateway"][0] in ("starting", "running")
    terminal.interrupt()
    assert terminal.end() == 0


def test_serve_on_a_port_in_use_is_one_sentence(foreign: int) -> None:
    terminal = Terminal(["serve"])

    assert terminal.end() == 3
    assert f"\r\ntale: Port {foreign} is in use;" in terminal.plain
    assert "Traceback" not in terminal.plain


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--port", "80"), "greater than or equal to 1024"),
        (("serve", "--roles", "gateway,kitchen"), "There is no role 'kitchen'; choose from gateway, execution"),
        (("servers", "start", "--roles", " , "), "--roles names no role"),
        (("serve", "--host", "0.0.0.0"), "reachable by others: set api_key"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(
    tale: Tale, tale_home: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = tale(*arguments)

    assert done.code == 2
    assert said in done.err
    assert not (tale_home / "run" / "service.log").exists()


def test_servers_start_restart_and_stop_in_the_background(tale: Tale) -> None:
    started = in_subprocess("servers", "start", "--http", "--roles", "gateway,execution")
    first = states(tale)
    again = tale("servers", "start", "--roles", "gateway")
    restarted = in_subprocess("servers", "restart")
    second = states(tale)
    stopped, nothing = tale("servers", "stop"), tale("servers", "stop")

    assert (started.code, again.code, restarted.code, stopped.code, nothing.code) == (0, 3, 0, 0, 0)
    assert f"The gateway server runs already (pid {first['gateway'][1]}); `tale servers restart`" in again.err
    assert first["ux_agent"] == second["ux_agent"] == ("stopped", None)
    assert first["gateway"][1] != second["gateway"][1]
    assert (stopped.out, nothing.out) == ("The servers are stopped.\n", "No servers were running.\n")
    assert not psutil.pid_exists(second["gateway"][1] or 0)
    assert tale("servers", "status").code == 3


def test_servers_on_a_port_in_use_are_not_started_and_the_owner_is_named(tale: Tale, foreign: int) -> None:
    for command in (("servers", "start"), ("submit", "Work"), ("list",)):
        done = tale(*command)
        assert done.code == 3
        assert f"Port {foreign} is used by another program; stop it, or choose another port" in done.err
    status = tale("status")
    assert "is held by another program; TALE_GATEWAY_PORT chooses another port." in status.out
    assert "starts them" not in status.out


def test_a_command_starts_the_servers_by_itself_and_they_outlive_it(tale: Tale) -> None:
    first, second = in_subprocess("submit", "Work"), tale("submit", "More work")

    assert (first.code, first.out) == (0, "Hello world!\n")
    assert "Starting the servers" in first.err
    assert "Starting" not in second.err
    assert "2 completed" in tale("status").out


def test_work_is_told_that_servers_which_run_do_not_heed_its_settings(
    tale: Tale, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_subprocess("servers", "start")
    monkeypatch.setenv("TALE_ROUTING", "off")
    told = "The servers run with another routing; `tale servers restart` takes yours."
    done = tale("submit", "Work")

    assert (done.code, done.out) == (0, "Hello world!\n")
    assert told in done.err
    assert told in tale("chat", "-m", "Hello").err
    assert "another" not in tale("submit", "Work", "--json").err + tale("list").err
    assert in_subprocess("servers", "restart").code == 0
    assert told not in tale("submit", "Work").err


def test_an_interrupt_while_servers_start_leaves_no_task() -> None:
    terminal = Terminal(["submit", "Work"])
    terminal.read_until("Starting the servers")
    terminal.interrupt()

    assert terminal.end() == 130
    assert terminal.is_restored
    assert "tale: Interrupted before the task was handed in." in terminal.plain
    assert json.loads(in_subprocess("list", "--json").out)["tasks"] == []


def test_servers_that_cannot_start_say_why(tale: Tale, tale_home: Path) -> None:
    tale_home.mkdir()
    (tale_home / "tale.db").write_text("not a database" * 100)

    done = in_subprocess("submit", "Work")

    assert done.code == 3
    assert str(tale_home / "tale.db") in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert os.listdir(tale_home / "run")


def test_a_wait_outlives_the_death_of_the_service_and_of_its_watcher(
    engine: OllamaServer, monkeypatch: pytest.MonkeyPatch, tale: Tale
) -> None:
    gate = engine.script.gate = Gate()
    monkeypatch.setenv("TALE_MONITOR_INTERVAL_S", "0.2")
    monkeypatch.setenv("TALE_RESTART_DELAY_S", "0")
    terminal = Terminal(["submit", "Work"])
    terminal.read_until("large is writing")
    service = psutil.Process(states(tale)["gateway"][1])
    for process in (service.parent(), service):
        assert process is not None
        process.kill()
    terminal.read_until("The servers are back.")
    gate.set()

    assert terminal.end() == 0
    assert "Hello world!" in terminal.plain
    assert len(json.loads(tale("list", "--json").out)["tasks"]) == 1


def test_servers_that_are_stopped_on_purpose_are_not_brought_back_by_who_waits(
    engine: OllamaServer, monkeypatch: pytest.MonkeyPatch, tale: Tale
) -> None:
    engine.script.gate = Gate()
    monkeypatch.setenv("TALE_MONITOR_INTERVAL_S", "0.2")
    monkeypatch.setenv("TALE_RESTART_DELAY_S", "0")
    monkeypatch.setenv("TALE_STOP_GRACE_S", "0")
    terminal = Terminal(["submit", "Work"], columns=200)
    terminal.read_until("large is writing")
    tale("servers", "stop")

    assert terminal.end() == 3
    assert "The servers were stopped; the task is kept, and goes on when they run again" in terminal.plain
    assert {state for state, _ in states(tale).values()} == {"stopped"}
