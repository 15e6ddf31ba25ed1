"""A history on PostgreSQL reads as the same one on SQLite does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from fakes.sample_history import LARGE, NOW, SMALL, keep, sample, watch
from polars.testing import assert_frame_equal

from tale.analytics import frames, open_history
from tale.analytics.history import History
from tale.monitoring.evaluation import standings
from tale.monitoring.evidence import StoredEvidence
from tale.monitoring.pages import PAGES, Choice
from tale.monitoring.targets import TARGETS
from tale.storage.call_pages import CallFilter

pytestmark = pytest.mark.postgres
HOURS = 3.0

READS: dict[str, Callable[[History], pl.DataFrame]] = {
    "minutes": lambda history: history.minutes(HOURS).sort(frames.KEYS),
    "a month": lambda history: history.minutes(30 * 24),
    "calls": lambda history: history.calls(HOURS),
    "slowest": lambda history: history.slowest(history.window(HOURS)),
    "tasks": lambda history: history.tasks(HOURS),
    "task times": lambda history: history.task_times(history.window(HOURS)).sort(pl.all()),
    "attempts": lambda history: history.attempts(HOURS),
    "feedback": lambda history: history.feedback(HOURS),
    "budgets": lambda history: history.budgets(),
    "samples": lambda history: history.samples(24),
    "samples of a month": lambda history: history.samples(30 * 24),
}


async def test_everything_reads_as_on_sqlite(postgres_url: str, tmp_path: Path) -> None:
    """The watermark stands an hour back, so that rollups and calls come together."""
    made, lite = sample(count=200), f"sqlite:///{tmp_path}/tale.db"
    for url in (postgres_url, lite):
        await keep(url, made, now=NOW - 3_600)
        await watch(url, [NOW - 700.0 * number for number in range(200)])
    with open_history(postgres_url, clock=lambda: NOW) as one, open_history(lite, clock=lambda: NOW) as other:
        for name, read in READS.items():
            found, expected = read(one), read(other)
            assert not expected.is_empty(), name
            assert_frame_equal(found, expected, check_row_order=name not in ("feedback", "minutes"), rel_tol=1e-9)
        wanted = CallFilter(outcome="failed", model=LARGE, limit=3)
        first = one.page(wanted)
        assert_frame_equal(first, other.page(wanted))
        following = replace(wanted, before=first["id"][-1])
        assert_frame_equal(one.page(following), other.page(following))
        assert one.reader.under_way() == other.reader.under_way()
        assert sorted(one.reader.models()) == sorted({SMALL, LARGE})
        assert one.reader.models() == other.reader.models()
        both = (standings(StoredEvidence(each.reader), TARGETS, now=NOW) for each in (one, other))
        assert next(both) == next(both)
        for page in PAGES.values():
            page(one, Choice(HOURS, LARGE))
