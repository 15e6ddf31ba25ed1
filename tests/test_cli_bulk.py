"""`tale submit --file`: checked as a whole, handed in once however often it is run, followed to the last end."""

import io
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import Outcome, Terminal
from fakes.gateway import FakeGateway

from tale.cli.interrupting import are_cancelled
from tale.cli.task_file import TaskFile
from tale.exceptions import TaskException
from tale.settings import load_settings

Tale = Callable[..., Outcome]


def write(folder: Path, *lines: dict[str, Any] | str, name: str = "tasks.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def sent(gateway: FakeGateway) -> list[dict[str, Any]]:
    return [each for call in gateway.asked("submit_tasks") for each in call["tasks"]]


def test_each_line_is_a_task_with_options_of_its_own_over_those_of_the_command(
    gateway: FakeGateway, tale: Tale, tmp_path: Path
) -> None:
    file = write(tmp_path, {"text": "one"}, "", {"text": "two", "priority": 7, "expect": {"regex": "x"}})

    done = tale("submit", "--file", file, "--priority", "3", "--max-tokens", "9")

    one, two = sent(gateway)
    assert (one["text"], one["priority"], one["max_output_tokens"]) == ("one", 3, 9)
    assert (two["text"], two["priority"], two["expect"]) == ("two", 7, {"regex": "x"})
    ids = [view["id"] for view in gateway.tasks.values()]
    assert (done.code, done.out) == (0, f"{ids[0]}  completed\n{ids[1]}  completed\n")
    assert "2 of 2 tasks have ended" in done.err
    assert "2 tasks: 2 completed." in done.err


def test_json_prints_a_line_for_each_task_and_nothing_else(gateway: FakeGateway, tale: Tale, tmp_path: Path) -> None:
    file = write(tmp_path, "", {"text": "one"}, {"text": "two"})

    done = tale("submit", "--file", file, "--json")

    views = [json.loads(line) for line in done.out.splitlines()]
    assert [(view["line"], view["text"], view["status"]) for view in views] == [
        (2, "one", "completed"),
        (3, "two", "completed"),
    ]
    assert views[0]["result"]


def test_a_failed_task_gives_exit_code_1_with_its_line_and_reason(
    gateway: FakeGateway, tale: Tale, tmp_path: Path
) -> None:
    gateway.outcomes = {"two": {"status": "failed", "error": "It broke."}}
    file = write(tmp_path, {"text": "one"}, {"text": "two"}, {"text": "three"})

    done = tale("submit", "--file", file)

    assert done.code == 1
    assert [line.split()[1] for line in done.out.splitlines()] == ["completed", "failed", "completed"]
    assert "Line 2: Task" in done.err
    assert "It broke." in done.err
    assert "3 tasks: 2 completed, 1 failed." in done.err


def test_a_second_run_hands_in_only_what_is_new(gateway: FakeGateway, tale: Tale, tmp_path: Path) -> None:
    first = tale("submit", "--file", write(tmp_path, {"text": "same"}, {"text": "same"}), "--no-wait")
    more = write(tmp_path, {"text": "same"}, {"text": "same"}, {"text": "same"}, name="other.jsonl")
    second = tale("submit", "--file", more, "--no-wait")

    assert len(first.out.split()) == 2
    assert second.out.split()[:2] == first.out.split()
    assert len(gateway.tasks) == 3
    assert gateway.asked("wait_for_task") == []

    tale("submit", "--file", more, "--no-wait", "--anew")
    assert len(gateway.tasks) == 6


def test_a_file_with_wrong_lines_is_refused_as_a_whole_with_their_numbers(
    gateway: FakeGateway, tale: Tale, tmp_path: Path
) -> None:
    file = write(
        tmp_path,
        {"text": "fine"},
        "{",
        "[1]",
        {"txt": "x"},
        {"priority": 1},
        {"text": " "},
        {"text": "x", "priority": 500},
        {"text": "x", "timeout_s": "soon"},
        {"text": "x", "expect": {"regex": "("}},
        {"text": "x", "after": ["7"]},
        {"text": "x", "attachments": [{"name": "a"}]},
    )

    done = tale("submit", "--file", file)

    assert (done.code, done.out, sent(gateway)) == (2, "", [])
    for number, reason in (
        (2, "it is not JSON"),
        (3, "it is no JSON object"),
        (4, "there is no option 'txt'"),
        (5, "it lacks the text"),
        (6, "The task text is empty"),
        (7, "The priority 500 is out of range"),
        (8, "timeout_s: "),
        (9, "The regular expression is not valid"),
        (10, "'7' is not a task id"),
        (11, "attachments.0.text: "),
    ):
        assert f"tasks.jsonl, line {number}: {reason}" in done.err
    assert "line 1:" not in done.err
    assert "Nothing was handed in: 10 lines cannot be used." in done.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--file", "nowhere.jsonl"), "nowhere.jsonl cannot be read"),
        (("--file", "empty.jsonl"), "empty.jsonl holds no tasks"),
        (("--file", "binary.jsonl"), "no UTF-8 text"),
        (("--file", "empty.jsonl", "Write"), "leave the task on the command line out"),
    ],
)
def test_what_is_no_file_of_tasks_is_told(
    gateway: FakeGateway, tale: Tale, tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff")
    done = tale("submit", *arguments)
    assert (done.code, done.out) == (2, "")
    assert complaint in done.err


def test_a_dash_reads_stdin(gateway: FakeGateway, tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "one"}\n')))
    assert tale("submit", "--file", "-", "--no-wait").code == 0
    assert [each["text"] for each in sent(gateway)] == ["one"]


def test_many_tasks_go_in_by_parts_of_what_a_request_may_have(gateway: FakeGateway, tale: Tale, tmp_path: Path) -> None:
    file = write(tmp_path, *({"text": f"task {number}"} for number in range(1_001)))
    tale("submit", "--file", file, "--no-wait")
    assert [len(call["tasks"]) for call in gateway.asked("submit_tasks")] == [500, 500, 1]

    gateway.calls.clear()
    large = [{"text": "x", "attachments": [{"name": "a", "text": "y" * 400_000}]} for _ in range(5)]
    tale("submit", "--file", write(tmp_path, *large), "--no-wait")
    assert [len(call["tasks"]) for call in gateway.asked("submit_tasks")] == [2, 2, 1]


def test_a_full_queue_is_waited_for(gateway: FakeGateway, tale: Tale, tmp_path: Path) -> None:
    full = TaskException("The queue is full (9 tasks wait); try again in 0 s.", {"retry_after_s": 0})
    gateway.refusals = [full, full]

    done = tale("submit", "--file", write(tmp_path, {"text": "one"}, {"text": "two"}, {"text": "three"}))

    assert done.code == 0
    assert [len(call["tasks"]) for call in gateway.asked("submit_tasks")] == [3, 1, 1, 2]
    assert sorted(view["text"] for view in gateway.tasks.values()) == ["one", "three", "two"]
    assert "The queue is full; waiting for room" in done.err


def test_another_refusal_is_told_and_nothing_goes_on(gateway: FakeGateway, tale: Tale, tmp_path: Path) -> None:
    gateway.refusals = [TaskException("The gateway is about to end.")]
    done = tale("submit", "--file", write(tmp_path, {"text": "one"}))
    assert (done.code, done.out) == (1, "")
    assert "about to end" in done.err


def test_on_a_terminal_a_bar_counts_and_ctrl_c_leaves_the_tasks_running(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.finish.clear()
    gateway.waiting = threading.Event()
    terminal = Terminal(["submit", "--file", write(tmp_path, {"text": "one"}, {"text": "two"})])
    terminal.read_until("0/2")
    assert gateway.waiting.wait(60)
    terminal.interrupt()
    code = terminal.end()
    assert (code, terminal.is_restored) == (130, True)
    assert "what was handed in runs on" in " ".join(terminal.plain.split())
    gateway.finish.set()


def test_with_cancel_on_interrupt_what_was_handed_in_is_cancelled(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.finish.clear()
    gateway.waiting = threading.Event()
    file = write(tmp_path, *({"text": str(number)} for number in range(40)))
    terminal = Terminal(["submit", "--file", file, "--cancel-on-interrupt"])
    assert gateway.waiting.wait(60)
    terminal.interrupt()
    assert terminal.end() == 130
    assert "what was handed in is cancelled where it had not ended." in " ".join(terminal.plain.split())
    assert {view["status"] for view in gateway.tasks.values()} == {"cancelled"}
    assert gateway.asked("cancel_task")[0]["task_id"] == list(gateway.tasks)[-1]  # those that wait for others go first
    gateway.finish.set()


def test_where_nothing_was_handed_in_an_interrupt_asks_no_server(gateway: FakeGateway) -> None:
    assert are_cancelled(load_settings(), [])
    assert gateway.looks == 0


def test_a_line_keeps_its_key_where_other_lines_change_and_may_bring_its_own() -> None:
    settings = load_settings(environment={})
    lines, _ = TaskFile(settings, {}).read('{"text": "a"}\n{"text": "b"}\n{"text": "c", "idempotency_key": "mine"}')
    other, _ = TaskFile(settings, {}).read('{"text": "changed"}\n{"text": "b"}')
    keys, others = ([line.request["idempotency_key"] for line in each] for each in (lines, other))
    assert keys[1] == others[1]
    assert keys[0] != others[0]
    assert keys[2] == "mine"
    assert TaskFile(settings, {"priority": 2}).read('{"text": "a"}')[0][0].request["idempotency_key"] != keys[0]
