"""Targets are held against what the history says; what is missed is kept, told once, and comes with an advice."""

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.sample_history import NOW, keep, sample
from fakes.servers import running, settings_for, until
from hypothesis import given
from hypothesis import strategies as st

from tale import settings
from tale.analytics import open_history
from tale.exceptions import DatabaseException, ValidationException
from tale.histogram import Histogram, histogram_of
from tale.monitoring.alerts import FAST_BURN, judged
from tale.monitoring.evaluation import HISTOGRAM, VALUES, standings
from tale.monitoring.evidence import StoredEvidence
from tale.monitoring.pages import FramedEvidence
from tale.monitoring.performance_monitor import Load, MachineProbe, PerformanceMonitor, Work
from tale.monitoring.profiles import PROFILES, UNKNOWN, profile_named, profile_of
from tale.monitoring.targets import TARGETS, Standing, Target, limit_of, standing_of, standing_of_histogram
from tale.storage.database import Database
from tale.storage.history_reader import HistoryReader
from tale.storage.monitoring_store import MonitoringStore, Sample, TargetAlert, Violation

LIMIT = Target("x", "First words", "at most", 1.0, "s", fewest=10, action="Do less.")
IDS = [f"id{number}" for number in range(40)]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[MonitoringStore]:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    yield MonitoringStore(database)
    await database.close()


def read(path: str) -> str:
    """A file of the project."""
    return (Path(__file__).parent.parent / path).read_text()


def by_name(found: Sequence[Standing]) -> dict[str, Standing]:
    return {standing.target.name: standing for standing in found}


@given(st.lists(st.floats(0.01, 100), min_size=10, max_size=80))
def test_a_histogram_stands_as_its_values_do_but_close_to_the_limit(values: list[float]):
    exact, told = standing_of(LIMIT, values), standing_of_histogram(LIMIT, histogram_of(values))
    assert exact.measured is not None and told.measured is not None
    assert told.measured == pytest.approx(exact.measured, rel=0.021)
    near = sum(1 / 1.04 < value < 1.04 for value in values)
    assert exact.beyond is not None and told.beyond is not None
    assert abs(exact.beyond - told.beyond) <= near


def test_the_burn_rate_is_the_share_beyond_the_limit_as_a_multiple_of_what_is_allowed():
    standing = standing_of(LIMIT, [0.5] * 90 + [2.0] * 10)
    assert (standing.status, standing.measured, standing.beyond) == ("missed", 2.0, 10)
    assert standing.burn_rate == pytest.approx(2.0)
    assert standing.action == "Do less."
    assert standing_of(LIMIT, [0.5] * 96 + [2.0] * 4).action is None


def test_of_too_few_values_nothing_is_said():
    standing = standing_of(LIMIT, [9.0] * 9)
    assert (standing.values, standing.measured, standing.status, standing.burn_rate) == (9, None, "unknown", None)


async def test_the_targets_are_held_against_the_history(tmp_path: Path):
    url, made = f"sqlite:///{tmp_path}/tale.db", sample()
    await keep(url, made)
    reader = HistoryReader(url)
    found = by_name(standings(StoredEvidence(reader), TARGETS, now=NOW))
    reader.close()
    with open_history(url, clock=lambda: NOW) as history:
        framed = by_name(standings(FramedEvidence(history), TARGETS, now=NOW))
    assert {**framed, "ux_first_token": None} == {**found, "ux_first_token": None}
    assert framed["ux_first_token"].values == found["ux_first_token"].values
    first_tokens = [each.time_to_first_token_s for each in made.calls if each.role == "ux" and each.ended_at]
    exact = standing_of(found["ux_first_token"].target, [value for value in first_tokens if value is not None])
    assert found["ux_first_token"].values == exact.values
    assert found["ux_first_token"].measured == pytest.approx(exact.measured, rel=0.021)
    assert found["model_load"].values == sum((each.load_s or 0) > 0 for each in made.calls)
    assert 3 < (found["model_load"].measured or 0) < 4
    assert found["interrupt"].measured == pytest.approx(0.3)
    assert found["medium_task"].status == "met"
    assert found["models_memory"].status == "unknown"
    assert {name for name, standing in found.items() if standing.values} <= {HISTOGRAM, *VALUES}


async def test_only_the_answers_of_the_small_model_in_chats_are_first_words(tmp_path: Path):
    """Tasks, summaries and warm-ups of the small model, and chats with the larger one, are ten times as slow."""
    url, made = f"sqlite:///{tmp_path}/tale.db", sample()
    others = [("ux", "execute"), ("ux", "summarize"), ("ux", "warm"), ("ux", "acknowledge"), ("task", "chat")]
    chats = [each for each in made.calls if each.role == "ux" and each.operation == "chat" and each.ended_at]
    slow = [
        replace(each, id=f"{role}-{operation}-{each.id}", role=role, operation=operation, time_to_first_token_s=30.0)
        for each in chats
        for role, operation in others
    ]
    made.calls += slow
    await keep(url, made)
    with open_history(url, clock=lambda: NOW) as history:
        for evidence in (StoredEvidence(history.reader), FramedEvidence(history)):
            standing = by_name(standings(evidence, TARGETS, now=NOW))["ux_first_token"]
            assert (standing.values, standing.status) == (len(chats), "met")


