"""The command that loads the sample history into a database of its own, for a look at a dashboard that lives."""

import asyncio
import shlex
import shutil
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tale.cli.invocation import settings_of
from tale.exceptions import ServerException, ValidationException

if TYPE_CHECKING:
    from tale.analytics import History
    from tale.settings import Settings

FILE: Final = "sample_history.parquet"
FOLDER: Final = "demo"  # in TALE_HOME
DAY_TOKENS: Final = 500_000  # more than the sample used: nothing is to be alerted of
MODEL_TOKENS: Final = 300_000
ALL_HOURS: Final = 100_000.0


def demo(
    context: typer.Context,
    reset: Annotated[bool, typer.Option("--reset", help="Load it anew, so that it ends now.")] = False,
) -> None:
    """Load a recorded history into a database of its own, to have a look at the dashboard.

    It is real work of the small embedded models, and only moved in time, so that it ends now. Your own history stays as
    it is: the demo lives in the folder `demo` of TALE_HOME.
    """
    from tale.cli.rendering import Screen

    settings = settings_of(context)
    folder = settings.home / FOLDER
    is_new = reset or not database_of(folder).exists()
    if is_new:
        load(folder, now=time.time())
    else:
        upgrade(folder)
    what = "The sample history is loaded" if is_new else "The sample history is there; --reset has it end now"
    Screen().show(f"{what}. Next: {variable_of(settings, folder)} tale dashboard --web")


def database_of(folder: Path) -> Path:
    """The SQLite file of the demo."""
    return folder / "tale.db"


def variable_of(settings: "Settings", folder: Path) -> str:
    """What has a command read the demo: the home, or the database where the settings name one for all homes."""
    if settings.database_url is None:
        return f"TALE_HOME={shlex.quote(str(folder))}"
    return f"TALE_DATABASE_URL={shlex.quote(f'sqlite:///{database_of(folder)}')}"


def load(folder: Path, source: Path | None = None, *, now: float) -> None:
    """Put a sample history (default: the one that came with tale) into a new database of that folder.

    It takes the place of what was loaded before, whole or not at all. Raises ServerException while a service uses it,
    DatabaseException, and ValidationException for a file that is missing or damaged.
    """
    from tale.orchestration.run_state import prepare_folder

    prepare_folder(folder)
    with _unused(folder):
        draft = folder / "new"
        shutil.rmtree(draft, ignore_errors=True)
        try:
            asyncio.run(_loaded(draft, source or sample_path(), now=now))
            for suffix in ("-wal", "-shm"):  # of the old one, which would be read with the new
                database_of(folder).with_name(f"tale.db{suffix}").unlink(missing_ok=True)
            database_of(draft).replace(database_of(folder))
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def upgrade(folder: Path) -> None:
    """Bring a demo that an earlier tale loaded to the tables of this one. Raises DatabaseException."""
    from tale.storage.upgrade import upgrade as upgrade_tables

    upgrade_tables(f"sqlite:///{database_of(folder)}", folder / "backups")


@contextmanager
def _unused(folder: Path) -> Generator[None]:
    """Hold what a gateway on the demo's database holds, so that none comes in between."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{database_of(folder)}.gateway.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ServerException(
            f"The demo in {folder} is in use; stop its servers first: TALE_HOME={folder} tale servers stop"
        ) from error
    try:
        yield
    finally:
        lock.release()


async def _loaded(folder: Path, source: Path, *, now: float) -> None:
    """Make the database, with two budgets to look at; what is used of them comes from the calls."""
    from tale.storage.budget_store import BudgetStore, new_budget_id
    from tale.storage.budgets import parsed_budget
    from tale.storage.database import Database
    from tale.storage.sample_file import load_sample

    database = Database.open(f"sqlite:///{database_of(folder)}")
    try:
        loaded = await load_sample(database, source, now=now)
        store = BudgetStore(database, pause=lambda _: asyncio.sleep(0))  # no other process has calls to be counted
        await store.set(parsed_budget(new_budget_id(), DAY_TOKENS, kind="soft", now=now))
        busiest = loaded.models[0]
        await store.set(parsed_budget(new_budget_id(), MODEL_TOKENS, scope="model", name=busiest, kind="soft", now=now))
    finally:
        await database.close()


def sample_path() -> Path:
    """The file in the package as it is installed, or in the source tree. Raises ValidationException."""
    places = (Path(__file__).parent / "data" / FILE, Path(__file__).parents[2] / "data" / FILE)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValidationException(f"{FILE} did not come with this tale; install it again.")
    return found


def open_sample() -> "History":
    """The sample history, for notebooks: loaded as `tale demo` does it, with the time at which it ends as the present.

    Raises as `load` does.
    """
    from tale.analytics import open_history
    from tale.settings import load_settings

    database = database_of(load_settings().home / FOLDER)
    if database.exists():
        upgrade(database.parent)
    else:
        with ThreadPoolExecutor(1) as apart:  # a notebook's cells run in an event loop of their own
            apart.submit(load, database.parent, now=time.time()).result()
    with open_history(database) as history:
        end = history.calls(ALL_HOURS, limit=1)["ended_at"][0].timestamp()
    return open_history(database, clock=lambda: end)
