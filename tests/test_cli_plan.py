"""`tale submit --plan`: the plan is shown, can be changed or refused, and runs as tasks that wait for each other."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import Outcome, Terminal
from fakes.gateway import FakeGateway

from tale.cli.plans import QUESTION, Step, parse_plan, requests_of, written
from tale.exceptions import ValidationException
from tale.orchestration.plan_keys import answer_key, question_key, step_key

Tale = Callable[..., Outcome]
PLAN = {"steps": [{"task": "Gather", "after": []}, {"task": "Compare", "after": [1, 2, 0]}]}


@pytest.fixture
def planner(gateway: FakeGateway) -> FakeGateway:
    gateway.outcomes[QUESTION.format(most=6, text="Big")] = {"result": json.dumps(PLAN)}
    return gateway


def handed_in(gateway: FakeGateway) -> list[dict[str, Any]]:
    return [each for call in gateway.asked("submit_tasks") for each in call["tasks"]]


def test_the_steps_are_shown_and_run_and_the_last_answer_is_printed(planner: FakeGateway, tale: Tale) -> None:
    done = tale("submit", "--plan", "--yes", "--priority", "3", "--expect-regex", "x", "Big")

    gather, compare, answer = handed_in(planner)
    assert gather["text"].startswith("Gather\n\n(This is step 1 of 2 of a larger task: Big)")
    assert (compare["after"], compare["with_results"]) == (["#1"], True)  # the other needs were no earlier steps
    assert (answer["after"], answer["with_results"], answer["expect"]) == (["#1", "#2"], True, {"regex": "x"})
    assert answer["text"].endswith(":\nBig")
    assert "expect" not in gather
    assert {each["priority"] for each in handed_in(planner)} == {3}
    (question,) = planner.asked("submit_task")
    assert question["expect"]["json_schema"]["properties"]["steps"]["maxItems"] == 6
    plan = question["idempotency_key"].split(":")[1]  # by its key the task model is asked, whatever was learned
    assert question["idempotency_key"] == question_key(plan)
    assert [each["idempotency_key"] for each in handed_in(planner)][1:] == [step_key(plan, 2), answer_key(plan)]
    assert (done.code, done.out) == (0, "# Answer\n\n```python\nprint('hello')\n```\n")
    assert "1. Gather\n2. Compare (after 1)\n" in done.err
    assert "3 of 3 tasks have ended" in done.err


def test_where_nobody_can_be_asked_the_plan_is_printed_and_nothing_runs(planner: FakeGateway, tale: Tale) -> None:
    done = tale("submit", "--plan", "Big")
    assert (done.code, handed_in(planner)) == (0, [])
    assert json.loads(done.out)["steps"][1] == {"task": "Compare", "after": [1]}
    assert "--yes runs a plan without asking" in done.err


def test_a_step_that_fails_fails_the_whole(planner: FakeGateway, tale: Tale) -> None:
    planner.outcome = {"status": "failed", "error": "It broke."}
    planner.outcomes[QUESTION.format(most=6, text="Big")]["status"] = "completed"
    done = tale("submit", "--plan", "--yes", "Big")
    assert (done.code, done.out) == (1, "")
    assert "It broke." in done.err


def test_without_a_plan_nothing_runs(planner: FakeGateway, tale: Tale) -> None:
    planner.outcomes[QUESTION.format(most=6, text="Big")] = {"status": "failed", "error": "No JSON came."}
    done = tale("submit", "--plan", "--yes", "Big")
    assert (done.code, handed_in(planner)) == (1, [])
    assert "There is no plan. Task" in done.err
    assert "No JSON came." in done.err


def test_no_wait_prints_the_id_of_the_task_that_gives_the_answer(planner: FakeGateway, tale: Tale) -> None:
    done = tale("submit", "--plan", "--yes", "--no-wait", "Big")
    last = list(planner.tasks)[-1]
    assert (done.code, done.out) == (0, f"{last}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--yes", "Work"), "--yes does nothing without --plan"),
        (("--max-steps", "6", "Work"), "--max-steps does nothing without --plan"),
        (("--anew", "Work"), "--anew does nothing without --file"),
        (("--plan", "--file", "tasks.jsonl"), "--plan splits one task"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    planner: FakeGateway, tale: Tale, arguments: tuple[str, ...], said: str
) -> None:
    done = tale("submit", *arguments)
    assert (done.code, planner.calls) == (2, [])
    assert said in done.err


def test_steps_wait_for_each_other_and_for_nothing_else(planner: FakeGateway, tale: Tale) -> None:
    done = tale("submit", "--plan", "--after", "00000000-0000-4000-8000-000000000001", "Big")
    assert done.code == 2
    assert "leave --after out" in done.err
    done = tale("submit", "--plan", "x" * 9_001)
    assert (done.code, planner.calls) == (2, [])
    assert "9,000 characters at most" in done.err


def test_files_too_large_to_go_with_all_steps_are_refused_before_there_is_a_plan(
    planner: FakeGateway, tale: Tale, tmp_path: Path
) -> None:
    (tmp_path / "file.txt").write_text("x" * 250_000)
    done = tale("submit", "--plan", "--yes", "--max-steps", "20", "--attach", "file.txt", "Big")
    assert (done.code, planner.calls) == (2, [])
    assert "with each of up to 20 steps, and may have 200,000 bytes as they are sent; they have 250,0" in done.err
    assert tale("submit", "--plan", "--yes", "--attach", "file.txt", "Big").code == 0
    assert [len(each["attachments"]) for each in handed_in(planner)[:2]] == [1, 1]


@pytest.mark.parametrize("planning", [True, False])
def test_with_cancel_on_interrupt_the_task_is_cancelled_that_ends_all(planner: FakeGateway, planning: bool) -> None:
    planner.steps = [lambda: planner.finish.clear() if planning or len(planner.tasks) > 1 else None]
    terminal = Terminal(["submit", "--plan", "--yes", "--cancel-on-interrupt", "Big"])
    while planner.finish.is_set():
        time.sleep(0.01)
    terminal.interrupt()
    assert terminal.end() == 130
    assert "what was handed in is cancelled" in " ".join(terminal.plain.split())
    assert planner.asked("cancel_task") == [{"task_id": list(planner.tasks)[-1]}]
    planner.finish.set()


def test_an_interrupt_while_the_steps_are_on_their_way_says_that_they_may_run_on(planner: FakeGateway) -> None:
    planner.answers.clear()
    terminal = Terminal(["submit", "--plan", "--yes", "--cancel-on-interrupt", "Big"])
    assert planner.sent.wait(60)
    terminal.interrupt()
    assert terminal.end() == 130
    assert "on their way and may have arrived: `tale list` shows them." in " ".join(terminal.plain.split())
    planner.answers.set()


@pytest.mark.parametrize(("answer", "begun"), [("y", ["Collect", "Compare"]), ("n", [])])
def test_on_a_terminal_the_plan_can_be_edited_and_then_run_or_refused(
    planner: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, begun: list[str]
) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/Gather/Collect/ "$1"\ntouch -d "1 hour" "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setitem(os.environ, "VISUAL", str(editor))
    terminal = Terminal(["submit", "--plan", "Big"])
    terminal.read_until("[y]es, [e]dit, [n]o")
    terminal.type("e\n")
    terminal.read_until("1. Collect")
    terminal.type(f"{answer}\n")
    assert terminal.end() == 0
    assert [each["text"].partition("\n")[0] for each in handed_in(planner)[:2]] == begun


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"steps": []}',
        '{"steps": [{"task": ""}]}',
        '{"steps": [{"task": "x", "after": [1]}]}',
        '{"steps": [{"task": "x", "after": ["1"]}]}',
        '{"steps": [{"task": "x"}, {"task": "y"}, {"task": "z"}]}',
    ],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ValidationException, match="plan"):
        parse_plan(text, 2)


def test_a_plan_can_be_written_and_read_again_and_a_long_task_is_told_in_part() -> None:
    steps = [Step("Gather"), Step("Compare", (1,))]
    assert parse_plan(written(steps), 2) == steps
    requests = requests_of("x" * 9_000, steps, {}, key="k")
    assert [request["idempotency_key"] for request in requests] == ["plan:k:1", "plan:k:2", "plan:k:answer"]
    assert len(requests[0]["text"]) < 700
    assert requests[-1]["text"].endswith("x" * 9_000)