async def test_a_machine_profile_and_a_user_may_set_other_limits():
    limits = {target.name: target.limit for target in profile_named("cpu").targets({"recovery": 5.0})}
    assert (limits["recovery"], limits["interrupt"]) == (5.0, 10.0)
    assert [target.name for target in profile_of("ollama").targets()] == [target.name for target in TARGETS]
    assert [profile_of(provider) for provider in ("embedded", "ollama", "openai")] == list(PROFILES)
    assert profile_of(None) == UNKNOWN
    assert limit_of("recovery", UNKNOWN.targets({"recovery": 5.0})) == 5.0
    assert [target.name for target in TARGETS] == list(settings.TARGETS)
    with pytest.raises(ValidationException, match="no target 'speed'"):
        profile_named("cpu").targets({"speed": 1.0})
    with pytest.raises(ValidationException, match="no profile 'huge'"):
        profile_named("huge")


def test_every_target_says_how_it_is_measured_and_what_to_do_when_it_is_missed():
    assert all(target.evidence and target.action.endswith(".") for target in TARGETS)


def test_what_the_running_service_does_not_measure_is_measured_where_its_target_says():
    named = {target.name: re.findall(r"\b(?:benchmarks|scripts)/\w+\.py\b", target.evidence) for target in TARGETS}
    assert {name for name, paths in named.items() if not paths} == {HISTOGRAM, *VALUES}
    silent = [(name, path) for name, paths in named.items() for path in paths if f'"{name}"' not in read(path)]
    assert silent == []


def judge(standing: Standing, opened: Sequence[Violation] = (), *, hour: Any = (), told: Any = (), now: float = NOW):
    return judged([standing], hour, open_violations=opened, told=told, profile="cpu", now=now, ids=IDS)


def test_a_target_that_begins_to_be_missed_is_kept_and_told_once():
    missed = standing_of(LIMIT, [2.0] * 20)
    begun = judge(missed)
    assert begun.violations == (Violation("id0", "x", "cpu", NOW, None, 1.0, 2.0, 20, "Do less."),)
    assert [(alert.kind, alert.violation_id) for alert in begun.alerts] == [("missed", "id0")]
    assert "p95 is 2 s, and should be at most 1 s. Do less." in begun.alerts[0].text
    again = judge(missed, begun.violations)
    assert (again.violations, again.alerts) == ((), ())


def test_a_violation_keeps_its_worst_and_ends_when_the_target_is_met_again():
    violation = judge(standing_of(LIMIT, [2.0] * 20)).violations[0]
    worse = judge(standing_of(LIMIT, [3.0] * 30), [violation])
    assert (worse.violations, worse.alerts) == ((replace(violation, worst=3.0, measured=30),), ())
    silent = judge(standing_of(LIMIT, [0.5, 2.0]), [violation])
    assert (silent.violations, silent.alerts) == ((), ())
    met = judge(standing_of(LIMIT, [0.5] * 20), worse.violations, now=NOW + 60)
    assert [(each.worst, each.ended_at) for each in met.violations] == [(3.0, NOW + 60)]
    assert [alert.kind for alert in met.alerts] == ["met"]


@pytest.mark.parametrize("values", [[], [0.5, 0.5]])
@pytest.mark.parametrize(
    "told", [standing_of, lambda target, values: standing_of_histogram(target, histogram_of(values))]
)
def test_a_violation_ends_without_a_word_once_no_value_of_the_window_is_beyond_the_limit(values: Any, told: Any):
    violation = judge(standing_of(LIMIT, [2.0] * 20)).violations[0]
    ended = judge(told(LIMIT, values), [violation], now=NOW + 60)
    assert (ended.violations, ended.alerts) == ((replace(violation, ended_at=NOW + 60),), ())
    unmeasured = judge(Standing(LIMIT, 0, None, "unknown"), [violation])
    assert (unmeasured.violations, unmeasured.alerts) == ((), ())


def test_what_burns_fast_is_told_before_it_is_missed_and_not_again_within_the_hour():
    day = standing_of(LIMIT, [0.5] * 1_000 + [2.0] * 20)
    hour = [standing_of(LIMIT, [2.0] * 20)]
    assert (hour[0].burn_rate or 0) > FAST_BURN
    first = judge(day, hour=hour)
    assert [(alert.kind, alert.violation_id) for alert in first.alerts] == [("burning", None)]
    assert judge(day, hour=hour, told=first.alerts, now=NOW + 60).alerts == ()
    assert len(judge(day, hour=hour, told=first.alerts, now=NOW + 3_601).alerts) == 1


