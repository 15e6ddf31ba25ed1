"""`tale status`, `list`, `result`, `cancel` and `feedback`: on a wide screen, a narrow one and in a pipe."""

import json
import uuid
from collections.abc import Callable

import pytest
from fakes.command_line import Outcome
from fakes.gateway import FakeGateway, model, task

Tale = Callable[..., Outcome]

COMMANDS = (("status",), ("result",), ("cancel",), ("feedback", "good"))


def keep(gateway: FakeGateway, text: str = "Write a haiku about rain", **known: object) -> str:
    """Put a task into the gateway; returns its id."""
    view = task(text, **known)
    gateway.tasks[view["id"]] = view
    return view["id"]


def test_status_shows_servers_models_queue_and_latest_tasks(gateway: FakeGateway, tale: Tale) -> None:
    gateway.models = [
        model("small-model", "ux", memory_bytes=700_000_000),
        model("large-model", "task", "failed", error="It ran out of memory; take a smaller one."),
    ]
    task_id = keep(gateway)

    done = tale("status")

    assert done.code == 0
    assert "gateway" in done.out
    assert "running" in done.out
    assert "No Ollama answers; the embedded models are used." in done.out
    assert "700 MB" in done.out
    assert "It ran out of memory; take a smaller one." in done.out
    assert "1 completed" in done.out
    assert task_id in done.out
    assert "\x1b" not in done.out


def test_status_without_tasks_says_what_to_run(gateway: FakeGateway, tale: Tale) -> None:
    assert "None yet; tale submit" in tale("status").out


def test_status_without_servers_says_what_to_run_and_starts_nothing(tale: Tale) -> None:
    done = tale("status")

    assert done.code == 0
    assert "stopped" in done.out
    assert "`tale servers start` starts them" in done.out


def test_status_names_who_holds_a_port(gateway: FakeGateway, tale: Tale) -> None:
    gateway.home = "/somewhere/else"

    out = tale("status").out

    assert "foreign" in out
    assert "held by a tale of another home (/somewhere/else); TALE_GATEWAY_PORT chooses another port." in out


