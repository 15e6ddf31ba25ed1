"""The cards of Overview: each with what it is held against, and its course."""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from fakes.dashboard_pages import PATIENCE_S, dashboard, open_page
from fakes.sample_history import NOW, Sample, keep, sample, seeded

from tale.analytics import open_history
from tale.analytics.windows import last_hours
from tale.monitoring.cards import MOST_POINTS, Card, cards_of, percent, seconds
from tale.monitoring.pages import Choice, overview
from tale.monitoring.profiles import profile_named
from tale.records import TaskStatus

HOURS = 6.0
LIMITS = {"medium_task": 0.5, "model_load": 2.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sample]:
    path, history = tmp_path_factory.mktemp("cards") / "tale.db", sample(hours=2.0)
    asyncio.run(keep(f"sqlite:///{path}", history))
    return path, history


def cards(path: Path, **limits: float) -> dict[str, Card]:
    with open_history(path, clock=lambda: NOW) as history:
        seen = overview(history, Choice(HOURS))
        return {
            card.label: card
            for card in cards_of(seen, {"queued": 0, "running": 0}, profile_named("cpu").targets(limits))
        }


def times_of(history: Sample, label: str) -> list[float]:
    """The seconds that a card is about, in order of time."""
    if label.startswith("Model loads"):
        return [each.load_s for each in sorted(history.calls, key=lambda each: each.started_at) if each.load_s]
    tasks = sorted(history.tasks, key=lambda task: task.created_at)
    completed = [task for task in tasks if task.status is TaskStatus.COMPLETED]
    return [task.ended_at - task.created_at for task in completed if task.ended_at is not None]


def p95(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


@pytest.mark.parametrize(("label", "limit_s"), [("Tasks whole, p95", 300.0), ("Model loads, p95", 10.0)])
def test_a_card_is_held_against_its_target(made: tuple[Path, Sample], label: str, limit_s: float) -> None:
    path, history = made
    value = p95(times_of(history, label))
    card = cards(path)[label]
    assert (card.value, card.against, card.is_good) == (seconds(value), f"vs {limit_s:g} s", True)
    assert card.change == percent(value / limit_s - 1)


def test_a_card_goes_by_ones_own_limits(made: tuple[Path, Sample]) -> None:
    told = cards(made[0], **LIMITS)
    for label, limit_s in zip(("Tasks whole, p95", "Model loads, p95"), LIMITS.values(), strict=True):
        assert (told[label].against, told[label].is_good) == (f"vs {limit_s:g} s", False)


def test_the_course_of_what_is_known_one_by_one_is_in_order_of_time(made: tuple[Path, Sample]) -> None:
    """Of many, each point is of equally many."""
    path, history = made
    told = cards(path)
    assert told["Model loads, p95"].course == pytest.approx(times_of(history, "Model loads"))
    whole = times_of(history, "Tasks whole")
    size = -(-len(whole) // MOST_POINTS)
    parts = [p95(whole[begin : begin + size]) for begin in range(0, len(whole), size)]
    assert size > 1
    assert told["Tasks whole, p95"].course == pytest.approx(parts)


def test_without_data_a_card_says_only_what_it_would_be_held_against(tmp_path: Path) -> None:
    card = cards(tmp_path / "tale.db")["Model loads, p95"]
    assert (card.value, card.change, card.is_good, card.against) == ("-", None, None, "vs 10 s")
    assert not card.course


@pytest.fixture
def pages(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tale_home.mkdir()
    with dashboard(monkeypatch):
        yield


@pytest.mark.usefixtures("pages")
def test_each_card_on_the_page_draws_its_course(tale_home: Path) -> None:
    made = seeded(f"sqlite:///{tale_home}/tale.db", now=time.time())
    app = open_page("overview", window="6h")
    drawn = {card.label: list(card.proto.chart_data) for card in app.metric}
    assert len(drawn) == 8
    assert [label for label, course in drawn.items() if len(course) < 2 or max(course) <= 0] == []
    windows = [last_hours(HOURS, time.time() - ago_s) for ago_s in (PATIENCE_S, 0)]
    began = [call.started_at for call in made.calls if call.ended_at]
    assert sum(drawn["Calls"]) in {sum(each.since <= at < each.until for at in began) for each in windows}
