"""What people see on a terminal: progress while they wait, answers that read well, nothing left behind by Ctrl-C."""

import json
from collections.abc import Callable, Iterator

import pytest
from fakes.command_line import ESCAPE, Outcome, Terminal
from fakes.gateway import FakeGateway, model, task

Tale = Callable[..., Outcome]


@pytest.fixture
def busy(gateway: FakeGateway) -> Iterator[FakeGateway]:
    """A gateway whose tasks do not end by themselves."""
    gateway.finish.clear()
    yield gateway
    gateway.finish.set()


def waiting_on(gateway: FakeGateway, *options: str) -> tuple[Terminal, str]:
    """A command that waits for its task; returns the task's id too."""
    gateway.steps = [(7, "large-model is writing")]
    gateway.outcome = {"status": "running", "result": None}
    terminal = Terminal(["submit", "Work", *options])
    terminal.read_until("7 tokens")
    return terminal, next(iter(gateway.tasks))


def test_a_wait_shows_what_goes_on_with_tokens_and_leaves_no_trace(busy: FakeGateway) -> None:
    busy.steps = [(0, "Queued"), (1_234, "large-model is writing")]
    terminal = Terminal(["submit", "Work"])
    terminal.read_until("large-model is writing")
    terminal.read_until("1,234 tokens")
    busy.finish.set()

    assert terminal.end() == 0
    assert terminal.is_restored
    assert terminal.raw.endswith("total 3.00 s\x1b[0m\r\n")


def test_an_answer_is_set_as_markdown_with_its_lines_kept(gateway: FakeGateway) -> None:
    gateway.outcome = {"result": "# Rain\n\nMorning sun breaks,\nBirds chirp.\n\n```python\nprint('hi')\n```\n"}
    terminal = Terminal(["submit", "Work"])

    assert terminal.end() == 0
    assert "Morning sun breaks,\r\nBirds chirp." in terminal.plain.replace(" \r", "\r").replace("  ", "")
    assert "```" not in terminal.plain
    assert "# Rain" not in terminal.plain


def test_an_answer_cannot_steer_the_terminal(gateway: FakeGateway) -> None:
    gateway.outcome = {"result": "before\x1b[2J\x1b]0;title\x07\x9b31mafter"}
    gateway.steps = [(1, "large-model\x1b[2J is writing")]
    terminal = Terminal(["submit", "Work"])

    assert terminal.end() == 0
    assert "\x1b[2J" not in terminal.raw
    assert "\x1b]" not in terminal.raw
    assert "\x9b" not in terminal.raw


def test_in_a_pipe_the_answer_is_bare_while_the_wait_is_shown_on_the_terminal(gateway: FakeGateway) -> None:
    terminal = Terminal(["submit", "Work"], stdout_in_pipe=True)

    assert terminal.end() == 0
    assert terminal.piped == "# Answer\n\n```python\nprint('hello')\n```\n"
    assert "Answer" not in terminal.plain


def test_downloads_have_a_bar_each_until_all_is_there(busy: FakeGateway) -> None:
    small = model("small-model", "ux", "downloading", done_bytes=100_000_000, size_bytes=400_000_000)
    busy.models = [small, model("large-model", "task", "missing", size_bytes=1_000_000_000)]
    terminal = Terminal(["submit", "Work"])
    terminal.read_until("100.0/400.0 MB")
    terminal.read_until("0.0/1.0 GB")
    busy.finish.set()

    assert terminal.end() == 0
    assert terminal.plain.count("Fetching these models once:") == 1


@pytest.mark.parametrize("columns", [20, 40, 50, 80])
def test_no_line_of_a_wait_is_wider_than_the_terminal(busy: FakeGateway, columns: int) -> None:
    busy.models = [model("small-model", "ux", "downloading", done_bytes=1, size_bytes=4)]
    busy.steps = [(7, "large-model is reading a task that has a very long name indeed (5 of 9 tokens)")]
    terminal = Terminal(["submit", "Work"], columns=columns)
    terminal.read_until("small-model")
    terminal.read_until("25%" if columns < 80 else "1/4 bytes")
    busy.finish.set()

    assert terminal.end() == 0
    assert max(len(line) for line in terminal.lines) <= columns


@pytest.mark.parametrize("command", ["list", "status"])
@pytest.mark.parametrize("columns", ["40", "64", "80", "99", "100"])
def test_the_id_of_a_task_is_whole_at_every_width(
    gateway: FakeGateway, tale: Tale, monkeypatch: pytest.MonkeyPatch, columns: str, command: str
) -> None:
    view = task("Explain in detail how a write-ahead log works", status="completed", age_s=735.0)
    gateway.tasks[view["id"]] = view
    monkeypatch.setenv("COLUMNS", columns)

    out = tale(command).out

    assert view["id"] in out
    assert "Explain in detail" in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= int(columns)


