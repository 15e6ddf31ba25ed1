"""How soon does each page of the dashboard have its data, on one million and on ten million calls?

python benchmarks/dashboard.py                  one million calls: about 0.5 GB in the temporary folder
python benchmarks/dashboard.py --full           ten million too: about 4.5 GB, some minutes
python benchmarks/dashboard.py --folder FOLDER  where the databases are made, and kept for the next run
python benchmarks/dashboard.py --no-browser     only what the pages read: the rest takes Chromium and Playwright

The histories are of 100 days, alike but for their density: calls at all times of the day by three models, in four
operations, with failures, loads, conversations and tasks; of the last thirty days there are the monitor's samples, too.
What a page reads is timed as the dashboard asks for it, of the last hour, day and thirty days, of these of one model,
too; warm: the median of several times, after a first one.

A browser opens the dashboard on one more history, of a million calls that end now: the time to the first figures of
Overview, the memory of the process after all pages were looked at, and, beside a real service, what an open page costs
that one. Another looks at what `tale demo` loads into a new home.
"""

import argparse
import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from harness import Row, environment_for, free_ports, median, running_service, show
from sqlalchemy import Connection, insert

from tale.analytics import History, open_history
from tale.analytics.alerts import told_alerts
from tale.analytics.learned import learned
from tale.constants import MONITOR_INTERVAL
from tale.monitoring.pages import PAGES, Choice
from tale.records import ModelCall, Task, TaskStatus
from tale.storage.call_pages import CallFilter
from tale.storage.database import Database
from tale.storage.learning_tables import predictions
from tale.storage.monitoring_tables import monitor_samples
from tale.storage.rollup_rows import Tally
from tale.storage.rollups import WATERMARK
from tale.storage.rows import upsert, values_of
from tale.storage.tables import SCHEMA_REVISION, meta, model_calls, rollup_minute, tasks

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DAYS, DAY_S, MINUTE_S, MINUTES_A_DAY = 100, 86_400, 60, 1_440
SAMPLED_DAYS = 30
CONTENT = 3  # counts what the databases were made to hold: those of another number are not used again
NOW_S = 1_767_225_600.0  # the end of a day
SIZES, FULL_SIZES = (1_000_000,), (1_000_000, 10_000_000)
LIMITS_MS = {1_000_000: 50.0, 10_000_000: 200.0}
CONVERSATIONS = 50  # a day
LAST = f"{DAYS - 1:08x}-0000-0000-0000-000000000001"  # one of the last day
CHOICES = {
    "hour": Choice(1.0),
    "day": Choice(24.0),
    "30 days": Choice(30 * 24.0),
    "30 days, one model": Choice(30 * 24.0, "large"),
}
READS: dict[str, Callable[[History, Choice], Any]] = {
    **PAGES,
    "under way": lambda history, _: history.reader.under_way(),
    "all models": lambda history, _: history.reader.models(),
    "Tasks": lambda history, choice: history.tasks(choice.hours, limit=100),
    "Chat": lambda history, _: history.page(CallFilter(conversation_id=LAST, operation="chat", limit=200)),
    "Learning": lambda history, choice: learned(history, choice.hours, model=choice.model),
    "Alerts": lambda history, _: told_alerts(history),
}
BATCH = 20_000
ROUNDS = 7
LOOK_MS, WATCHED_S, MOST_LOOKS = 5_000, 20.0, 9
TALE = (sys.executable, "-m", "tale.cli.main")
NO_BROWSER = (
    "First paint, memory and cost to the service take Chromium and Playwright: apt-get install chromium, "
    "pip install playwright; or leave them out with --no-browser."
)
LINKS = """() => [...document.querySelectorAll("[data-testid='stSidebarNavLink']")].map(link => link.href)"""
MODELS = (
    ("small", "ux", "chat"),
    ("small", "ux", "acknowledge"),
    ("large", "task", "execute"),
    ("huge", "task", "plan"),
)


