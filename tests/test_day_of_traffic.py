"""A day of mixed traffic in seconds: five sets of books on the same calls agree to the token."""

import argparse
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)


async def test_engine_table_rollups_metrics_and_export_agree_to_the_token(tmp_path: Path) -> None:
    from day_of_traffic import day
    from free_ports import free_ports
    from traffic.books import TOKENS, compared

    options = argparse.Namespace(requests=120, minutes=0.03, seed=7, apart=False)
    books, wrong = await day(tmp_path, options, free_ports())
    assert (compared(books), wrong) == ([], []), books
    table = books["table"]
    assert all(table[name] > 0 for name in (*TOKENS, "failed", "cancelled", "unreported", "fallbacks")), table


def test_a_single_token_that_is_missing_anywhere_is_found() -> None:
    from traffic.books import FIGURES, compared

    books = {name: dict.fromkeys(FIGURES, 5) for name in ("engine", "table", "export")}
    del books["engine"]["fallbacks"]  # which it cannot know
    assert compared(books) == []
    books["export"]["cached_tokens"] = 4
    assert compared(books) == ["cached_tokens"]