def test_a_dumb_terminal_gets_plain_lines_of_its_own_width(gateway: FakeGateway) -> None:
    gateway.steps = [(1, "large-model is writing")]
    terminal = Terminal(["submit", "Work"], kind="dumb", columns=60)

    assert terminal.end() == 0
    assert not ESCAPE.search(terminal.raw)
    assert "large-model is writing\r\n" in terminal.raw
    assert max(len(line) for line in terminal.lines) <= 60


def test_colours_are_left_out_for_who_wants_none(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    view = task("Work", status="failed", error="No.")
    gateway.tasks[view["id"]] = view
    coloured = Terminal(["list"])
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal(["list"])

    assert (coloured.end(), plain.end()) == (0, 0)
    assert "\x1b[31m" in coloured.raw
    assert "\x1b[3" not in plain.raw


def test_status_shows_how_far_a_download_is_and_can_be_watched(gateway: FakeGateway) -> None:
    gateway.models = [model("small-model", "ux", "downloading", done_bytes=1, total_bytes=4, size_bytes=4)]
    terminal = Terminal(["status", "--watch"])
    terminal.read_until("downloading 25%")
    gateway.models = [model("small-model", "ux", "downloading", done_bytes=3, total_bytes=4, size_bytes=4)]
    terminal.read_until("downloading 75%")
    terminal.read_until("None yet")
    terminal.interrupt()

    assert terminal.end() == 130
    assert terminal.is_restored
    assert terminal.raw.endswith("\r\ntale: Interrupted.\r\n")


def test_an_interrupt_leaves_the_task_running_and_says_how_to_find_it(busy: FakeGateway) -> None:
    terminal, task_id = waiting_on(busy)
    terminal.interrupt()

    assert terminal.end() == 130
    assert terminal.is_restored
    told = " ".join("".join(terminal.lines).split())
    assert f"tale: Interrupted; the task runs on: `tale status {task_id}` tells how it goes" in told
    assert busy.asked("cancel_task") == []


def test_with_cancel_on_interrupt_the_task_is_cancelled(busy: FakeGateway) -> None:
    terminal, task_id = waiting_on(busy, "--cancel-on-interrupt")
    terminal.interrupt()

    assert terminal.end() == 130
    assert f"tale: Interrupted; task {task_id} is cancelled." in terminal.plain
    assert busy.asked("cancel_task") == [{"task_id": task_id}]


def test_a_cancel_that_is_still_on_its_way_is_said_to_be(busy: FakeGateway) -> None:
    busy.cancels = False
    terminal, task_id = waiting_on(busy, "--cancel-on-interrupt")
    terminal.interrupt()

    assert terminal.end() == 130
    assert f"tale: Interrupted; task {task_id} is being cancelled." in terminal.plain


def test_json_stays_empty_when_a_wait_is_interrupted(busy: FakeGateway) -> None:
    busy.steps = [(7, "large-model is writing")]
    terminal = Terminal(["submit", "Work", "--json"], stdout_in_pipe=True)
    terminal.read_until("7 tokens")
    terminal.interrupt()

    assert (terminal.end(), terminal.piped) == (130, "")


def test_watching_a_task_can_be_interrupted(busy: FakeGateway) -> None:
    view = task("Work", status="running")
    busy.tasks[view["id"]] = view
    busy.steps = [(7, "large-model is writing")]
    terminal = Terminal(["status", view["id"], "--watch"])
    terminal.read_until("7 tokens")
    terminal.interrupt()

    assert terminal.end() == 130
    assert terminal.is_restored
    assert "tale: Interrupted." in terminal.plain
    assert busy.asked("cancel_task") == []


def test_stdin_on_a_terminal_is_not_waited_for(gateway: FakeGateway) -> None:
    terminal = Terminal(["submit", "-"])

    assert terminal.end() == 2
    assert '"-" reads the task from a pipe' in terminal.plain


def test_a_followed_task_that_was_cancelled_elsewhere_ends_the_wait(busy: FakeGateway, tale: Tale) -> None:
    terminal, task_id = waiting_on(busy)
    assert json.loads(tale("cancel", task_id, "--json").out)["status"] == "cancelled"
    busy.finish.set()

    assert terminal.end() == 1
    assert f"tale: Task {task_id} was cancelled." in terminal.plain
