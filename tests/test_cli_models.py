"""`tale models`: what there is, downloads that go wrong and go on, and deletion that asks first."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import COMMAND, Outcome, Terminal
from fakes.engine_script import EngineScript
from fakes.gateway import FakeGateway, model
from fakes.hub_server import HubServer
from fakes.in_thread import in_thread
from fakes.ollama_server import OllamaServer, served

from tale.models.download import ModelFiles

Tale = Callable[..., Outcome]

MODEL = "smollm2:135m"
FILE = "smollm2-135m.gguf"
SIZE_BYTES = 98_362_432


@pytest.fixture(scope="module")
def content(model_folder: Path) -> bytes:
    """The bytes of the smallest real model."""
    return ModelFiles(model_folder, hub_url="http://127.0.0.1:9").path(MODEL).read_bytes()


@pytest.fixture
def hub(content: bytes, tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with that model in both roles, and no packages to fall back to."""
    monkeypatch.setenv("TALE_UX_MODEL", MODEL)
    monkeypatch.setenv("TALE_TASK_MODEL", MODEL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with in_thread(served(HubServer(content))) as server:
        monkeypatch.setenv("TALE_HUB_URL", server.url)
        yield server


@pytest.fixture
def ollama(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OllamaServer]:
    """An Ollama with two models of its own."""
    monkeypatch.setenv("TALE_BACKEND", "auto")
    monkeypatch.setenv("TALE_UX_MODEL", "small")
    monkeypatch.setenv("TALE_TASK_MODEL", "large")
    with in_thread(served(OllamaServer(EngineScript(models=["small"])))) as server:
        monkeypatch.setenv("TALE_OLLAMA_URL", server.url)
        yield server


@pytest.fixture
def fetched(model_folder: Path, tale_home: Path) -> Path:
    """The models folder of a home that has the model."""
    folder = tale_home / "models"
    folder.mkdir(parents=True)
    (folder / FILE).hardlink_to(ModelFiles(model_folder, hub_url="http://127.0.0.1:9").path(MODEL))
    asyncio.run(ModelFiles(folder, hub_url="http://127.0.0.1:9").fetch(MODEL))
    return folder


def test_without_any_model_the_list_shows_what_could_be_fetched(tale: Tale, tale_home: Path) -> None:
    done = tale("models", "list")

    assert (done.code, done.err) == (0, "")
    assert "The embedded models are configured." in done.out
    for shown in ("qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b", MODEL, "not fetched", "98 MB", "Apache-2.0"):
        assert shown in done.out
    assert not tale_home.exists()


def test_the_list_tells_roles_and_what_the_servers_have_loaded(gateway: FakeGateway, tale: Tale) -> None:
    gateway.models = [model("qwen2.5-coder:0.5b", "ux", "ready", memory_bytes=700_000_000)]

    told = json.loads(tale("models", "list", "--json").out)

    rows = {row["name"]: row for row in told["models"]}
    assert rows["qwen2.5-coder:0.5b"]["state"] == "ready"
    assert rows["qwen2.5-coder:0.5b"]["memory_bytes"] == 700_000_000
    assert [rows[name]["role"] for name in ("qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b", MODEL)] == ["ux", "task", None]


def test_on_forty_columns_the_list_stays_within_them(tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    out = tale("models", "list").out

    assert max(len(line.rstrip()) for line in out.splitlines()) <= 40
    assert "not fetched  qwen2.5-coder:1.5b" in out


def test_the_models_of_ollama_are_listed_where_it_answers(ollama: OllamaServer, tale: Tale) -> None:
    out = tale("models", "list").out

    assert f"Ollama answers at {ollama.url}." in out
    assert out.splitlines()[2].split()[:3] == ["large", "task", "not"]
    assert out.splitlines()[3].split()[:3] == ["small", "ux", "available"]


def test_an_engine_that_serves_nothing_is_told(tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALE_BACKEND", "ollama")
    monkeypatch.setenv("TALE_OLLAMA_URL", "http://127.0.0.1:9")

    done = tale("models", "list")

    assert (done.code, done.out) == (3, "")
    assert "http://127.0.0.1:9" in done.err
    assert done.err.count("\n") == 1


@pytest.fixture
def two_ollamas(ollama: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[OllamaServer, OllamaServer]]:
    """An Ollama that has one of the two models, and one that has none."""
    with in_thread(served(OllamaServer(EngineScript(models=[])))) as other:
        monkeypatch.setenv("TALE_OLLAMA_URL", f"{ollama.url},{other.url}")
        yield ollama, other


def test_each_of_several_engines_is_listed_with_what_it_has(
    two_ollamas: tuple[OllamaServer, OllamaServer], tale: Tale, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two_ollamas
    monkeypatch.setenv("TALE_OLLAMA_URL", f"{one.url},{other.url},http://127.0.0.1:9")

    engines = json.loads(tale("models", "list", "--json").out)["engines"]

    assert [(engine["name"], engine["state"], engine["models"]) for engine in engines] == [
        (one.url, "available", ["small"]),
        (other.url, "lacking", []),
        ("http://127.0.0.1:9", "not answering", []),
    ]
    assert "does not answer" in engines[2]["error"]
    assert [one.url, "available", "small", "-", "-"] in [
        line.split() for line in tale("models", "list").out.splitlines()
    ]
    monkeypatch.setenv("COLUMNS", "40")
    narrow = tale("models", "list").out
    assert "not answering  http://127.0.0.1:9" in narrow


def test_running_servers_tell_how_their_engines_stand(
    two_ollamas: tuple[OllamaServer, OllamaServer], gateway: FakeGateway, tale: Tale
) -> None:
    one, other = two_ollamas
    known = {"models": ["small"], "running": 3, "seconds_per_token": 0.25, "error": None}
    gateway.engines = [
        {**known, "name": one.url, "state": "ready"},
        {**known, "name": other.url, "state": "resting", "error": "It answered [503]."},
    ]

    lines = [line.split() for line in tale("models", "list").out.splitlines()]

    assert [one.url, "ready", "small", "3", "0.250"] in lines
    assert [other.url, "resting", "small", "3", "0.250", "It", "answered", "[503]."] in lines


def test_pull_fetches_a_model_on_each_engine_that_lacks_it(
    two_ollamas: tuple[OllamaServer, OllamaServer], tale: Tale
) -> None:
    one, other = two_ollamas

    done = tale("models", "pull", "small")

    assert done.code == 0
    assert f"small is at {one.url} already.\n" in done.err
    assert f"small is at {other.url} now.\n" in done.err
    assert other.script.models == ["small"]


@pytest.mark.model
def test_pull_fetches_the_models_in_use_once(hub: HubServer, tale: Tale, tale_home: Path) -> None:
    first, second = tale("models", "pull"), tale("models", "pull", MODEL)

    assert (first.code, first.out) == (0, "")
    assert "Fetching these models once:\n  smollm2:135m: 98 MB, Apache-2.0, the model hub\n" in first.err
    assert first.err.splitlines()[-1] == "smollm2:135m is here now."
    assert (second.code, second.err) == (0, "smollm2:135m is here already.\n")
    assert len(hub.ranges) == 1
    assert (tale_home / "models" / FILE).stat().st_size == SIZE_BYTES


@pytest.mark.model
def test_an_interrupted_pull_keeps_what_has_arrived_and_goes_on_from_there(
    hub: HubServer, tale: Tale, tale_home: Path
) -> None:
    hub.faults = ["hold"]
    terminal = Terminal(["models", "pull"])
    terminal.read_until("/98.4 MB")
    terminal.interrupt()

    assert terminal.end() == 130
    assert terminal.is_restored
    arrived = (tale_home / "models" / "smollm2-135m.hub.part").stat().st_size
    assert "What has arrived is kept; the same command goes on from there." in terminal.plain
    assert tale("models", "pull").code == 0
    assert hub.ranges == [None, f"bytes={arrived}-"]


@pytest.mark.model
def test_a_pull_that_breaks_off_goes_on_by_itself(hub: HubServer, tale: Tale) -> None:
    hub.faults = ["cut"]

    assert tale("models", "pull").code == 0
    assert len(hub.ranges) == 2


@pytest.mark.model
def test_a_corrupted_download_is_thrown_away_and_said_to_be_wrong(hub: HubServer, tale: Tale, tale_home: Path) -> None:
    hub.faults = ["wrong"]

    done = tale("models", "pull")

    assert done.code == 3
    assert "what arrived is not smollm2:135m" in done.err.lower()
    assert done.err.splitlines()[-1].startswith("tale: The model smollm2:135m could not be fetched.")
    assert [path.name for path in (tale_home / "models").iterdir()] == ["smollm2-135m.lock"]


@pytest.mark.model
def test_an_unreachable_hub_is_named(hub: HubServer, tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALE_HUB_URL", "http://127.0.0.1:9")

    done = tale("models", "pull")

    assert done.code == 3
    assert "127.0.0.1 cannot be reached." in done.err
    assert "Check the network and try again" in done.err


@pytest.mark.model
def test_a_disk_that_takes_no_more_is_named_and_what_has_arrived_is_kept(hub: HubServer, tale_home: Path) -> None:
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000,) * 2)"
    limited = [sys.executable, "-c", f"{limit}; os.execv(sys.argv[1], sys.argv[1:])", *COMMAND, "models", "pull"]

    done = subprocess.run(limited, capture_output=True, text=True)

    assert done.returncode == 3
    assert f"it cannot be kept in {tale_home / 'models'} (File too large); free some space" in done.stderr
    assert hub.ranges == [None]
    assert (tale_home / "models" / "smollm2-135m.hub.part").stat().st_size > 0


def test_pull_of_an_unknown_model_names_those_there_are(tale: Tale) -> None:
    done = tale("models", "pull", "gpt-9")

    assert done.code == 3
    assert "There is no embedded model 'gpt-9'; choose from qwen2.5-coder:0.5b" in done.err
    assert done.err.count("\n") == 1


def test_ollama_pulls_what_is_missing(ollama: OllamaServer, tale: Tale) -> None:
    done = tale("models", "pull")

    assert done.code == 0
    assert done.err.splitlines()[0] == "small is here already."
    assert "large: 100 % of 2 kB" in done.err
    assert done.err.splitlines()[-1] == "large is here now."
    assert ollama.script.models == ["small", "large"]


def test_what_ollama_does_not_know_is_told(ollama: OllamaServer, tale: Tale) -> None:
    done = tale("models", "pull", "nowhere")

    assert done.code == 3
    assert "file does not exist" in done.err


@pytest.mark.model
def test_remove_asks_first(fetched: Path) -> None:
    terminal = Terminal(["models", "remove", MODEL])
    terminal.read_until_asked("Delete smollm2:135m (98 MB)? [y/N]: ")
    terminal.type("n\n")

    assert terminal.end() == 0
    assert "Nothing was deleted." in terminal.plain
    assert (fetched / FILE).exists()


@pytest.mark.model
def test_remove_deletes_the_file_and_says_how_it_comes_back(tale: Tale, fetched: Path) -> None:
    done = tale("models", "remove", MODEL, "--yes")

    assert (done.code, done.out) == (0, "smollm2:135m is deleted; `tale models pull smollm2:135m` brings it back.\n")
    assert not (fetched / FILE).exists()


@pytest.mark.model
@pytest.mark.parametrize("state", ["ready", "loading"])
def test_a_model_in_use_is_not_deleted(gateway: FakeGateway, tale: Tale, fetched: Path, state: str) -> None:
    gateway.models = [model(MODEL, "ux", state)]

    done = tale("models", "remove", MODEL, "--yes")

    assert (done.code, done.err) == (3, "tale: smollm2:135m is in use; `tale servers stop` first.\n")
    assert (fetched / FILE).exists()


def test_what_another_home_has_loaded_is_not_shown_as_ours(gateway: FakeGateway, tale: Tale) -> None:
    gateway.models = [model(MODEL, "ux")]
    assert {row["state"] for row in _rows(tale) if row["name"] == MODEL} == {"ready"}

    gateway.home = "/elsewhere"
    assert {row["state"] for row in _rows(tale) if row["name"] == MODEL} == {"not fetched"}


def _rows(tale: Tale) -> list[dict[str, Any]]:
    return json.loads(tale("models", "list", "--json").out)["models"]


@pytest.mark.model
def test_without_a_terminal_remove_wants_to_be_told(tale: Tale, fetched: Path) -> None:
    done = tale("models", "remove", MODEL)

    assert done.code == 2
    assert "Delete smollm2:135m (98 MB)? Nobody can be asked here; --yes does it without asking." in done.err
    assert (fetched / FILE).exists()


def test_what_is_not_here_cannot_be_deleted(tale: Tale) -> None:
    done = tale("models", "remove", MODEL, "--yes")

    assert (done.code, done.err) == (3, f"tale: There is no model '{MODEL}' on this machine; there is: none.\n")


def test_ollama_deletes_its_own_models(ollama: OllamaServer, tale: Tale) -> None:
    assert tale("models", "remove", "small", "--yes").code == 0
    assert ollama.script.models == []
