"""Keys are made, listed, revoked and cleared on the command line, with no server needed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.command_line import Outcome

from tale.credentials import digest_of

Tale = Callable[..., Outcome]


def test_a_key_is_printed_alone_and_once(tale: Tale, tale_home: Path) -> None:
    made = tale("keys", "create", "laptop")
    assert made.code == 0
    key = made.out.strip()
    assert key.startswith("tale_")
    assert "for laptop, scope submit" in made.err
    assert "the only time it is shown" in made.err
    listed = tale("keys", "list", "--json")
    (row,) = json.loads(listed.out)
    assert (row["name"], row["scope"], row["revoked_at"]) == ("laptop", "submit", None)
    assert key not in listed.out
    assert digest_of(key) not in listed.out


def test_a_key_for_programs_comes_as_json(tale: Tale) -> None:
    made = json.loads(tale("keys", "create", "ci", "--scope", "read", "--json").out)
    assert made["scope"] == "read"
    assert made["key"].startswith("tale_")


def test_the_list_tells_which_keys_are_in_use(tale: Tale) -> None:
    assert "There are no keys" in tale("keys", "list").out
    first = json.loads(tale("keys", "create", "one", "--json").out)["id"]
    tale("keys", "create", "two")
    revoked = tale("keys", "revoke", first)
    assert (revoked.code, revoked.out) == (0, f"The key {first} of one is revoked.\n")
    lines = tale("keys", "list").out.splitlines()
    assert "revoked" in next(line for line in lines if line.startswith(first))
    assert "in use" in next(line for line in lines if " two " in line)


def test_looking_for_keys_makes_no_database(tale: Tale, tale_home: Path) -> None:
    tale("keys", "list")
    tale("connect")
    assert not (tale_home / "tale.db").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "a\tb"), "is no name for a key"),
        (("create", "laptop", "--scope", "root"), "'root' is not one of"),
        (("revoke", "nope"), "No key in use has the id 'nope'"),
        (("clear",), "Nobody can be asked here; --yes does it without asking"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(tale: Tale, arguments: tuple[str, ...], message: str) -> None:
    refused = tale("keys", *arguments)
    assert refused.code == 2
    assert message in refused.err


def test_all_keys_may_be_cleared(tale: Tale) -> None:
    for name in ("one", "two"):
        tale("keys", "create", name)
    assert tale("keys", "clear", "--yes").out == "Deleted 2 keys.\n"
    assert "There are no keys" in tale("keys", "list").out


def test_what_others_paste_names_a_key_as_soon_as_one_is_needed(tale: Tale, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Authorization" not in tale("connect").out
    made = tale("keys", "create", "laptop")
    told = tale("connect").out
    assert told.count("Authorization") == 4
    assert made.out.strip() not in told
    tale("keys", "clear", "--yes")
    assert "Authorization" not in tale("connect").out
    monkeypatch.setitem(os.environ, "TALE_API_KEY", "k")
    assert "Authorization" in tale("connect", "--client", "curl").out