def call_of_a_day(chance: random.Random, at: float) -> ModelCall:
    """A finished call."""
    model, role, operation = chance.choice(MODELS)
    prefill_s, decode_s = chance.lognormvariate(-1, 0.5), chance.lognormvariate(0.5, 0.7)
    load_s = 4.0 if chance.random() < 0.0005 else 0.0
    total_s = prefill_s + decode_s + load_s + 0.02
    error = chance.random()
    return ModelCall(
        id=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        started_at=at,
        ended_at=at + total_s,
        role=role,
        operation=operation,
        model=model,
        requested_model=model,
        provider="embedded",
        task_id=str(uuid.UUID(int=chance.getrandbits(128), version=4)) if operation == "execute" else None,
        conversation_id=str(uuid.UUID(int=chance.randrange(CONVERSATIONS))) if operation == "chat" else None,
        input_tokens=chance.randrange(2_000),
        cached_tokens=100,
        output_tokens=chance.randrange(1, 600),
        queue_s=0.01,
        load_s=load_s,
        prefill_s=prefill_s,
        decode_s=decode_s,
        other_s=0.01,
        time_to_first_token_s=prefill_s + load_s + 0.01,
        total_s=total_s,
        finish_reason="stop",
        error_class="ModelException" if error < 0.002 else "Cancelled" if error < 0.006 else None,
    )


def task_of(call: ModelCall) -> Task:
    """The task that a call did."""
    status = TaskStatus.FAILED if call.error_class else TaskStatus.COMPLETED
    began = {"started_at": call.started_at, "ended_at": call.ended_at, "attempt": 1}
    return Task(str(call.task_id), "Write a haiku.", status, call.started_at - 0.2, model=call.model, **began)


