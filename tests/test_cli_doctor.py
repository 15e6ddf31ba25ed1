"""`tale doctor`: what it finds is ok, a warning or a failure, and what is not ok comes with the way to mend it."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.command_line import Outcome
from fakes.engine_script import EngineScript
from fakes.gateway import FakeGateway
from fakes.in_thread import in_thread
from fakes.ollama_server import OllamaServer, served
from fakes.openai_server import OpenAIServer

from tale.cli import checks
from tale.cli.checks import Check
from tale.orchestration.server_manager import ServerStatus

Tale = Callable[..., Outcome]
GIGABYTE = 10**9


@pytest.fixture
def ollama(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaServer]:
    """An Ollama that has one of the two models in use."""
    monkeypatch.setenv("TALE_BACKEND", "auto")
    monkeypatch.setenv("TALE_UX_MODEL", "small")
    monkeypatch.setenv("TALE_TASK_MODEL", "large")
    with in_thread(served(OllamaServer(EngineScript(models=["small"])))) as server:
        monkeypatch.setenv("TALE_OLLAMA_URL", server.url)
        yield server


def found(tale: Tale) -> dict[str, dict[str, str | None]]:
    """Every finding by name, as programs get them."""
    return {check["name"]: check for check in json.loads(tale("doctor", "--json").out)}


def test_a_fresh_machine_is_well_but_for_the_models_that_are_to_come(tale: Tale, tale_home: Path) -> None:
    done = tale("doctor")

    assert (done.code, done.err) == (0, "")
    assert f"ok    home: {tale_home}, which will be made\n" in done.out
    assert "ok    database: none yet; it will be made at the first start\n" in done.out
    assert "ok    engine: The embedded models are configured.\n" in done.out
    assert "warn  model qwen2.5-coder:1.5b: not fetched yet (1.1 GB)\n" in done.out
    assert "      The first task fetches it; so does `tale models pull qwen2.5-coder:1.5b`.\n" in done.out
    assert not tale_home.exists()


def test_running_servers_of_this_home_hold_their_ports_rightly(gateway: FakeGateway, tale: Tale) -> None:
    assert found(tale)["port of gateway"]["found"] == f"{gateway.url} is ours, and running"


def test_a_port_of_somebody_else_fails_and_gives_exit_code_1(gateway: FakeGateway, tale: Tale) -> None:
    gateway.home = "/somewhere/else"

    done = tale("doctor")

    assert done.code == 1
    assert f"fail  port of gateway: {gateway.url} is held by a tale of another home (/somewhere/else)\n" in done.out
    assert "      Stop it, or choose another port with TALE_GATEWAY_PORT or in tale.toml.\n" in done.out
    assert tale("doctor", "--json").code == 1


def test_a_gateway_that_the_settings_name_has_to_answer(
    gateway: FakeGateway, tale: Tale, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.home = "/somewhere/else"
    monkeypatch.setenv("TALE_GATEWAY_URL", gateway.url)
    well = found(tale)
    monkeypatch.setenv("TALE_GATEWAY_URL", "http://127.0.0.1:9")
    ill = found(tale)["gateway"]

    assert (well["gateway"]["state"], well["gateway"]["found"]) == ("ok", f"{gateway.url} answers")
    assert not any(name.startswith("port of") for name in well)
    assert ill["state"] == "fail"
    assert ill["fix"] == "Start it there, or leave gateway_url out."


def test_ollama_is_named_with_why_and_what_it_lacks(ollama: OllamaServer, tale: Tale) -> None:
    told = found(tale)

    assert told["engine"]["found"] == f"Ollama answers at {ollama.url}."
    assert told["model small"]["state"] == "ok"
    assert (told["model large"]["state"], told["model large"]["fix"]) == (
        "warn",
        "The first task fetches it; so does `tale models pull large`.",
    )
    assert "memory" not in told  # Ollama's models are Ollama's business


@pytest.mark.parametrize("backend", ["ollama", "openai"])
def test_an_engine_that_does_not_answer_fails(tale: Tale, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("TALE_BACKEND", backend)
    monkeypatch.setenv("TALE_OLLAMA_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TALE_OPENAI_URL", "http://127.0.0.1:9/v1")

    engine = found(tale)["engine"]

    assert engine["state"] == "fail"
    assert "http://127.0.0.1:9" in str(engine["found"])
    assert engine["fix"]


def test_each_of_several_engines_is_told_with_what_it_lacks(
    ollama: OllamaServer, tale: Tale, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_thread(served(OllamaServer(EngineScript(models=["small", "large"])))) as other:
        monkeypatch.setenv("TALE_OLLAMA_URL", f"{ollama.url},{other.url},http://127.0.0.1:9")
        told = found(tale)

    assert told["engine"]["state"] == "ok"
    assert told[f"engine {other.url}"]["found"] == "it has small and large"
    lacking = told[f"engine {ollama.url}"]
    assert (lacking["state"], lacking["found"]) == ("warn", "it does not have large")
    down = told["engine http://127.0.0.1:9"]
    assert (down["state"], down["fix"]) == ("warn", "Start it; until then the other engines do its work.")
    assert told["model large"]["state"] == "ok"


def test_when_none_of_several_engines_answers_both_are_named(tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALE_BACKEND", "ollama")
    monkeypatch.setenv("TALE_OLLAMA_URL", "http://127.0.0.1:9,http://127.0.0.1:10")

    engine = found(tale)["engine"]

    assert engine["state"] == "fail"
    assert "http://127.0.0.1:9" in str(engine["found"])
    assert "http://127.0.0.1:10" in str(engine["found"])


def test_a_database_of_another_version_is_a_warning(tale: Tale, tale_home: Path) -> None:
    tale("db", "upgrade")
    assert found(tale)["database"]["state"] == "ok"
    with sqlite3.connect(tale_home / "tale.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()

    database = found(tale)["database"]

    assert database["state"] == "warn"
    assert "schema 0000, this tale knows" in str(database["found"])
    assert "`tale db upgrade`" in str(database["fix"])


def test_a_database_of_a_newer_tale_fails_and_gives_exit_code_1(tale: Tale, tale_home: Path) -> None:
    tale("db", "upgrade")
    with sqlite3.connect(tale_home / "tale.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    database = found(tale)["database"]

    assert (tale("doctor").code, database["state"]) == (1, "fail")
    assert database["fix"] == f"Update tale, or put back a copy from {tale_home / 'backups'}."


def test_a_model_that_no_catalogue_has_fails(tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALE_TASK_MODEL", "gpt-9")

    told = found(tale)["model gpt-9"]

    assert (tale("doctor").code, told["state"], told["found"]) == (1, "fail", "the engine does not have it")


def test_what_is_no_database_fails(tale: Tale, tale_home: Path) -> None:
    tale_home.mkdir()
    (tale_home / "tale.db").write_text("not a database" * 100)

    assert found(tale)["database"]["state"] == "fail"


def test_a_home_that_is_a_file_fails(tale: Tale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TALE_HOME", str(tmp_path / "file" / "home"))

    home = found(tale)["home"]

    assert home["state"] == "fail"
    assert f"Make {tmp_path / 'file'} writable for this user, or choose another folder" in str(home["fix"])


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 9), "warn"), ((3, 11, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "warn")]
)
def test_python_is_one_of_those_tale_is_tested_on(version: tuple[int, int, int], state: str) -> None:
    assert checks.python_version(version).state == state


@pytest.mark.parametrize(("needed", "state"), [(True, "fail"), (False, "warn")])
def test_a_missing_openmp_library_names_its_package(needed: bool, state: str) -> None:
    check = checks.openmp("libgomp-that-is-missing.so.1", needed=needed)

    assert (check.state, check.fix) == (state, "apt-get install libgomp1")
    assert checks.openmp(checks.OPENMP, needed=needed).state == "ok"


def test_a_port_of_an_unknown_program_is_said_to_be_so() -> None:
    check = checks.port(ServerStatus("ux_agent", "http://127.0.0.1:8082", "foreign"))

    assert check.found == "http://127.0.0.1:8082 is held by another program"
    assert "TALE_UX_AGENT_PORT" in str(check.fix)


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (checks.disk(2 * GIGABYTE, needed_bytes=GIGABYTE), "ok"),
        (checks.disk(GIGABYTE, needed_bytes=2 * GIGABYTE), "fail"),
        (checks.memory(2 * GIGABYTE, needed_bytes=GIGABYTE), "ok"),
        (checks.memory(GIGABYTE, needed_bytes=2 * GIGABYTE), "warn"),
    ],
)
def test_room_is_measured_against_what_will_come(check: Check, state: str) -> None:
    assert check.state == state
    assert "1.0 GB" in check.found
    assert "2.0 GB" in check.found
    assert (check.fix is None) == (state == "ok")


def test_a_model_that_another_engine_does_not_have_is_a_warning(tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALE_TASK_MODEL", "gpt-9")
    monkeypatch.setenv("TALE_BACKEND", "openai")
    with in_thread(served(OpenAIServer(EngineScript(models=["small"])))) as server:
        monkeypatch.setenv("TALE_OPENAI_URL", server.base_url)
        told = found(tale)["model gpt-9"]

    assert (told["state"], told["found"]) == ("warn", "the engine does not have it")
