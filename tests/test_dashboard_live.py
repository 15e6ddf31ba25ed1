"""What a page shows is as new as its last look."""

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fakes.dashboard_pages import dashboard, open_page, words
from fakes.learned_history import keep_alerts, keep_learned
from fakes.sample_history import call, seeded
from sqlalchemy import Table, insert
from streamlit.runtime.caching import cache_utils
from streamlit.testing.v1 import AppTest

from tale.constants import POLLING_INTERVAL
from tale.storage.database import Database
from tale.storage.learning_tables import predictions
from tale.storage.rows import values_of
from tale.storage.tables import model_calls


@dataclass
class Clock:
    """The time by which Streamlit lets go of what was read."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def until_the_next_look(self) -> None:
        """Let as much time pass as between two looks of a page that is live."""
        self.now_s += POLLING_INTERVAL


@pytest.fixture(autouse=True)
def clock(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    tale_home.mkdir()
    made = Clock()
    monkeypatch.setattr(cache_utils, "TTLCACHE_TIMER", made)
    with dashboard(monkeypatch):
        yield made


@pytest.fixture
def url(tale_home: Path) -> str:
    return f"sqlite:///{tale_home}/tale.db"


def store(url: str, table: Table, row: Mapping[str, Any]) -> None:
    """Add a row to the history."""

    async def write() -> None:
        database = Database.open(url)
        await database.write(lambda c: c.execute(insert(table), [dict(row)]).rowcount)
        await database.close()

    asyncio.run(write())


def told(app: AppTest, of: str) -> int:
    """How much the foot of the page says that it looked at."""
    foot = next(each.value for each in app.caption if "read in" in each.value)
    assert f" {of} · " in foot
    return int(foot.split()[0].replace(",", ""))


@pytest.mark.parametrize("page", ["overview", "latency", "targets", "tokens", "models", "reliability"])
def test_a_new_call_is_shown_at_the_next_look(url: str, clock: Clock, page: str) -> None:
    seeded(url, now=time.time(), count=60)
    app = open_page(page, window="6h")
    before, now = told(app, "calls"), time.time()
    ended = call(random.Random(9), now - 60, now)
    store(url, model_calls, values_of(replace(ended, started_at=now, ended_at=now)))
    clock.until_the_next_look()
    assert told(app.run(), "calls") == before + 1


def test_a_new_call_is_the_first_of_all_calls_at_the_next_look(url: str, clock: Clock) -> None:
    seeded(url, now=time.time(), count=60)
    app = open_page("calls", window="6h")
    latest, now = app.dataframe[0].value["started_at"][0], time.time()
    store(url, model_calls, values_of(call(random.Random(9), now, now)))
    clock.until_the_next_look()
    assert app.run().dataframe[0].value["started_at"][0] > latest


def test_a_new_outcome_of_a_prediction_is_shown_at_the_next_look(url: str, clock: Clock) -> None:
    expected = asyncio.run(keep_learned(url, now=time.time()))
    app = open_page("learning", window="6h")
    before = told(app, "predicted attempts")
    store(url, predictions, {**expected[-1], "attempt": 2, "ended_at": time.time()})
    clock.until_the_next_look()
    assert told(app.run(), "predicted attempts") == before + 1


def test_a_new_alert_is_shown_at_the_next_look(url: str, clock: Clock) -> None:
    seeded(url, now=time.time(), count=60)
    app = open_page("overview")
    assert not app.warning
    asyncio.run(keep_alerts(url, time.time()))
    clock.until_the_next_look()
    assert "First words: p95 is 2 s." in words(app.run())
