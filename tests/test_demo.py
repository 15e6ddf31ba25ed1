"""`tale demo` loads the sample history into a database of its own, and every page of a dashboard shows something."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from filelock import FileLock
from typer import Typer
from typer.testing import CliRunner, Result

from tale.analytics import History, open_history
from tale.cli.demo import database_of, demo, load, sample_path
from tale.cli.invocation import Invocation
from tale.exceptions import ServerException, ValidationException
from tale.monitoring.pages import PAGES, Choice
from tale.storage.database import Database
from tale.storage.rollups import Rollups
from tale.storage.sample_file import load_sample
from tale.storage.transfer import SCHEMA_NOTE
from tale.storage.transfer_files import writing

NOW = 1_800_000_030.0
MINUTE_S = 60.0
HOURS = 24.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that was loaded at NOW; tests only look at it."""
    loaded = tmp_path_factory.mktemp("loaded") / "demo"
    load(loaded, now=NOW)
    return loaded


@pytest.fixture
def history(folder: Path) -> Iterator[History]:
    with open_history(database_of(folder), clock=lambda: NOW) as opened:
        yield opened


def run(home: Path, *arguments: str) -> Result:
    """The command as `tale` runs it."""
    application = Typer()
    application.command()(demo)
    return CliRunner().invoke(application, list(arguments), obj=Invocation(home=str(home)))


def test_the_command_says_in_one_line_what_to_run_next_and_leaves_the_own_history_alone(tale_home: Path) -> None:
    result = run(tale_home)
    assert result.exit_code == 0, result.output
    told = f"The sample history is loaded. Next: TALE_HOME={tale_home}/demo tale dashboard --web"
    assert result.output.splitlines() == [told]
    assert [path.name for path in tale_home.iterdir()] == ["demo"]
    before = database_of(tale_home / "demo").read_bytes()
    again = run(tale_home)
    assert again.exit_code == 0
    assert "is there" in again.output and "--reset" in again.output
    assert database_of(tale_home / "demo").read_bytes() == before


def test_where_the_settings_name_a_database_the_line_names_the_one_of_the_demo(
    tale_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALE_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    result = run(tale_home)
    assert f"TALE_DATABASE_URL=sqlite:///{tale_home}/demo/tale.db tale dashboard" in result.output


def test_reset_puts_a_fresh_history_in_place_of_one_that_was_changed(folder: Path, tale_home: Path) -> None:
    kept = tale_home / "demo"
    kept.mkdir(parents=True)
    database_of(kept).write_bytes(database_of(folder).read_bytes())
    (kept / "notes.txt").write_text("mine")
    assert run(tale_home, "--reset").exit_code == 0
    with open_history(database_of(kept)) as fresh:
        assert not fresh.calls(HOURS).is_empty()  # NOW is years away
    assert (kept / "notes.txt").exists()
    assert not (kept / "new").exists()


def test_a_dashboard_that_is_open_goes_on_with_the_demo_that_is_loaded_anew(tmp_path: Path) -> None:
    now = [NOW]
    load(tmp_path, now=NOW)
    with open_history(database_of(tmp_path), clock=lambda: now[0]) as history:
        calls, minutes = history.calls(HOURS), history.minutes(HOURS)
        load(tmp_path, now=NOW + 3_600.0)
        now[0] += 3_600.0
        assert history.minutes(HOURS)["at"].max() > minutes["at"].max()
        assert history.minutes(HOURS)["calls"].sum() == minutes["calls"].sum()
        assert history.calls(HOURS)["started_at"].min() > calls["started_at"].min()


def test_it_ends_within_the_last_minutes_and_keeps_all_distances_in_time(history: History) -> None:
    ended = history.calls(HOURS).select(pl.col("ended_at").max()).item().timestamp()
    assert NOW - MINUTE_S <= ended <= NOW
    recorded = pl.read_parquet(sample_path()).filter(pl.col("table") == "model_calls").sort("id")
    loaded = history.calls(HOURS).sort("id")
    shifts = loaded["started_at"].dt.epoch("us") / 1e6 - recorded["started_at"]
    assert shifts.max() - shifts.min() < 1e-3
    assert round(shifts.mean(), 3) % MINUTE_S in (0.0, MINUTE_S)
    same = ["id", "output_tokens", "total_s", "model", "error_class"]
    assert loaded.select(same).equals(recorded.select(same))


@pytest.mark.parametrize("name", PAGES)
def test_each_page_of_the_dashboard_has_something_to_show(history: History, name: str) -> None:
    found = PAGES[name](history, Choice(HOURS))
    frames = [found] if isinstance(found, pl.DataFrame) else [getattr(found, each) for each in found.__slots__]
    held = [each for each in frames if isinstance(each, pl.DataFrame) and not each.is_empty()]
    assert held


def test_the_sums_by_the_minute_are_those_of_the_calls_and_budgets_are_in_use(folder: Path, history: History) -> None:
    async def verified() -> Any:
        database = Database.open(f"sqlite:///{database_of(folder)}")
        try:
            return await Rollups(database).verify()
        finally:
            await database.close()

    checked = asyncio.run(verified())
    assert checked.compared > 0 and checked.wrong_minutes == ()
    assert history.budgets().select((pl.col("used_tokens") > 0).all()).item()


def test_a_demo_in_use_is_not_replaced(tmp_path: Path) -> None:
    demo_folder = tmp_path / "demo"
    demo_folder.mkdir()
    with (
        FileLock(f"{database_of(demo_folder)}.gateway.lock"),
        pytest.raises(ServerException, match="in use; stop its servers first"),
    ):
        load(demo_folder, now=NOW)
    assert not database_of(demo_folder).exists()


def test_a_damaged_file_leaves_what_was_loaded_before(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(sample_path().read_bytes()[:1_000])
    (tmp_path / "demo").mkdir()
    database_of(tmp_path / "demo").write_bytes(b"as it was")
    with pytest.raises(ValidationException, match="damaged"):
        load(tmp_path / "demo", broken, now=NOW)
    assert database_of(tmp_path / "demo").read_bytes() == b"as it was"
    assert not (tmp_path / "demo" / "new").exists()


@pytest.mark.parametrize(("schema", "words"), [("9999", "newer tale"), ("0001", "holds no call")])
async def test_a_file_of_another_time_or_without_calls_is_refused(tmp_path: Path, schema: str, words: str) -> None:
    with writing(tmp_path / "odd.parquet", {"table": "text"}, {SCHEMA_NOTE: schema}):
        pass
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    with pytest.raises(ValidationException, match=words):
        await load_sample(database, tmp_path / "odd.parquet", now=NOW)
    await database.close()
