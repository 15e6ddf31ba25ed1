"""`tale clean`: throws away what can be had again, after asking, and nothing that a running server needs."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from fakes.command_line import Outcome, Terminal
from fakes.gateway import FakeGateway
from filelock import FileLock, Timeout

from tale import __version__
from tale.orchestration.run_state import ServiceState, write_state

Tale = Callable[..., Outcome]

KEPT = ("tale.db", "tale.toml", "models/small.gguf", "models/small.verified", "backups/tale-1.db", "run/gateway.lock")
IN_USE = ("run/service.log", "run/engines.log", "models/small.hub.part", "models/small.lock", "run/service-1.json")
FREE = ("run/cli.log", "run/service.log.1", "cache/frames/a")


@pytest.fixture
def filled(tale_home: Path) -> Path:
    """A home with a thousand bytes in each file."""
    for name in (*KEPT, *IN_USE, *FREE):
        path = tale_home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"#" * 1_000)
    return tale_home


def present(home: Path, names: tuple[str, ...]) -> list[str]:
    """Those of the files that are there."""
    return [name for name in names if (home / name).exists()]


def test_with_yes_leftovers_go_and_all_else_stays(tale: Tale, filled: Path) -> None:
    done = tale("clean", "--yes")

    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == "8 kB freed."
    assert present(filled, (*IN_USE, *FREE)) == []
    assert present(filled, KEPT) == list(KEPT)


def test_a_dry_run_names_what_would_go_and_deletes_nothing(tale: Tale, filled: Path) -> None:
    done = tale("clean", "--dry-run")

    assert done.code == 0
    assert str(filled / "models" / "small.hub.part") in done.out
    assert done.out.splitlines()[-1] == "8 kB would be freed."
    assert present(filled, (*IN_USE, *FREE)) == [*IN_USE, *FREE]


def test_while_servers_run_their_files_stay(gateway: FakeGateway, tale: Tale, filled: Path) -> None:
    done = tale("clean", "--yes")

    assert "`tale servers stop` first for those." in done.err
    assert present(filled, (*IN_USE, *FREE)) == list(IN_USE)


def test_the_gateway_of_another_machine_keeps_no_files_here(
    gateway: FakeGateway, tale: Tale, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.home = "/somewhere/else"
    monkeypatch.setenv("TALE_GATEWAY_URL", gateway.url)

    done = tale("clean", "--yes")

    assert (done.code, done.err) == (0, "")
    assert present(filled, (*IN_USE, *FREE)) == []


def test_what_a_service_that_the_settings_name_too_has_open_stays(
    gateway: FakeGateway, tale: Tale, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for role in ("GATEWAY", "UX_AGENT"):
        monkeypatch.setenv(f"TALE_{role}_URL", gateway.url)
    started_at = psutil.Process().create_time()
    write_state(filled / "run", ServiceState(os.getpid(), started_at, ("gateway",), __version__, background=True))

    done = tale("clean", "--yes")

    assert "`tale servers stop` first for those." in done.err
    assert present(filled, IN_USE) == list(IN_USE)


def test_what_a_model_that_is_being_fetched_has_stays(tale: Tale, filled: Path) -> None:
    (filled / "models" / "other.lock").touch()
    (filled / "models" / "other.000.part").touch()

    with FileLock(filled / "models" / "small.lock"):
        done = tale("clean", "--yes")

    assert (done.code, done.err) == (0, "small is being fetched: what has arrived stays.\n")
    assert present(filled, (*IN_USE, *FREE)) == ["models/small.hub.part", "models/small.lock"]
    assert present(filled, ("models/other.lock", "models/other.000.part")) == []


def test_no_download_is_taken_up_while_its_parts_are_thrown_away(filled: Path) -> None:
    terminal = Terminal(["clean"])
    terminal.read_until_asked("[y/N]: ")

    with pytest.raises(Timeout):
        FileLock(filled / "models" / "small.lock").acquire(timeout=0)
    terminal.type("y\n")

    assert terminal.end() == 0
    assert present(filled, IN_USE) == []


def test_where_nobody_can_be_asked_nothing_is_deleted(tale: Tale, filled: Path) -> None:
    done = tale("clean")

    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("tale: Delete these 8 (8 kB)? Nobody can be asked here; --yes")
    assert present(filled, (*IN_USE, *FREE)) == [*IN_USE, *FREE]


@pytest.mark.parametrize(("answer", "left", "said"), [("y\n", [], "8 kB freed."), ("\n", list(FREE), "Nothing was")])
def test_on_a_terminal_it_asks(filled: Path, answer: str, left: list[str], said: str) -> None:
    terminal = Terminal(["clean"])
    terminal.read_until_asked("Delete these 8 (8 kB)? [y/N]: ")
    terminal.type(answer)

    assert terminal.end() == 0
    assert said in terminal.plain
    assert present(filled, FREE) == left


def test_an_interrupt_instead_of_an_answer_deletes_nothing(filled: Path) -> None:
    terminal = Terminal(["clean"])
    terminal.read_until_asked("[y/N]: ")
    terminal.interrupt()

    assert terminal.end() == 130
    assert terminal.is_restored
    assert "\r\ntale: Interrupted." in terminal.plain
    assert present(filled, FREE) == list(FREE)


def test_where_there_is_nothing_it_says_so_and_makes_nothing(tale: Tale, tale_home: Path) -> None:
    assert tale("clean").out == "There is nothing to clean.\n"
    assert not tale_home.exists()


def test_what_goes_by_itself_in_the_meantime_is_no_error(filled: Path) -> None:
    terminal = Terminal(["clean"])
    terminal.read_until_asked("[y/N]: ")
    (filled / "run" / "service.log.1").unlink()
    terminal.type("y\n")

    assert terminal.end() == 0
