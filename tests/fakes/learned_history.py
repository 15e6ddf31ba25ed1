"""What learning and the monitor leave behind beside a sample history: predictions, versions, samples, alerts."""

import json
import random
import uuid
from typing import Any

from fakes.sample_history import LARGE, SMALL, keep, sample
from sqlalchemy import insert

from tale.records import Task
from tale.storage.database import Database
from tale.storage.learning_tables import engine_versions, learning_events, predictions, shadows
from tale.storage.monitoring_store import MonitoringStore, TargetAlert, Violation
from tale.storage.monitoring_tables import monitor_samples

SHADOWS = 12
GIB = 2**30
MODEL_BYTES = {SMALL: 5 * GIB, LARGE: 9 * GIB}
SERVICE_BYTES = GIB // 4


def predicted(tasks: list[Task], *, seed: int = 3) -> list[dict[str, Any]]:
    """What was expected of the first attempt of each ended task, and came of it."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number, task in enumerate(each for each in tasks if each.ended_at is not None):
        truth, role = chance.randrange(20, 400), "ux" if number % 3 == 0 else "task"
        expected = max(1, int(truth * chance.uniform(0.7, 1.3)))
        succeeded = None if number % 2 else chance.random() < 0.7
        rows.append(
            {
                **{"task_id": task.id, "attempt": 1, "made_at": task.started_at, "version": f"v{number // 40}"},
                **{"kind": "write", "complexity": "simple", "complexity_shares": "{}", "output_tokens": expected},
                **{"lower_tokens": expected // 2, "upper_tokens": expected + 60, "coverage": 0.95, "role": role},
                **{"reason": "Because.", "explored": number % 9 == 0, "neighbours": "[]", "took_s": 0.01},
                **{"gain": 0.1, "ux_success": 0.6, "task_success": 0.9, "ended_at": task.ended_at},
                **{"true_output_tokens": truth, "finish_reason": "stop", "was_cut": False, "succeeded": succeeded},
                **{"variant": "default", "task_output_tokens": 2 * truth, "stated_tokens": None, "cap_tokens": None},
            }
        )
    return rows


async def keep_learned(url: str, *, now: float, count: int = 400) -> list[dict[str, Any]]:
    """A history in which predictions were made, two versions and twelve tasks that were done both ways."""
    made = sample(count=count, now=now, hours=3)
    await keep(url, made, now=now)
    expected = predicted(made.tasks)
    scores = {"new": {"loss": 0.4}, "serving": {"loss": 0.5}, "plain": {"loss": 0.7}}
    version = {"rows": 80, "trained_until": now, "library": "1.9", "metrics": json.dumps(scores), "reason": "Better."}
    versions = [
        {"id": "v0", "created_at": now - 9_000, "state": "retired", **version},
        {"id": "v1", "created_at": now - 3_000, "state": "rejected", **version},
    ]
    events = [
        {"id": f"e{n}", "created_at": now - 9_000 + n, "kind": kind, "text": "Told.", "version": f"v{n}"}
        for n, kind in enumerate(("promoted", "rejected"))
    ]
    both = [
        {"task_id": row["task_id"], "made_at": row["ended_at"], "small_tokens": 100, "large_tokens": 10 + n}
        | {"succeeded": True, "naive_tokens": 100, "naive_succeeded": True}
        for n, row in enumerate(expected[:SHADOWS])
    ]
    tables = ((predictions, expected), (engine_versions, versions), (learning_events, events), (shadows, both))
    database = Database.open(url)
    for table, rows in tables:
        await database.write(lambda c, table=table, rows=rows: c.execute(insert(table), rows).rowcount)
    await database.close()
    return expected


async def keep_watched(url: str, *, now: float, minutes: int = 180) -> None:
    """What the monitor saw each minute until now: for the first half of the time, the large model was not loaded."""
    rows: list[dict[str, Any]] = []
    for number in range(minutes):
        loaded = {name: size for name, size in MODEL_BYTES.items() if name == SMALL or number >= minutes // 2}
        told = [{"name": name, "state": "ready", "memory_bytes": size} for name, size in loaded.items()]
        rows.append(
            {
                **{"id": f"w{number}", "at": now - 60 * (minutes - number), "owner": "here"},
                **{"memory_bytes": SERVICE_BYTES, "cpu_share": 0.1 + number % 7 / 10, "queued": 0, "running": 1},
                **{"models_bytes": sum(loaded.values()), "models": json.dumps(told)},
            }
        )
    database = Database.open(url)
    await database.write(lambda c: c.execute(insert(monitor_samples), rows).rowcount)
    await database.close()


async def keep_alerts(url: str, now: float) -> None:
    """One target is missed, one was, one burns, of one the alert is acknowledged."""
    database = Database.open(url)
    store = MonitoringStore(database)
    violation = Violation(str(uuid.uuid4()), "ux_first_token", "cpu", now - 600, None, 1.0, 2.0, 40, "Do less.")
    alerts = [
        TargetAlert("a1", now - 600, violation.id, "ux_first_token", "missed", "First words: p95 is 2 s. Do less."),
        TargetAlert("a2", now - 500, None, "model_load", "missed", "Loads: slow."),
        TargetAlert("a3", now - 400, None, "model_load", "met", "Loads: met again."),
        TargetAlert("a4", now - 300, None, "interrupt", "burning", "Interrupts: soon missed."),
        TargetAlert("a5", now - 200, None, "medium_task", "missed", "Tasks: slow.", now - 100),
    ]
    await store.keep([violation], alerts)
    await database.close()