async def filled(database: Database, count: int, end_s: float) -> None:
    """Make one day of calls and tasks, then all other days of it by shifting its times and ids."""
    chance = random.Random(11)
    first = end_s - DAYS * DAY_S
    moments = sorted(chance.uniform(first, first + DAY_S - 600) for _ in range(count // DAYS))
    calls = [call_of_a_day(chance, at) for at in moments]
    done = [task_of(call) for call in calls if call.task_id]
    tally = Tally()
    for call in calls:
        tally.add(values_of(call))
    indexes = await database.write(lambda c: without_indexes(c, "model_calls") + without_indexes(c, "tasks"))
    for table, records in ((model_calls, calls), (tasks, done)):
        for begin in range(0, len(records), BATCH):
            rows = [values_of(each) for each in records[begin : begin + BATCH]]
            await database.write(lambda c, table=table, rows=rows: c.execute(insert(table), rows).rowcount)
    sums = [each.row() for each in tally.rollups()]
    await database.write(lambda c: c.execute(insert(rollup_minute), sums).rowcount)
    for day in range(1, DAYS):
        await database.write(lambda c, day=day: shifted(c, first, day))
    for sql in indexes:
        await database.write(lambda c, sql=sql: c.exec_driver_sql(sql).close())
    await database.write(predicted)
    await database.write(lambda c: sampled(c, end_s))
    mark = {"key": WATERMARK, "value": str(int(end_s // MINUTE_S))}
    await database.write(lambda c: upsert(c, meta, mark, keys=["key"]))
    await database.write(lambda c: c.exec_driver_sql("ANALYZE").close())


def shifted(connection: Connection, first: float, day: int) -> None:
    """Copy the first day's rows to another day."""
    shift_s = day * DAY_S
    moved_at = {name: f"{name} + {shift_s}" for name in ("started_at", "ended_at", "created_at", "cancel_requested_at")}
    moved_id = {name: f"printf('%08x', {day}) || substr({name}, 9)" for name in ("id", "task_id", "conversation_id")}
    moved = {**moved_at, **moved_id, "minute": f"minute + {day * MINUTES_A_DAY}"}
    limits = (
        (model_calls, f"started_at < {first + DAY_S}"),
        (tasks, f"created_at < {first + DAY_S}"),
        (rollup_minute, f"minute < {int(first + DAY_S) // MINUTE_S}"),
    )
    for table, limit in limits:
        names = table.c.keys()
        values = ", ".join(moved.get(name, name) for name in names)
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {values} FROM {table.name} WHERE {limit}"
        )


def predicted(connection: Connection) -> None:
    """A prediction for each task, of which half are known to have succeeded or failed."""
    told = {
        **{"task_id": "id", "attempt": "1", "made_at": "started_at", "version": "'v1'", "kind": "'write'"},
        **{"complexity": "'simple'", "complexity_shares": "'{}'", "output_tokens": "200", "lower_tokens": "50"},
        **{"upper_tokens": "500", "coverage": "0.95", "role": "'task'", "reason": "'The task model does it.'"},
        **{"task_success": "0.8", "explored": "0", "neighbours": "'[]'", "ended_at": "ended_at"},
        **{"true_output_tokens": "abs(random() % 600)", "finish_reason": "'stop'", "was_cut": "0"},
        **{"succeeded": "CASE abs(random() % 4) WHEN 0 THEN 0 WHEN 1 THEN 1 END", "variant": "'default'"},
    }
    names, values = ", ".join(told), ", ".join(told.values())
    connection.exec_driver_sql(f"INSERT INTO {predictions.name} ({names}) SELECT {values} FROM tasks").close()


def sampled(connection: Connection, end_s: float) -> None:
    """A sample of the machine each ten seconds, of two models of which the larger is loaded now and then."""
    large = "CASE WHEN moment % 3600 < 2400 THEN 2072000000 END"
    model = "json_object('name', '{}', 'role', '{}', 'state', 'ready', 'memory_bytes', {})"
    told = {
        **{"id": "printf('%08x-0000-4000-8000-000000000000', moment)", "at": "moment", "owner": "'here'"},
        **{"memory_bytes": "150000000 + abs(random() % 1000000)", "cpu_share": "abs(random() % 200) / 100.0"},
        **{"free_memory_bytes": "4000000000", "queued": "abs(random() % 5)", "running": "1"},
        "models_bytes": f"726000000 + coalesce({large}, 0)",
        "models": f"json_array({model.format('small', 'ux', 726_000_000)}, {model.format('large', 'task', large)})",
    }
    begin = int(end_s) - SAMPLED_DAYS * DAY_S
    moments = f"""WITH RECURSIVE moments(moment) AS (
        SELECT {begin} UNION ALL SELECT moment + {MONITOR_INTERVAL} FROM moments WHERE moment < {int(end_s)}
    )"""
    names, values = ", ".join(told), ", ".join(told.values())
    connection.exec_driver_sql(
        f"INSERT INTO {monitor_samples.name} ({names}) {moments} SELECT {values} FROM moments"
    ).close()


def without_indexes(connection: Connection, table: str) -> list[str]:
    """Drop the indexes of a table but those that the copies need; returns how they are made."""
    wanted = f"SELECT name, sql FROM sqlite_master WHERE tbl_name = '{table}' AND type = 'index' AND sql IS NOT NULL"
    found = [
        row
        for row in connection.exec_driver_sql(wanted).all()
        if not row[0].endswith(("_started_at", "_created_at_id"))
    ]
    for name, _ in found:
        connection.exec_driver_sql(f"DROP INDEX {name}")
    return [sql for _, sql in found]


def timed(read: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds of the first time, and the median of the others."""
    taken: list[float] = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        read()
        taken.append((time.perf_counter() - began) * 1_000)
    return taken[0], median(taken[1:])


def measured(history: History, limit_ms: float, size: int) -> list[Row]:
    """The figures of all pages."""
    rows: list[Row] = []
    for words, choice in CHOICES.items():
        for name, read in READS.items():
            first_ms, warm_ms = timed(lambda read=read, choice=choice: read(history, choice))
            rows.append(Row(f"{size:,} calls, {words}: {name} (first {first_ms:,.0f} ms)", warm_ms, "ms", limit_ms))
    return rows


def chromium() -> str:
    """Where it is. Raises SystemExit where it or Playwright is not."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None or find_spec("playwright") is None:
        raise SystemExit(NO_BROWSER)
    return found


def in_a_browser(folder: Path, program: str) -> list[Row]:
    """The figures that take a browser."""
    from playwright.sync_api import sync_playwright

    path = folder / "dashboard-now.db"
    asyncio.run(made(path, SIZES[0], end_s=time.time() // MINUTE_S * MINUTE_S))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        rows = [*beside_a_service(path, browser), of_the_demo(folder / "demo-home", browser)]
        browser.close()
    return rows


def beside_a_service(path: Path, browser: "Browser") -> list[Row]:
    """What a look at all pages takes and costs."""
    told = {"backend": "embedded", "learning": "off", "database_url": f"sqlite:///{path}"}
    with running_service(**told) as service, dashboard_of(service.environment) as (process, url):
        idle = settled_share(service.process.pid)
        page = browser.new_page()
        began = time.perf_counter()
        until_figures(page, url)
        paint_s = time.perf_counter() - began
        for address in page.evaluate(LINKS):
            page.goto(address)
            page.wait_for_timeout(LOOK_MS)
        page.goto(url)
        page.wait_for_timeout(LOOK_MS)
        memory = psutil.Process(process.pid).memory_info().rss / 1e6
        cost = cpu_share(service.process.pid) - idle
        page.close()
    return [
        Row("Overview, first figures after the server is up", paint_s, "s", 2.0),
        Row("Memory of the dashboard after all pages", memory, "MB", 300.0),
        Row("An open page costs the service, of one core", 100 * cost, "%", 2.0),
    ]


def of_the_demo(home: Path, browser: "Browser") -> Row:
    """How soon a new home has a dashboard that shows figures."""
    environment = environment_for(home)
    page = browser.new_page()
    began = time.perf_counter()
    subprocess.run([*TALE, "demo"], env=environment, check=True, stdout=subprocess.DEVNULL)
    with dashboard_of({**environment, "TALE_HOME": str(home / "demo")}) as (_, url):
        until_figures(page, url)
        taken_s = time.perf_counter() - began
        page.close()
    return Row("From `tale demo` in a new home to the first figures", taken_s, "s", 60.0)


def until_figures(page: "Page", url: str) -> None:
    """Open the dashboard; return when Overview shows figures."""
    page.goto(url)
    page.wait_for_selector("[data-testid='stMetricValue']")


@contextmanager
def dashboard_of(environment: dict[str, str]) -> Iterator[tuple[psutil.Process, str]]:
    """The process of the dashboard as `tale dashboard --web` starts it, and its address."""
    (port,) = free_ports(1)
    command = [*TALE, "dashboard", "--web", "--port", str(port)]
    clean = {name: value for name, value in environment.items() if name not in ("DISPLAY", "BROWSER")}
    with subprocess.Popen(command, env=clean, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert "Ctrl-C ends it" in started.stdout.readline()
        (process,) = psutil.Process(started.pid).children()
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            started.terminate()


def cpu_share(pid: int) -> float:
    """How much of one core the process and its children take."""

    def taken() -> float:
        whole = psutil.Process(pid)
        return sum(sum(each.cpu_times()[:2]) for each in (whole, *whole.children(recursive=True)))

    before, began = taken(), time.perf_counter()
    time.sleep(WATCHED_S)
    return (taken() - before) / (time.perf_counter() - began)


def settled_share(pid: int) -> float:
    """The same once the service has started, loaded its models and learned: when it takes no less than before."""
    shares = [cpu_share(pid)]
    while len(shares) < MOST_LOOKS and (len(shares) == 1 or shares[-1] < shares[-2] / 2):
        shares.append(cpu_share(pid))
    return shares[-1]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--full", action="store_true", help="ten million calls too")
    parser.add_argument("--folder", type=Path, help="where the databases are made and kept; default: a temporary one")
    parser.add_argument("--no-browser", action="store_true", help="only what the pages read")
    given = parser.parse_args()
    program = None if given.no_browser else chromium()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as temporary:
        folder = given.folder or Path(temporary)
        for size in FULL_SIZES if given.full else SIZES:
            path = folder / f"dashboard-{size}-{SCHEMA_REVISION}-{CONTENT}.db"
            if not path.exists():
                began = time.perf_counter()
                asyncio.run(made(path, size))
                print(f"{size:>12,} calls: {path.stat().st_size / 1e6:,.0f} MB in {time.perf_counter() - began:.0f} s")
            with open_history(path, clock=lambda: NOW_S + 1) as history:
                rows += measured(history, LIMITS_MS[size], size)
        if program is not None:
            rows += in_a_browser(Path(temporary), program)
    return show("The data of each page of the dashboard", rows)


async def made(path: Path, size: int, *, end_s: float = NOW_S) -> None:
    """A database of so many calls."""
    database = Database.open(f"sqlite:///{path}")
    await filled(database, size, end_s)
    await database.close()


if __name__ == "__main__":
    sys.exit(main())
