"""What does the whole service take when it does nothing, on SQLite and PostgreSQL: memory without models, and CPU?"""

import asyncio
import sys
import time

import psutil
from harness import Row, cpu_s, learning_server_of, postgres, running_service, show, until_learned
from sqlalchemy import create_engine, text

from tale.storage.engines import parse_url

SETTLE_S, IDLE_S = 5.0, 30.0
NO_MODELS = {"backend": "openai", "openai_url": "http://127.0.0.1:9/v1", "ux_model": "none", "task_model": "none"}


def on_sqlite() -> list[Row]:
    with running_service(**NO_MODELS) as service:
        asyncio.run(until_learned(service))
        own = psutil.Process(service.process.pid)
        learning = learning_server_of(own.pid)
        percent = percent_at_rest(own, learning)
        return [
            Row("SQLite: resident memory of the service", megabytes(own), "MB", 180.0),
            Row("SQLite: resident memory of the learning server", megabytes(learning), "MB", 400.0),
            Row("SQLite: CPU of both", percent, "%", 0.5),
        ]


def on_postgres(url: str) -> list[Row]:
    with running_service(database_url=url, **NO_MODELS) as service:
        asyncio.run(until_learned(service))
        own = psutil.Process(service.process.pid)
        learning, database = learning_server_of(own.pid), postmaster(url)
        before = cluster_cpu_s(database)
        percent = percent_at_rest(own, learning)
        of_database = 100 * (cluster_cpu_s(database) - before) / (SETTLE_S + IDLE_S)
        return [
            Row("PostgreSQL: resident memory of the service", megabytes(own), "MB"),
            Row("PostgreSQL: resident memory of the learning server", megabytes(learning), "MB", 400.0),
            Row("PostgreSQL: CPU of both, and of the database for them", percent + of_database, "%", 1.0),
            Row("PostgreSQL: CPU of the database alone", of_database, "%"),
        ]


def percent_at_rest(*processes: psutil.Process) -> float:
    """The share of a core that they take, when they have settled."""
    time.sleep(SETTLE_S)
    before = sum(map(cpu_s, processes))
    time.sleep(IDLE_S)
    return 100 * (sum(map(cpu_s, processes)) - before) / IDLE_S


def megabytes(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


def postmaster(url: str) -> psutil.Process:
    """The process of PostgreSQL that started all others of it."""
    engine = create_engine(parse_url(url))
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
        found = psutil.Process(pid).parent()
    engine.dispose()
    assert found is not None
    return found


def cluster_cpu_s(server: psutil.Process) -> float:
    """What PostgreSQL has used so far, with its processes that have ended."""
    return sum(server.cpu_times()[:4]) + sum(map(cpu_s, server.children()))


def main() -> int:
    rows = on_sqlite()
    with postgres() as url:
        rows += on_postgres(url)
    return show(f"the service at rest ({IDLE_S:g} s)", rows)


if __name__ == "__main__":
    sys.exit(main())
