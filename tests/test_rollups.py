"""Sums by the minute agree with the calls: as they come, when they come late, after imports, prunes and repairs."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes.command_line import Outcome
from fakes.rolled_up import rolled_up
from fakes.servers import settings_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, update

from tale.histogram import percentile
from tale.records import ModelCall, Task, TaskStatus
from tale.servers.upkeep import DAY_S, Upkeep
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.history_reader import HistoryReader
from tale.storage.retention import Pruned, prunable, prune
from tale.storage.rollup_rows import Rollup, tallied
from tale.storage.rollups import STEP_CALLS, Rollups, Verified, watermark_of
from tale.storage.rows import values_of
from tale.storage.tables import meta, model_calls, rollup_minute
from tale.storage.task_store import TaskStore
from tale.storage.usage import UsageQuery, usage_of

Tale = Callable[..., Outcome]
HOUR = 3_600.0
START = 1_000 * HOUR
END = START + 10 * HOUR


def new_call(started_at: float = START, **values: Any) -> ModelCall:
    named = {"role": "task", "operation": "execute", "model": "m", "provider": "p", "ended_at": started_at + 1}
    return ModelCall(**{"id": str(uuid.uuid4()), "started_at": started_at, **named, **values})


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    yield database
    await database.close()


async def no_pause(_: float) -> None:
    return


def keeper(database: Database) -> Rollups:
    return Rollups(database, pause=no_pause)


async def keep(database: Database, *calls: ModelCall) -> None:
    rows = [values_of(call) for call in calls]
    await database.write(lambda connection: connection.execute(insert(model_calls), rows).rowcount)


async def told(database: Database, since: float = START, until: float = END) -> list[Rollup]:
    return await database.read(lambda connection: rolled_up(connection, since, until))


async def raw(database: Database) -> list[Rollup]:
    return await database.read(tallied)


async def test_a_minute_is_told_by_model_role_and_operation(database: Database) -> None:
    await keep(
        database,
        new_call(START + 1, input_tokens=10, output_tokens=20, decode_s=2.0, total_s=3.0, time_to_first_token_s=0.5),
        new_call(START + 2, input_tokens=5, error_class="NetworkException", requested_model="other"),
        new_call(START + 3, error_class="Cancelled"),
        new_call(START + 59, role="ux", operation="chat", output_tokens=1),
        new_call(START + 60, model="n"),
        new_call(START + 1, ended_at=None),
    )
    await keeper(database).catch_up(END)
    first, chat, second = await told(database)
    minute = int(START // 60)
    assert first.key == (minute, "m", "task", "execute")
    assert (first.calls, first.failed, first.cancelled, first.unreported, first.fallbacks) == (3, 1, 1, 1, 1)
    assert (first.input_tokens, first.output_tokens, first.cached_tokens, first.total_s) == (15, 20, None, 3.0)
    assert percentile(first.decode_rate_histogram, 0.5) == pytest.approx(10.0, rel=0.02)
    assert percentile(first.first_token_histogram, 0.5) == pytest.approx(0.5, rel=0.02)
    assert (chat.key, second.key) == ((minute, "m", "ux", "chat"), (minute + 1, "n", "task", "execute"))


async def test_models_are_told_in_the_order_in_which_they_came(database: Database, tmp_path: Path) -> None:
    with closing(HistoryReader(f"sqlite:///{tmp_path}/tale.db")) as reader:
        assert reader.models() == []
        await keep(database, *(new_call(START + at, model=model) for at, model in ((70, "a"), (130, "b"), (5, "c"))))
        await keep(database, *(new_call(START + at, model="a", role="ux") for at in (190, 250)))
        await keeper(database).catch_up(END)
        assert reader.models() == ["c", "a", "b"]


lengths = st.sampled_from([0.5, 30.0, 61.0, 400.0])
drawn_calls = st.lists(
    st.tuples(st.integers(0, 1_200), lengths, st.sampled_from("mn"), st.none() | st.integers(0, 9)), max_size=12
)


@given(drawn_calls, st.lists(st.integers(0, 2_000), max_size=5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_at_any_moment_rollups_and_tail_are_the_calls_that_have_ended(
    database: Database, drawn: list[tuple[int, float, str, int | None]], moments: list[int]
) -> None:
    """Calls are recorded when they begin and when they end; in between the clock stands still at some moments."""
    for table in (model_calls, rollup_minute, meta):
        await database.write(lambda connection, table=table: connection.execute(delete(table)).rowcount)
    calls = [new_call(START + at, ended_at=START + at + s, model=m, input_tokens=i) for at, s, m, i in drawn]
    steps: list[tuple[float, Any]] = [(call.started_at, replace(call, ended_at=None)) for call in calls]
    steps += [(call.ended_at or 0.0, call) for call in calls]
    steps += [(START + at, None) for at in moments]
    for at, step in sorted(steps, key=lambda step: step[0]):
        if isinstance(step, ModelCall):
            await CallStore(database).close_call(step)
        else:
            await keeper(database).catch_up(at)
            assert await told(database) == await raw(database)
            assert (await keeper(database).verify()).wrong_minutes == ()
    await keeper(database).catch_up(END)
    assert await told(database) == await raw(database)


async def test_sums_agree_with_usage_to_the_token(database: Database) -> None:
    await keep(database, *(new_call(START + 7 * n, input_tokens=n, output_tokens=n % 5 or None) for n in range(200)))
    await keeper(database).catch_up(START + 600)
    found = await told(database)
    whole = (await database.read(lambda connection: usage_of(connection, UsageQuery()))).whole
    assert sum(each.input_tokens or 0 for each in found) == whole.input_tokens
    assert sum(each.output_tokens or 0 for each in found) == whole.output_tokens
    assert sum(each.calls for each in found) == whole.calls


async def test_a_long_history_is_caught_up_with_in_steps(database: Database) -> None:
    calls = [new_call(START + 2.5 * n, ended_at=START + 2.5 * n + 90) for n in range(3 * STEP_CALLS)]
    await keep(database, *calls)
    pauses: list[float] = []

    async def pause(s: float) -> None:
        pauses.append(s)
        assert await told(database) == await raw(database)  # half way, too

    assert await Rollups(database, pause=pause).catch_up(END) > 0
    assert len(pauses) >= 2
    assert await told(database) == await raw(database)
    assert (await keeper(database).verify()).wrong_minutes == ()


async def test_where_nothing_happens_nothing_is_written(database: Database) -> None:
    assert await keeper(database).catch_up(END) == 0
    await keep(database, new_call())
    assert await keeper(database).catch_up(END) == 1
    mark = await database.read(watermark_of)
    assert await keeper(database).catch_up(END + HOUR) == 0
    assert await database.read(watermark_of) == mark


async def test_a_row_that_is_late_by_a_minute_is_taken_up_with_the_next(database: Database) -> None:
    await keep(database, new_call(START))
    await keeper(database).catch_up(START + 120)
    await keep(database, new_call(START + 50))
    await keeper(database).catch_up(START + 180)
    assert await told(database) == await raw(database)
    assert sum(each.calls for each in await told(database)) == 2


async def test_what_is_wrong_is_found_and_mended(database: Database) -> None:
    await keep(database, *(new_call(START + 60 * n) for n in range(100)))
    await keeper(database).catch_up(END)
    assert await keeper(database).verify() == Verified(100, ())
    minute = int(START // 60)
    too_many = update(rollup_minute).where(rollup_minute.c.minute == minute + 5).values(calls=7)
    await database.write(lambda connection: connection.execute(too_many).rowcount)
    gone = delete(rollup_minute).where(rollup_minute.c.minute == minute + 70)
    await database.write(lambda connection: connection.execute(gone).rowcount)
    assert (await keeper(database).verify()).wrong_minutes == (minute + 5, minute + 70)
    assert await keeper(database).backfill() > 0
    assert await keeper(database).verify() == Verified(100, ())
    assert await told(database) == await raw(database)


async def test_sums_outlive_the_calls_that_are_pruned(database: Database) -> None:
    await keep(database, *(new_call(START + 600 * n, input_tokens=1) for n in range(10)))
    assert (await prune(database, START + 3_000)).model_calls == 5
    await keeper(database).catch_up(END)
    await keep(database, new_call(START + 30, input_tokens=1))  # comes back from elsewhere
    await keeper(database).backfill()
    assert sum(each.input_tokens or 0 for each in await told(database)) == 10
    assert (await keeper(database).verify()).wrong_minutes == ()


async def test_calls_of_a_minute_that_is_not_over_stay_until_they_are_in_the_sums(database: Database) -> None:
    await keep(database, new_call(START + 89), new_call(START + 129))
    assert await database.read(lambda connection: prunable(connection, START + 150)) == Pruned(model_calls=1)
    assert await prune(database, START + 150) == Pruned(model_calls=1)
    await keeper(database).catch_up(END)
    assert sum(each.calls for each in await told(database)) == 2


async def test_of_minutes_of_which_calls_were_pruned_the_sums_stay_that_count_more(database: Database) -> None:
    await keep(database, *(new_call(START + n, total_s=1.0) for n in range(2)))
    await prune(database, START + 600)
    for count in (1, 2, 3):  # come back from elsewhere
        await keep(database, new_call(START + count, total_s=2.0))
        await keeper(database).backfill()
        (found,) = await told(database)
        assert (found.calls, found.total_s) == ((2, 2.0) if count < 3 else (3, 6.0))


async def test_two_keepers_at_once_do_no_harm(database: Database, tmp_path: Path) -> None:
    other = Database.open(f"sqlite:///{tmp_path}/tale.db")
    await keep(database, *(new_call(START + 2 * n) for n in range(3 * STEP_CALLS)))
    await asyncio.gather(keeper(database).catch_up(END), keeper(other).catch_up(END))
    await other.close()
    assert await told(database) == await raw(database)
    assert (await keeper(database).verify()).wrong_minutes == ()


async def test_a_clock_that_is_set_back_takes_no_call_out_of_the_sums(database: Database, tmp_path: Path) -> None:
    clock = [START + HOUR]
    upkeep = Upkeep(settings_for(tmp_path), database, clock=lambda: clock[0])
    for moved_s in (30, 90, -50 * 60, 20, 50, 400, HOUR):
        clock[0] += moved_s
        await keep(database, new_call(clock[0] - 5, input_tokens=1), new_call(clock[0] - 100, ended_at=clock[0]))
        await upkeep.roll_up()
        assert await told(database) == await raw(database)
        assert (await keeper(database).verify()).wrong_minutes == ()
    assert await database.read(watermark_of) == clock[0] // 60


clock_moves = st.tuples(st.integers(-3_000, 3_000), st.sampled_from([0.5, 30.0, 400.0, -1_000.0]))


@given(st.lists(clock_moves, max_size=8))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_wherever_a_clock_jumps_rollups_and_tail_are_all_calls(
    database: Database, moves: list[tuple[int, float]]
) -> None:
    """It jumps between calls, and back while some run, which end before they began."""
    for table in (model_calls, rollup_minute, meta):
        await database.write(lambda connection, table=table: connection.execute(delete(table)).rowcount)
    now = START + 8 * HOUR
    for jump_s, length_s in moves:
        now += jump_s
        await keep(database, new_call(now, ended_at=now + length_s, total_s=1.0))
        now += length_s
        await keeper(database).catch_up(now)
        assert await told(database, 0.0, 2 * END) == await raw(database)
        assert (await keeper(database).verify()).wrong_minutes == ()


async def test_what_is_pruned_moves_no_watermark_back(database: Database) -> None:
    await keep(database, *(new_call(START + 600 * n) for n in range(10)))
    await keeper(database).catch_up(END)
    await prune(database, START + 3_000)
    assert await database.read(watermark_of) == END // 60


async def test_a_clock_that_was_ahead_when_history_was_pruned_takes_no_later_call_out_of_the_sums(
    database: Database,
) -> None:
    await keep(database, new_call(START))
    await prune(database, END)
    await keep(database, new_call(END))
    await keeper(database).catch_up(END + 60)
    await keeper(database).catch_up(START + 60)
    for at in (START + 60, START + 120, START + 180):
        await keep(database, new_call(at), new_call(at, ended_at=at + 90))
        await keeper(database).catch_up(at + 100)
    assert sum(each.calls for each in await told(database, START + 60, START + 600)) == 6


@pytest.mark.parametrize("days_left", [3, 0])
async def test_a_clock_that_is_wrong_for_a_minute_deletes_no_sums_of_what_was_pruned(
    database: Database, days_left: int
) -> None:
    days = [START + DAY_S * n for n in range(10)]
    now = days[-1] + HOUR
    for at in days:
        await keep(database, new_call(at, total_s=1.0), new_call(at, task_id="open", total_s=2.0), new_call(at + 90))
    await TaskStore(database).insert(Task("open", "t", TaskStatus.RUNNING, START))  # its calls stay
    await keeper(database).catch_up(now)
    before = await told(database, START, now)
    await prune(database, now - DAY_S * days_left)

    wrong = days[2] + 30.0
    await keeper(database).catch_up(wrong)
    assert await told(database, START, days[2]) == [each for each in before if each.minute < days[2] // 60]
    await keep(database, new_call(wrong, model="n"))
    await keeper(database).catch_up(wrong + 120)
    await keeper(database).catch_up(now)
    after = await told(database, START, now)
    assert [each for each in after if each.model == "m"] == before
    assert [each.calls for each in after if each.model == "n"] == [1]
    assert (await keeper(database).verify()).wrong_minutes == ()
    await keeper(database).backfill()
    assert await told(database, START, now) == after


async def test_sums_of_what_was_pruned_are_read_again_though_no_call_is_left(database: Database) -> None:
    await keep(database, *(new_call(START + 600 * n) for n in range(10)))
    await keeper(database).catch_up(END)
    before = await told(database)
    await prune(database, END)
    await keeper(database).catch_up(START - HOUR)
    await keeper(database).catch_up(END)
    assert await told(database) == before


async def test_a_window_is_of_whole_minutes(database: Database) -> None:
    await keep(database, *(new_call(START + 60 * n) for n in range(4)))
    await keeper(database).catch_up(START + 130)
    assert [each.minute - START // 60 for each in await told(database, START + 61, START + 121)] == [1, 2]
    assert await told(database, END, END + HOUR) == []


async def test_the_servers_sum_up_and_go_on_when_they_cannot(database: Database, tmp_path: Path) -> None:
    await keep(database, new_call())
    upkeep = Upkeep(settings_for(tmp_path), database, clock=lambda: END)
    await upkeep.roll_up()
    assert await database.read(watermark_of) == END // 60
    await database.close()
    await upkeep.roll_up()


def test_the_commands_mend_and_check(tale: Tale, tale_home: Path, tmp_path: Path) -> None:
    async def fill() -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        await keep(database, new_call(), new_call(START + 60))
        await database.close()

    async def damage() -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        await database.write(lambda connection: connection.execute(update(rollup_minute).values(calls=9)).rowcount)
        await database.close()

    asyncio.run(fill())
    assert tale("db", "rollups", "backfill").out.startswith("Summed up ")
    assert tale("db", "rollups", "verify").out == "All 2 sums are right.\n"
    asyncio.run(damage())
    wrong = tale("db", "rollups", "verify")
    assert wrong.code == 1
    assert "The sums of 2 minutes are wrong, of 1970-02-1" in wrong.out
    assert "tale db rollups backfill" in wrong.err
    tale("db", "rollups", "backfill")
    assert tale("db", "rollups", "verify").code == 0


def test_what_is_imported_is_summed_up(tale: Tale, tale_home: Path, tmp_path: Path) -> None:
    async def fill(home: Path, *calls: ModelCall) -> None:
        database = Database.open(f"sqlite:///{home}/tale.db")
        await keep(database, *calls)
        await keeper(database).catch_up(END)
        await database.close()

    asyncio.run(fill(tmp_path / "other", new_call(START + 60), new_call(START + 120)))
    asyncio.run(fill(tale_home, new_call(START)))
    assert tale("--home", str(tmp_path / "other"), "export", "calls.parquet").code == 0
    assert tale("import", "calls.parquet").code == 0
    assert tale("db", "rollups", "verify").out == "All 3 sums are right.\n"


def test_what_an_import_that_broke_off_left_is_summed_up(tale: Tale, tale_home: Path, tmp_path: Path) -> None:
    header = "id,started_at,role,operation,model,provider,ended_at"
    rows = [f"{n},{START - 60 * n},task,chat,m,p,{START - 60 * n + 1}" for n in range(600)]
    path = tmp_path / "model_calls.csv"

    async def fill(*calls: ModelCall) -> None:
        database = Database.open(f"sqlite:///{tale_home}/tale.db")
        await keep(database, *calls)
        await keeper(database).catch_up(END)
        await database.close()

    asyncio.run(fill(new_call(START)))
    path.write_text("\n".join([header, *rows[:550], "x,soon,task,chat,m,p,1"]))
    assert tale("import", str(path)).code == 2
    assert tale("db", "rollups", "verify").out == "All 501 sums are right.\n"
    # A process that was killed sums up nothing; its rows are there.
    late = [new_call(START - 60 * n, id=str(n), operation="chat", model="m") for n in range(500, 600)]
    asyncio.run(fill(*late))
    assert tale("db", "rollups", "verify").code == 1
    path.write_text("\n".join([header, *rows]))
    assert "0 new" in tale("import", str(path)).out
    assert tale("db", "rollups", "verify").out == "All 601 sums are right.\n"
