"""Whatever goes wrong, a command ends with one sentence and an exit code for scripts, never with a traceback."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from fakes.command_line import COMMAND, Outcome, in_subprocess
from fakes.gateway import FakeGateway, task
from typer.main import get_command

from tale import __version__
from tale.cli.application import application
from tale.cli.edge import exit_code_of, sentence
from tale.cli.invocation import Invocation
from tale.exceptions import (
    DatabaseException,
    ModelException,
    NetworkException,
    ServerException,
    TaskException,
    ValidationException,
)

Tale = Callable[..., Outcome]


def command_lines(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that can be typed, groups too."""
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from command_lines(command, (*path, name))


COMMAND_LINES = list(command_lines(get_command(application)))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValidationException("x"), 2),
        (TaskException("x", {"task_id": "1"}), 2),
        (TaskException("x"), 1),
        (NetworkException("x"), 3),
        (ServerException("x"), 3),
        (ModelException("x"), 3),
        (DatabaseException("x"), 3),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
        (typer.BadParameter("x"), 2),
        (BrokenPipeError(), 141),
        (ZeroDivisionError(), 1),
    ],
)
def test_each_error_has_the_documented_exit_code(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


def test_an_address_and_a_cause_are_told_unless_the_message_has_them() -> None:
    error = NetworkException("http://a:1 does not answer.", {"url": "http://a:1", "cause": "refused"})

    assert sentence(error) == "http://a:1 does not answer. (refused)"


def test_help_names_the_commands_and_the_exit_codes(tale: Tale) -> None:
    done = tale("--help")

    assert done.code == 0
    for name in (path[0] for path in COMMAND_LINES):
        assert f"  {name} " in done.out
    assert "130 interrupted" in done.out
    assert tale().out == done.out


@pytest.mark.parametrize("path", COMMAND_LINES, ids=" ".join)
def test_each_command_has_help_that_says_what_it_does(tale: Tale, tale_home: Path, path: tuple[str, ...]) -> None:
    done = tale(*path, "--help")

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: tale {' '.join(path)} ")
    assert done.out.splitlines()[2].strip()
    assert not tale_home.exists()


@pytest.mark.parametrize("group", sorted({path[0] for path in COMMAND_LINES if len(path) > 1}))
def test_a_group_named_alone_shows_its_help(tale: Tale, group: str) -> None:
    done = tale(group)

    assert (done.code, done.out) == (0, tale(group, "--help").out)


def test_help_loads_neither_http_nor_databases_nor_protocol() -> None:
    heavy = ("aiohttp", "sqlalchemy", "mcp", "pydantic", "rich.table", "rich.markdown", "psutil")
    code = (
        f"import sys; from tale.cli.main import main; main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_status_does_without_aiohttp_the_protocol_sdk_and_the_database(gateway: FakeGateway) -> None:
    heavy = ("aiohttp", "sqlalchemy", "mcp", "ollama", "alembic")
    code = (
        f"import sys; from tale.cli.main import main; main(['status']); print([m for m in {heavy} if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_told(tale: Tale) -> None:
    assert tale("version").out.startswith(f"tale {__version__} (Python 3.")
    assert tale("--version").out == tale("version").out


def test_an_unknown_command_is_one_sentence(tale: Tale) -> None:
    done = tale("submitt")

    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "No such command 'submitt'" in done.err


def test_a_bad_setting_is_one_sentence(tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALE_GATEWAY_PORT", "80")

    done = tale("status")

    assert done.code == 2
    assert done.err.startswith("tale: Setting gateway_port (environment)")
    assert done.err.count("\n") == 1


def test_home_on_the_command_line_goes_before_the_environment(tale: Tale, tmp_path: Path) -> None:
    assert str(tmp_path / "other") in tale("--home", str(tmp_path / "other"), "config", "show").out


def test_an_empty_home_is_refused_rather_than_taken_for_the_working_folder(tale: Tale, tmp_path: Path) -> None:
    done = tale("--home", "", "list")

    assert done.code == 2
    assert done.err == "tale: Setting home: it is empty; name a folder, or leave it out for ~/.tale.\n"
    assert not (tmp_path / "run").exists()


def test_what_nobody_foresaw_is_one_sentence_and_its_traceback_is_logged(
    gateway: FakeGateway, tale: Tale, tale_home: Path
) -> None:
    broken = task("x")
    del broken["usage"]
    gateway.tasks[broken["id"]] = broken

    done = tale("status", broken["id"])

    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "nobody foresaw (KeyError)" in done.err
    assert str(tale_home / "run" / "cli.log") in done.err
    assert "Traceback" in (tale_home / "run" / "cli.log").read_text()


def test_the_log_is_its_owners_alone_and_holds_nothing_that_stood_behind_the_command(
    gateway: FakeGateway, tale_home: Path
) -> None:
    broken = task("x")
    del broken["usage"]
    gateway.tasks[broken["id"]] = broken
    log = tale_home / "run" / "cli.log"
    log.parent.mkdir(parents=True)
    log.touch(mode=0o644)

    in_subprocess("status", broken["id"])

    assert log.stat().st_mode & 0o777 == 0o600
    assert log.read_text().splitlines()[0].endswith(" tale status")
    assert broken["id"] not in log.read_text()


def test_a_log_that_cannot_be_written_is_not_named(gateway: FakeGateway, tale: Tale, tale_home: Path) -> None:
    broken = task("x")
    del broken["usage"]
    gateway.tasks[broken["id"]] = broken
    tale_home.touch()

    done = tale("status", broken["id"])

    assert (done.code, done.err) == (1, "tale: Something went wrong that nobody foresaw (KeyError).\n")


def test_what_goes_wrong_before_the_settings_are_read_is_logged_in_the_home_that_was_meant(
    tale: Tale, tale_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALE_GATEWAY_PORT", "80")

    assert Invocation().log_path() == tale_home / "run" / "cli.log"
    assert Invocation(home="/elsewhere").log_path() == Path("/elsewhere/run/cli.log")


def test_a_home_that_cannot_be_made_is_one_sentence(tale: Tale, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    done = tale("--home", str(tmp_path / "file"), "submit", "Work")

    assert done.code == 3
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err


def test_a_reader_that_goes_away_is_no_error_worth_a_word(gateway: FakeGateway) -> None:
    for _ in range(5):
        view = task("x" * 5_000)
        gateway.tasks[view["id"]] = view
    process = subprocess.Popen([*COMMAND, "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()

    assert (process.wait(30), said) == (141, b"")


@pytest.mark.parametrize("command", [("list", "--json"), ("--help",), ("status",)])
def test_a_full_disk_under_the_output_is_one_sentence(gateway: FakeGateway, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, text=True)

    assert done.returncode == 1
    assert done.stderr.startswith("tale: No space left on device;")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_obstacle(gateway: FakeGateway, closed: str) -> None:
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "submit", "Work"]

    done = subprocess.run(shell, capture_output=True, text=True)

    assert done.returncode == 0
    assert done.stdout.startswith("# Answer") == (">&-" not in closed.replace("2>&-", ""))
    assert ("tokens:" in done.stderr) == ("2>&-" not in closed)


@pytest.mark.parametrize("program", ["yes", "cat /dev/zero"])
def test_a_pipe_that_never_ends_is_not_read_for_ever(tale_home: Path, program: str) -> None:
    shell = ["sh", "-c", f'{program} | "$@"', "sh", *COMMAND, "submit", "-"]

    done = subprocess.run(shell, capture_output=True, text=True)

    assert done.returncode == 2
    assert "more than 80,000 bytes; a task has at most 10,000 characters" in done.stderr
    assert not tale_home.exists()


def test_a_shell_is_told_what_could_be_typed_next(tale_home: Path) -> None:
    asked = {"_TALE_COMPLETE": "complete_bash", "COMP_WORDS": "tale s", "COMP_CWORD": "1"}

    assert set(in_subprocess(env=asked).out.split()) == {"submit", "status", "serve", "servers"}


def test_a_terminal_without_a_character_shows_a_question_mark(gateway: FakeGateway) -> None:
    view = task("x", result="π")
    gateway.tasks[view["id"]] = view

    done = in_subprocess("result", view["id"], env={"PYTHONIOENCODING": "ascii"})

    assert (done.code, done.out) == (0, "?\n")


IMPATIENT = """
import os, signal, sys

class Impatient:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Impatient())
from tale.cli.main import main
sys.exit(main(["status"]))
"""


@pytest.mark.parametrize("module", ["tale.cli.edge", "typer", "tale.cli.application", "psutil"])
def test_an_interrupt_while_a_command_is_loaded_leaves_no_traceback(tale_home: Path, module: str) -> None:
    done = subprocess.run([sys.executable, "-c", IMPATIENT, module], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr
