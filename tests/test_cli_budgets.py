"""Budgets are set, listed and removed on the command line, with no server needed."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.command_line import Outcome
from fakes.in_thread import in_thread
from fakes.learned_history import keep_alerts
from fakes.servers import running, settings_for
from test_budgets import ended, new_call, store_of

from tale.analytics import open_history
from tale.analytics.alerts import told_alerts
from tale.storage.call_store import CallStore
from tale.storage.database import Database

Tale = Callable[..., Outcome]


def use(home: Path, tokens: int) -> None:
    """One call of today that uses so many tokens."""

    async def called() -> None:
        database = Database.open(f"sqlite:///{home / 'tale.db'}")
        await CallStore(database, store_of(database)).close_call(ended(new_call(time.time()), tokens))
        await database.close()

    asyncio.run(called())


def test_a_budget_is_set_listed_changed_and_removed(tale: Tale, tale_home: Path) -> None:
    assert "There are no budgets" in tale("budgets", "list").out
    assert not (tale_home / "tale.db").exists()
    made = tale("budgets", "set", "200k", "--model", "m", "--per", "week")
    assert (made.code, made.err) == (0, "")
    assert made.out.endswith(" is the hard budget of 200,000 tokens a week for model 'm'.\n")
    budget_id = made.out.split()[0]
    changed = json.loads(tale("budgets", "set", "1M", "--model", "m", "--per", "week", "--json").out)
    assert (changed["id"], changed["limit_tokens"], changed["name"]) == (budget_id, 1_000_000, "m")
    tale("budgets", "set", "500", "--soft", "--alert-at", "50", "--zone", "Europe/Berlin")
    use(tale_home, 300)
    first, second = json.loads(tale("budgets", "list", "--json").out)
    assert (first["used_tokens"], first["left_tokens"], first["scope"]) == (300, 999_700, "model")
    assert (second["used_tokens"], second["kind"], second["zone"], second["name"]) == (
        300,
        "soft",
        "Europe/Berlin",
        None,
    )
    listed = tale("budgets", "list")
    assert "60%" in next(line for line in listed.out.splitlines() if line.startswith(second["id"]))
    assert "`tale budgets alerts`" in listed.err
    assert tale("budgets", "remove", budget_id).out == (
        "Removed the hard budget of 1,000,000 tokens a week for model 'm'.\n"
    )
    assert [each["id"] for each in json.loads(tale("budgets", "list", "--json").out)] == [second["id"]]


def test_alerts_are_shown_until_they_are_acknowledged(tale: Tale, tale_home: Path) -> None:
    assert tale("budgets", "alerts", "--acknowledge").out == "There are no alerts of budgets.\n"
    assert not (tale_home / "tale.db").exists()
    tale("budgets", "set", "100", "--soft")
    use(tale_home, 90)
    assert "90 of 100 tokens a day for all calls are used (soft budget, 80 %)" in tale("budgets", "alerts").out
    (alert,) = json.loads(tale("budgets", "alerts", "--acknowledge", "--json").out)
    assert (alert["percent"], alert["acknowledged_at"]) == (80, None)
    assert " ago, seen: " in tale("budgets", "alerts").out
    assert tale("budgets", "list").err == ""


def test_alerts_of_targets_are_acknowledged_with_them(tale: Tale, tale_home: Path) -> None:
    tale_home.mkdir()
    asyncio.run(keep_alerts(f"sqlite:///{tale_home / 'tale.db'}", time.time()))
    done = tale("budgets", "alerts", "--acknowledge")
    assert (done.out, done.err) == ("There are no alerts of budgets.\n", "4 alerts of targets marked as seen, too.\n")
    assert tale("budgets", "alerts", "--acknowledge").err == ""
    with open_history(tale_home / "tale.db") as history:
        assert told_alerts(history)["is_open"].to_list() == [False] * 5


def test_budgets_of_another_machine_are_its_gateway_s(
    tale: Tale, tale_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "k" * 20
    settings = settings_for(tmp_path / "other", api_key=key)
    with in_thread(running(settings)):
        monkeypatch.setenv("TALE_GATEWAY_URL", settings.url_of("gateway"))
        assert tale("budgets", "set", "100", "--soft").code != 0  # it asks for a key
        monkeypatch.setenv("TALE_API_KEY", key)
        made = tale("budgets", "set", "100", "--soft")
        assert made.out.endswith(" is the soft budget of 100 tokens a day for all calls.\n")
        use(settings.home, 90)
        (listed,) = json.loads(tale("budgets", "list", "--json").out)
        assert (listed["id"], listed["used_tokens"]) == (made.out.split()[0], 90)
        assert "90 of 100 tokens a day" in tale("budgets", "alerts", "--acknowledge").out
        assert tale("budgets", "alerts").out == "There are no alerts of budgets.\n"
        assert tale("budgets", "remove", "nope").code == 2
        assert tale("budgets", "remove", listed["id"]).out == f"Removed the budget {listed['id']}.\n"
        assert json.loads(tale("budgets", "list", "--json").out) == []
    assert not (tale_home / "tale.db").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "many"), "'many' is no number of tokens"),
        (("set", "0"), "must have from 1 to"),
        (("set", "5", "--model", "m", "--key", "k"), "not both"),
        (("set", "5", "--model", "m", "--key", ""), "not both"),
        (("set", "5", "--key", ""), "Name the key"),
        (("set", "5", "--model", ""), "Name the model"),
        (("set", "5", "--zone", "Mars"), "'Mars' is no time zone"),
        (("set", "5", "--alert-at", "200"), "percentage"),
        (("set", "5", "--per", "hour"), "'hour' is not one of"),
        (("remove", "nope"), "No budget has the id 'nope'"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(tale: Tale, arguments: tuple[str, ...], message: str) -> None:
    refused = tale("budgets", *arguments)
    assert refused.code == 2
    assert message in refused.err
