"""`tale queue` pauses and resumes the queue, and whoever looks is told that it is paused."""

import json
from collections.abc import Callable

from fakes.command_line import Outcome
from fakes.gateway import FakeGateway, task

Tale = Callable[..., Outcome]


def test_the_queue_is_paused_and_resumed(gateway: FakeGateway, tale: Tale) -> None:
    paused = tale("queue", "pause")
    assert (paused.code, gateway.paused_at is None) == (0, False)
    assert "The queue has been paused for 0.0" in paused.out
    assert "`tale queue resume`" in paused.out
    assert "3 queued, 1 running" in paused.out

    resumed = tale("queue", "resume")
    assert (resumed.code, gateway.paused_at) == (0, None)
    assert "Tasks are begun." in resumed.out


def test_programs_get_json(gateway: FakeGateway, tale: Tale) -> None:
    assert json.loads(tale("queue", "status", "--json").out) == {"paused_at": None, "queued": 0, "running": 0}
    paused = json.loads(tale("queue", "pause", "--json").out)
    assert json.loads(tale("queue", "status", "--json").out)["paused_at"] == paused["paused_at"]


def test_the_overview_tells_of_a_pause(gateway: FakeGateway, tale: Tale) -> None:
    assert "paused" not in tale("status").out
    tale("queue", "pause")
    assert "The queue has been paused for" in tale("status").out


def test_the_group_alone_shows_its_commands(tale: Tale) -> None:
    done = tale("queue")
    assert done.code == 0
    assert all(name in done.out for name in ("pause", "resume", "status"))


def test_the_card_of_a_task_tells_what_it_waits_for_and_its_limits(gateway: FakeGateway, tale: Tale) -> None:
    waiting = task("Work", status="queued", ended_at=None, waits_for=2, attached_files=3, expect={"regex": "x"})
    waiting["deadline_at"] = waiting["created_at"] + waiting["age_s"] + 90
    gateway.tasks[waiting["id"]] = waiting

    shown = tale("status", waiting["id"]).out

    facts = {" ".join(line.split()) for line in shown.splitlines()}
    assert {"waits for 2 other tasks", "deadline in 1 min 30 s", "files 3", "checks regex"} <= facts