def test_a_gateway_that_the_settings_name_is_no_stranger(
    gateway: FakeGateway, tale: Tale, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.home = "/somewhere/else"
    monkeypatch.setenv("TALE_GATEWAY_URL", gateway.url)
    task_id = keep(gateway)

    done, told = tale("status"), json.loads(tale("status", "--json").out)

    assert "Queue" in done.out
    assert task_id in done.out
    assert "held by" not in done.out
    assert [(server["role"], server["state"]) for server in told["servers"]] == [("gateway", "running")]
    assert told["info"]["queue"]["completed"] == 1
    assert tale("servers", "status").code == 0


def test_status_as_json_holds_the_same(gateway: FakeGateway, tale: Tale) -> None:
    task_id = keep(gateway)

    told = json.loads(tale("status", "--json").out)

    assert {server["role"] for server in told["servers"]} >= {"gateway", "execution", "ux_agent"}
    assert told["info"]["queue"]["completed"] == 1
    assert told["tasks"][0]["id"] == task_id


def test_status_of_a_task_is_a_card(gateway: FakeGateway, tale: Tale) -> None:
    task_id = keep(gateway, failures=1, attempt=2, priority=5)

    out = tale("status", task_id).out

    for shown in (
        task_id,
        "completed",
        "3.00 s",
        "2.00 s",
        "2 (1 failed)",
        "120 in (40 cached), 34 out",
        "first token",
    ):
        assert shown in out


def test_status_of_a_task_as_json_is_its_view(gateway: FakeGateway, tale: Tale) -> None:
    task_id = keep(gateway)

    assert json.loads(tale("status", task_id, "--json").out)["id"] == task_id


def test_watching_a_task_ends_with_it_and_tells_how_it_ended(gateway: FakeGateway, tale: Tale) -> None:
    gateway.steps = [(4, "large-model is writing")]
    good = keep(gateway)
    bad = keep(gateway, status="failed", error="No model.")

    watched = tale("status", good, "--watch")

    assert watched.code == 0
    assert "large-model is writing" in watched.err
    assert tale("status", bad, "--watch").code == 1


def test_watching_everything_needs_a_terminal(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("status", "--watch")

    assert done.code == 2
    assert "needs a terminal" in done.err


def test_on_forty_columns_nothing_is_wider_and_no_id_is_cut(
    gateway: FakeGateway, tale: Tale, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = keep(gateway, text="Explain in detail how a write-ahead log works and why it is fast")
    monkeypatch.setenv("COLUMNS", "40")

    for command in (("status",), ("list",), ("status", task_id), ("servers", "status")):
        out = tale(*command).out
        assert max(len(line.rstrip()) for line in out.splitlines()) <= 40
        if command != ("servers", "status"):
            assert task_id in out.replace("\n", "").replace(" ", "")


def test_a_list_in_a_pipe_cuts_nothing(gateway: FakeGateway, tale: Tale) -> None:
    text = "Explain in detail how a write-ahead log works and why it is fast, with an example for each claim you make"
    first, second = keep(gateway, text=text), keep(gateway, text="[bold]not markup[/bold]", status="queued")

    out = tale("list").out

    assert text in out
    assert "[bold]not markup[/bold]" in out
    assert out.index(second) < out.index(first)


def test_a_list_can_be_narrowed_and_gone_on_with(gateway: FakeGateway, tale: Tale) -> None:
    for number in range(3):
        keep(gateway, text=f"task {number}", status="failed", error="x")

    done = tale("list", "--status", "failed", "--limit", "2")
    tale("list", "--before", "17.5:cursor")

    assert "--before 17.5:cursor" in done.err
    assert gateway.asked("list_tasks") == [
        {"status": "failed", "limit": 2, "before": None},
        {"status": None, "limit": 20, "before": "17.5:cursor"},
    ]


def test_an_empty_list_says_what_to_run(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("list", "--status", "failed")

    assert (done.code, done.out) == (0, "")
    assert "There are no failed tasks; tale submit" in done.err


def test_a_list_as_json_is_the_page(gateway: FakeGateway, tale: Tale) -> None:
    task_id = keep(gateway)

    assert json.loads(tale("list", "--json").out)["tasks"][0]["id"] == task_id


def test_result_prints_the_bare_answer_in_a_pipe(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("result", keep(gateway, result="forty-two"))

    assert (done.code, done.out, done.err) == (0, "forty-two\n", "")


def test_result_of_a_failed_task_prints_what_there_is_and_exits_with_1(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("result", keep(gateway, status="failed", result="so far", error="It broke off; try again."))

    assert (done.code, done.out) == (1, "so far\n")
    assert "It broke off; try again." in done.err


def test_answers_are_kept_in_utf8_whatever_they_hold(gateway: FakeGateway, tale: Tale) -> None:
    answer = "Grüße, 世界 🌧 \x1b[31m\ttabs and \u202e marks\n"

    assert tale("result", keep(gateway, result=answer)).out == answer


@pytest.mark.parametrize(
    ("age_s", "shown"), [(0.5, "0.50 s"), (59.9, "59.9 s"), (7_260.0, "2 h 1 min"), (200_000.0, "2 d 7 h")]
)
def test_ages_are_as_exact_as_they_deserve(gateway: FakeGateway, tale: Tale, age_s: float, shown: str) -> None:
    keep(gateway, age_s=age_s)

    assert shown in tale("list").out


def test_result_of_a_task_that_runs_is_refused(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("result", keep(gateway, status="running"))

    assert done.code == 2
    assert "still running" in done.err


def test_result_as_json_of_a_cancelled_task_is_only_json(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("result", keep(gateway, status="cancelled", result=None), "--json")

    assert (done.code, json.loads(done.out)["status"], done.err) == (1, "cancelled", "")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_unknown_task_gives_exit_code_2(gateway: FakeGateway, tale: Tale, command: tuple[str, ...]) -> None:
    done = tale(command[0], str(uuid.uuid4()), *command[1:])

    assert (done.code, done.err) == (2, "tale: No such task; `tale list` shows those there are.\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_is_no_task_id_gives_exit_code_2_without_any_server(tale: Tale, command: tuple[str, ...]) -> None:
    done = tale(command[0], "17", *command[1:])

    assert done.code == 2
    assert "'17' is not a task id" in done.err


@pytest.mark.parametrize(
    ("status", "said"),
    [("queued", "is cancelled; `tale result"), ("completed", "had ended already: it is completed")],
)
def test_cancel_says_what_became_of_the_task(gateway: FakeGateway, tale: Tale, status: str, said: str) -> None:
    done = tale("cancel", keep(gateway, status=status))

    assert done.code == 0
    assert said in done.out


def test_cancel_of_a_task_whose_runner_is_away_says_so(gateway: FakeGateway, tale: Tale) -> None:
    gateway.cancels = False

    assert "will be cancelled as soon as its runner answers" in tale("cancel", keep(gateway, status="running")).out


@pytest.mark.parametrize(("more", "comment"), [((), None), (("--comment", "Too long"), "Too long")])
def test_feedback_is_handed_on_with_its_remark(
    gateway: FakeGateway, tale: Tale, more: tuple[str, ...], comment: str | None
) -> None:
    task_id = keep(gateway)

    done = tale("feedback", task_id, "bad", *more)

    assert (done.code, done.out, done.err) == (0, f"Task {task_id} is rated bad.\n", "")
    assert gateway.asked("record_feedback") == [{"task_id": task_id, "rating": "bad", "comment": comment}]


def test_feedback_is_good_or_bad(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("feedback", keep(gateway), "so-so")

    assert done.code == 2
    assert "'good', 'bad'" in done.err
    assert gateway.asked("record_feedback") == []


def test_feedback_as_json_is_the_task(gateway: FakeGateway, tale: Tale) -> None:
    task_id = keep(gateway)

    assert json.loads(tale("feedback", task_id, "good", "--json").out)["id"] == task_id


def test_cancel_as_json_is_the_task(gateway: FakeGateway, tale: Tale) -> None:
    assert json.loads(tale("cancel", keep(gateway, status="queued"), "--json").out)["status"] == "cancelled"
