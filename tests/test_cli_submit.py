"""`tale submit`: the answer alone on stdout, all else on stderr, exit codes for scripts."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.command_line import Outcome, in_subprocess
from fakes.gateway import FakeGateway, model, serving

from tale.exceptions import BudgetException, DatabaseException, TaskException, ValidationException

Tale = Callable[..., Outcome]


def test_in_a_pipe_stdout_has_the_bare_answer_and_nothing_else(gateway: FakeGateway, tale: Tale) -> None:
    gateway.steps = [
        (0, "Queued"),
        (0, "large-model is reading the task (5 of 9 tokens)"),
        (3, "large-model is writing"),
    ]

    done = tale("submit", "Write hello world")

    assert (done.code, done.out) == (0, "# Answer\n\n```python\nprint('hello')\n```\n")
    assert "\x1b" not in done.err
    assert f"Task {next(iter(gateway.tasks))}" in done.err
    assert done.err.count("large-model is reading the task") == 1
    assert "tokens: 120 in (40 cached), 34 out" in done.err
    assert "large-model (tasks go to the task model)" in done.err
    assert "first token 0.60 s, prefill 0.50 s, decode 1.20 s, queue 0.01 s, total 3.00 s" in done.err


def test_the_options_reach_the_gateway_with_a_key_that_makes_sending_twice_safe(
    gateway: FakeGateway, tale: Tale
) -> None:
    tale("submit", "  Work  ", "--max-tokens", "50", "--priority", "-3", "--timeout", "60")

    (sent,) = gateway.asked("submit_task")
    assert len(sent.pop("idempotency_key")) == 36
    assert sent == {"text": "Work", "priority": -3, "timeout_s": 60, "max_output_tokens": 50, "expect": None}


def test_json_prints_the_task_and_nothing_else(gateway: FakeGateway, tale: Tale) -> None:
    gateway.steps = [(1, "large-model is writing")]

    done = tale("submit", "Work", "--json")

    assert json.loads(done.out) == next(iter(gateway.tasks.values()))
    assert (done.code, done.err) == (0, "")


def test_no_wait_prints_the_id_at_once(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("submit", "Work", "--no-wait")

    task_id = next(iter(gateway.tasks))
    assert (done.code, done.out) == (0, f"{task_id}\n")
    assert f"tale status {task_id}" in done.err
    assert gateway.asked("wait_for_task") == []


def test_no_wait_with_json_prints_the_queued_task(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("submit", "Work", "--no-wait", "--json")

    assert (done.code, json.loads(done.out)["status"], done.err) == (0, "queued", "")


def test_a_failed_task_gives_exit_code_1_and_its_reason(gateway: FakeGateway, tale: Tale) -> None:
    gateway.outcome = {
        "status": "failed",
        "error": "The model ran out of memory; take a smaller one.",
        "result": "so f",
    }

    done = tale("submit", "Work")

    assert (done.code, done.out) == (1, "")
    assert "failed: The model ran out of memory; take a smaller one." in done.err
    assert "tale result" in done.err


def test_a_cancelled_task_gives_exit_code_1(gateway: FakeGateway, tale: Tale) -> None:
    gateway.outcome = {"status": "cancelled", "result": None}

    done = tale("submit", "Work")

    assert done.code == 1
    assert "was cancelled." in done.err


def test_an_answer_that_hit_its_limit_is_said_to_be_cut(gateway: FakeGateway, tale: Tale) -> None:
    gateway.outcome = {"finish_reason": "length"}

    assert "--max-tokens gives it more" in tale("submit", "Work").err


def test_figures_that_no_engine_reported_are_left_out(gateway: FakeGateway, tale: Tale) -> None:
    gateway.outcome = {
        "model": None,
        "usage": {"calls": 1, "input_tokens": None, "output_tokens": None, "cached_tokens": None},
        "timings": dict.fromkeys(("queue_s", "load_s", "prefill_s", "decode_s", "time_to_first_token_s")),
    }

    err = tale("submit", "Work").err

    assert "tokens: not reported by the engine" in err
    assert "time: total 3.00 s" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit",), "There is no task"),
        (("submit", ""), "The task text is empty"),
        (("submit", "   "), "The task text is empty"),
        (("submit", "x" * 20_000), "20,000 characters; at most 10,000"),
        (("submit", "Write", "a", "haiku"), "quote the task"),
        (("submit", "Work", "--priority", "200"), "less than or equal to 100"),
        (("submit", "Work", "--max-tokens", "0"), "greater than or equal to 1"),
        (("submit", "Work", "--timeout", "4000"), "less than or equal to 3600"),
        (("submit", "Work", "--timeout", "soon"), "--timeout"),
        (("submit", "Work", "--nonsense"), "No such option: --nonsense"),
    ],
)
def test_bad_input_is_refused_with_exit_code_2_before_anything_starts(
    tale: Tale, tale_home: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = tale(*arguments)

    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.startswith("tale: ")
    assert done.err.count("\n") == 1
    assert not tale_home.exists()


def test_a_dash_reads_the_task_from_stdin(gateway: FakeGateway) -> None:
    done = in_subprocess("submit", "-", given="Grüße an π\n".encode())

    assert done.code == 0
    assert gateway.asked("submit_task")[0]["text"] == "Grüße an π"


def test_stdin_that_is_not_utf8_is_refused(tale_home: Path) -> None:
    done = in_subprocess("submit", "-", given=b"caf\xe9")

    assert done.code == 2
    assert "not valid UTF-8 (byte 4)" in done.err
    assert not tale_home.exists()


def test_an_argument_that_is_not_utf8_is_refused(tale_home: Path) -> None:
    done = in_subprocess("submit", os.fsdecode(b"caf\xe9"))

    assert done.code == 2
    assert "UTF-8" in done.err


def test_a_refusal_by_the_gateway_keeps_its_meaning(gateway: FakeGateway, tale: Tale) -> None:
    gateway.refusal = ValidationException("The task has 17,000 tokens; the model's context holds 16,128. Shorten it.")
    refused = tale("submit", "Work")
    gateway.refusal = DatabaseException("The disk is full; free some space.")
    broken = tale("submit", "Work")

    assert (refused.code, refused.err.splitlines()[-1]) == (
        2,
        "tale: The task has 17,000 tokens; the model's context holds 16,128. Shorten it.",
    )
    assert (broken.code, broken.err.splitlines()[-1]) == (3, "tale: The disk is full; free some space.")


def test_a_budget_that_is_used_up_gives_exit_code_1_and_says_when_it_is_reset(gateway: FakeGateway, tale: Tale) -> None:
    told = "The hard budget of 9 tokens a day for all calls is used up (9 of 9); it is reset at 2026-11-25 00:00 UTC."
    gateway.refusal = BudgetException(told, {"retry_after_s": 60})
    refused = tale("submit", "Write")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.endswith(f"tale: {told}\n")


def test_a_port_that_belongs_to_another_program_gives_exit_code_3(gateway: FakeGateway, tale: Tale) -> None:
    gateway.home = "/somewhere/else"

    done = tale("submit", "Work")

    assert done.code == 3
    assert "used by another tale (home /somewhere/else)" in done.err
    assert "TALE_GATEWAY_PORT" in done.err


def test_models_that_are_fetched_are_announced_once_with_size_licence_and_source(
    gateway: FakeGateway, tale: Tale
) -> None:
    small = model("small-model", "ux", "downloading", done_bytes=0, size_bytes=400, licence="MIT", source="the hub")
    large = model("large-model", "task", "missing", size_bytes=1000, licence="Apache-2.0", source="the hub")
    gateway.models = [small, large]
    gateway.finish.clear()

    def arrive() -> None:
        gateway.waiting.wait(30)
        for done_bytes in (100, 200, 400):
            small["done_bytes"] = done_bytes
            seen = gateway.looks
            while gateway.looks < seen + 2:
                gateway.looked.wait(1)
                gateway.looked.clear()
        small["state"] = large["state"] = "ready"
        gateway.finish.set()

    arriving = threading.Thread(target=arrive)
    arriving.start()
    done = tale("submit", "Work")
    arriving.join()

    assert done.err.count("No Ollama answers; the embedded models are used.") == 1
    assert "small-model: 400 B, MIT, the hub" in done.err
    assert "large-model: 1 kB, Apache-2.0, the hub" in done.err
    assert "small-model: 50 % of 400 B" in done.err
    assert done.out.startswith("# Answer")


def test_a_service_that_restarts_in_between_is_waited_for(
    tale_home: Path, tale: Tale, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = FakeGateway(home=str(tale_home))
    gateway.finish.clear()
    ended = threading.Event()

    def serve_twice(ready: threading.Event) -> None:
        with serving(gateway) as port:
            monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
            ready.set()
            gateway.waiting.wait(30)
        gateway.finish.set()
        with serving(gateway, port):
            ended.wait(30)

    ready = threading.Event()
    service = threading.Thread(target=serve_twice, args=(ready,))
    service.start()
    ready.wait(30)
    try:
        done = tale("submit", "Work")
    finally:
        ended.set()
        service.join()

    assert done.code == 0
    assert "the task is kept" in done.err
    assert "The servers are back." in done.err
    assert len(gateway.asked("submit_task")) == 1


def test_a_database_that_does_not_answer_for_a_while_is_waited_for(gateway: FakeGateway, tale: Tale) -> None:
    left = [DatabaseException("There is no connection to the database server.") for _ in range(2)]

    def refuse() -> None:
        if left:
            raise left.pop()

    gateway.steps = [refuse]
    done = tale("submit", "Work")

    assert (done.code, done.out[:8]) == (0, "# Answer")
    assert done.err.count("The database does not answer; the task is kept") == 1
    assert (len(gateway.asked("submit_task")), len(gateway.asked("wait_for_task"))) == (1, 3)


def test_a_database_that_stays_away_ends_the_wait_with_its_reason(
    gateway: FakeGateway, tale: Tale, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tale.cli.following.GIVE_UP_AFTER", 0)

    def refuse() -> None:
        raise DatabaseException("There is no connection to the database server.")

    gateway.steps = [refuse]
    done = tale("submit", "Work")

    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines()[-1] == "tale: There is no connection to the database server."


def test_checks_reach_the_gateway_and_a_schema_may_be_a_file(gateway: FakeGateway, tale: Tale, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object"}')

    tale("submit", "Work", "--expect-json", str(tmp_path / "schema.json"), "--expect-regex", "^a", "--expect-python")
    tale("submit", "Work", "--expect-json", '{"type": "array"}')

    both = [sent["expect"] for sent in gateway.asked("submit_task")]
    assert both == [
        {"regex": "^a", "json_schema": {"type": "object"}, "python": True},
        {"json_schema": {"type": "array"}},
    ]


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [("nowhere.json", "nowhere.json cannot be read"), ("{", "is not JSON"), ("list.json", "must be a JSON object")],
)
def test_a_schema_that_cannot_be_read_is_told(
    gateway: FakeGateway, tale: Tale, tmp_path: Path, schema: str, complaint: str
) -> None:
    (tmp_path / "list.json").write_text("[]")

    done = tale("submit", "Work", "--expect-json", schema)

    assert (done.code, gateway.asked("submit_task")) == (2, [])
    assert complaint in done.err


def test_a_task_may_have_a_deadline_wait_for_others_and_bring_files(
    gateway: FakeGateway, tale: Tale, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("héllo")
    ids = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"]

    after = ("--after", ids[0], "--after", ids[1], "--with-results")
    done = tale("submit", "Work", "--deadline", "60", *after, "--attach", "notes.txt")

    (sent,) = gateway.asked("submit_task")
    assert done.code == 0
    assert (sent["deadline_s"], sent["after"], sent["with_results"]) == (60, ids, True)
    assert sent["attachments"] == [{"name": "notes.txt", "text": "héllo"}]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfe", "file.bin is no UTF-8 text (byte 1); only text files"),
        (b"a\x00b", "file.bin is no text: it holds NUL bytes"),
        (b"x" * 1_000_001, "file.bin has more than 1,000,000 bytes"),
        (None, "file.bin cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_attached_is_told(
    gateway: FakeGateway, tale: Tale, tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / "file.bin").write_bytes(content)

    done = tale("submit", "Work", "--attach", "file.bin")

    assert (done.code, gateway.asked("submit_task")) == (2, [])
    assert complaint in done.err


def test_of_a_pipe_no_more_is_read_than_can_be_attached(gateway: FakeGateway) -> None:
    done = in_subprocess("submit", "Work", "--attach", "/dev/stdin", given=b"x" * 6_000_000)

    assert (done.code, gateway.asked("submit_task")) == (2, [])
    assert done.err == "tale: --attach: /dev/stdin has more than 1,000,000 bytes; take a shorter one.\n"


def test_files_that_do_not_fit_a_request_together_are_told(gateway: FakeGateway, tale: Tale, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x" * 900_000)

    done = tale("submit", "Work", *("--attach", "file.txt") * 5)

    assert (done.code, gateway.asked("submit_task")) == (2, [])
    assert "the files have 4,500,170 bytes in all, as they are sent; 4,000,000 can go with a task." in done.err


def test_a_full_queue_is_told_with_the_time_to_wait(gateway: FakeGateway, tale: Tale) -> None:
    gateway.refusal = TaskException("The queue is full (9 tasks wait); try again in 5 s.", {"retry_after_s": 5})

    done = tale("submit", "Work")

    assert (done.code, done.out) == (1, "")
    assert "The queue is full (9 tasks wait); try again in 5 s." in done.err