async def test_the_store_gives_back_what_it_was_given(store: MonitoringStore):
    violation = Violation("v", "x", "cpu", NOW, None, 1.0, 2.0, 20, "Do less.")
    alert = TargetAlert("a", NOW, "v", "x", "missed", "First words.")
    await store.keep([violation], [alert])
    assert await store.open_violations() == [violation]
    assert await store.latest_alerts() == [alert]
    await store.keep([replace(violation, ended_at=NOW + 9)], [])
    assert await store.open_violations() == []
    assert (await store.acknowledge(NOW + 10), await store.acknowledge(NOW + 11)) == (1, 0)


def monitor(store: MonitoringStore, url: str, **options: Any) -> PerformanceMonitor:
    async def work() -> Work:
        models = [{"name": "small", "role": "ux", "state": "ready", "memory_bytes": 5, "error": None}]
        return Work(3, 1, [*models, {"name": "large", "role": "task", "state": "idle", "memory_bytes": None}])

    given: dict[str, Any] = {
        "profile": profile_named("cpu"),
        "owner": "here",
        "look": lambda: Load(1_000, 0.5, 9_000),
        "work": work,
        "clock": lambda: NOW,
        "interval_s": 0.01,
    }
    evidence = options.pop("evidence", None) or StoredEvidence(HistoryReader(url))
    return PerformanceMonitor(store, evidence, **{**given, **options})


async def test_a_sample_tells_the_machine_the_queue_and_the_models(store: MonitoringStore, tmp_path: Path):
    url = f"sqlite:///{tmp_path}/tale.db"
    await monitor(store, url).sample()
    reader = HistoryReader(url)
    (row,) = reader.samples(NOW - 1, NOW + 1)
    reader.close()
    kept = Sample(*row)
    assert (kept.memory_bytes, kept.cpu_share, kept.queued, kept.running, kept.models_bytes) == (1_000, 0.5, 3, 1, 5)
    assert json.loads(kept.models)[0] == {"name": "small", "role": "ux", "state": "ready", "memory_bytes": 5}
    assert await store.prune(NOW + 1) == 1


async def test_the_monitor_judges_the_history_and_keeps_what_it_found(store: MonitoringStore, tmp_path: Path):
    """The sample's first words take longer than a second often enough to miss a limit that is set so low."""
    url = f"sqlite:///{tmp_path}/other.db"
    await keep(url, sample())
    watch = monitor(store, url, limits={"ux_first_token": 0.1})
    (alert,) = await watch.judge()
    assert (alert.kind, alert.target) == ("missed", "ux_first_token")
    assert await watch.judge() == ()
    assert [violation.target for violation in await store.open_violations()] == ["ux_first_token"]


async def test_a_service_judges_by_its_own_limits(tmp_path: Path):
    """All first words of the sample are within a second."""
    settings = settings_for(tmp_path, target_limits={"ux_first_token": 0.01})
    now = time.time()
    await keep(settings.database, sample(now=now), now=now)
    async with running(settings) as process:
        store = MonitoringStore(process.shared.database)

        async def is_told() -> bool:
            return bool(await store.latest_alerts())

        await until(is_told)
        (violation,) = await store.open_violations()
    assert (violation.target, violation.limit_value) == ("ux_first_token", 0.01)


async def test_a_monitor_that_is_stopped_reads_no_more(store: MonitoringStore, tmp_path: Path):
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    class SlowEvidence(StoredEvidence):
        def first_tokens(self, since: float, until: float) -> Histogram:
            begun.set()
            may_end.wait(30)
            ended.set()
            return super().first_tokens(since, until)

    url = f"sqlite:///{tmp_path}/tale.db"
    watch = monitor(store, url, evidence=SlowEvidence(HistoryReader(url)))
    judging = asyncio.create_task(watch.judge())
    await asyncio.to_thread(begun.wait, 30)
    judging.cancel()
    await asyncio.sleep(0.05)
    assert not judging.done() and not ended.is_set()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await judging
    assert ended.is_set()


async def test_a_failure_of_the_database_does_not_end_the_monitor(tmp_path: Path):
    kept: list[Sample] = []
    done = asyncio.Event()

    class Unsteady:
        async def add_sample(self, sample: Sample) -> None:
            kept.append(sample)
            if len(kept) == 1:
                raise DatabaseException("The disk is full.")
            done.set()

        async def open_violations(self) -> list[Violation]:
            return []

        async def latest_alerts(self) -> list[TargetAlert]:
            return []

        async def keep(self, violations: Sequence[Violation], alerts: Sequence[TargetAlert]) -> None: ...

    watch = monitor(Unsteady(), f"sqlite:///{tmp_path}/none.db")  # type: ignore[arg-type]  # the protocol is what counts
    watch.start()
    async with asyncio.timeout(30):
        await done.wait()
    await watch.stop()
    assert len(kept) >= 2


def test_the_probe_tells_this_process():
    moments = iter([0.0, 1.0, 3.0])
    probe = MachineProbe(clock=lambda: next(moments))
    first, second = probe.look(), probe.look()
    assert first.memory_bytes is not None and first.memory_bytes > 10 * 2**20
    assert first.cpu_share is None
    assert second.cpu_share is not None and 0 <= second.cpu_share < 64
