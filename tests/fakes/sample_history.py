"""A history as a busy afternoon leaves it: calls of two models, tasks, retries, feedback, budgets; always the same."""

import asyncio
import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import insert

from tale.records import Attempt, ModelCall, Task, TaskStatus
from tale.storage.budget_store import BudgetStore
from tale.storage.budgets import parsed_budget
from tale.storage.database import Database
from tale.storage.monitoring_tables import monitor_samples
from tale.storage.rollups import Rollups
from tale.storage.rows import values_of
from tale.storage.tables import attempts, feedback, model_calls, tasks

NOW = 1_767_225_630.0  # half a minute past a full hour
SMALL, LARGE = "qwen2.5:7b", "qwen2.5:14b"


@dataclass
class Sample:
    """What the history holds."""

    calls: list[ModelCall]
    tasks: list[Task]
    attempts: list[Attempt]


def sample(seed: int = 7, *, count: int = 600, hours: float = 3.0, now: float = NOW) -> Sample:
    """Calls of so many hours until now, with a task for each call of the large model."""
    chance = random.Random(seed)
    made = Sample([], [], [])
    for at in sorted(chance.uniform(now - hours * 3_600, now - 1) for _ in range(count)):
        if chance.random() < 0.6:
            made.calls.append(_chat(chance, at, now))
        else:
            _work(chance, at, now, made)
    return made


def call(chance: random.Random, at: float, now: float, **values: Any) -> ModelCall:
    """A call whose parts add up to the whole; it still runs when it would end after now."""
    prefill_s, decode_s = chance.lognormvariate(-2, 0.5), chance.lognormvariate(0, 0.6)
    queue_s, load_s = chance.random() * 0.02, 3.0 + chance.random() if chance.random() < 0.02 else 0.0
    total_s = queue_s + load_s + prefill_s + decode_s + 0.002
    base = ModelCall(str(uuid.UUID(int=chance.getrandbits(128), version=4)), at, "ux", "chat", SMALL, "ollama")
    if at + total_s >= now:
        return replace(base, **values)
    tokens = chance.randrange(50, 900)
    return replace(
        base,
        ended_at=at + total_s,
        input_tokens=tokens,
        cached_tokens=tokens // 3,
        output_tokens=chance.randrange(5, 400),
        queue_s=queue_s,
        load_s=load_s,
        prefill_s=prefill_s,
        decode_s=decode_s,
        other_s=0.002,
        time_to_first_token_s=queue_s + load_s + prefill_s,
        total_s=total_s,
        finish_reason="stop",
        **values,
    )


def _chat(chance: random.Random, at: float, now: float) -> ModelCall:
    made = call(chance, at, now, requested_model=SMALL)
    if chance.random() < 0.03:
        return replace(made, error_class="Cancelled", finish_reason=None)
    return made


def _work(chance: random.Random, at: float, now: float, made: Sample) -> None:
    asked = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    by = SMALL if chance.random() < 0.05 else LARGE
    done = call(chance, at, now, role="task", operation="execute", model=by, requested_model=LARGE, task_id=asked)
    number, failures = 1, 0
    if chance.random() < 0.06 and done.ended_at is not None:
        failed = replace(done, error_class="ModelException", error="The engine went away.", output_tokens=None)
        made.calls.append(failed)
        made.attempts.append(Attempt(asked, 1, at, failed.ended_at, "failed", by, "ModelException", failed.error))
        done = call(chance, at + 30, now, role="task", operation="execute", model=by, task_id=asked)
        number, failures = 2, 1
    made.calls.append(done)
    if done.ended_at is None:
        status = TaskStatus.RUNNING
    else:
        status = TaskStatus.CANCELLED if chance.random() < 0.05 else TaskStatus.COMPLETED
    made.attempts.append(Attempt(asked, number, done.started_at, done.ended_at, status.value, by))
    task = Task(asked, f"Write a haiku about the number {len(made.tasks)}.", status, at - chance.random())
    cancel = done.ended_at - 0.3 if status is TaskStatus.CANCELLED and done.ended_at else None
    began = {"started_at": done.started_at, "ended_at": done.ended_at, "attempt": number, "failures": failures}
    made.tasks.append(replace(task, **began, model=by, role="task", cancel_requested_at=cancel, timeout_s=300))


async def keep(url: str, made: Sample, *, now: float = NOW) -> None:
    """Write the history into a database, sums by the minute and budgets included."""
    database = Database.open(url)
    rated = [
        {"task_id": task.id, "rating": "good" if number % 5 else "bad", "comment": None, "created_at": task.ended_at}
        for number, task in enumerate(each for each in made.tasks if each.status is TaskStatus.COMPLETED)
    ]
    held = ((tasks, made.tasks), (attempts, made.attempts), (model_calls, made.calls))
    for table, records in held:
        rows = [values_of(each) for each in records]
        await database.write(lambda c, table=table, rows=rows: c.execute(insert(table), rows).rowcount)
    await database.write(lambda c: c.execute(insert(feedback), rated).rowcount)
    await Rollups(database).catch_up(now)
    store = BudgetStore(database)
    await store.set(parsed_budget("b1", 200_000, period="day", now=now))
    await store.set(parsed_budget("b2", 50_000, scope="model", name=LARGE, period="week", kind="soft", now=now))
    await database.close()


async def watch(url: str, moments: Sequence[float], *, owner: str = "here") -> None:
    """Write samples of the machine at these times into a database; the processor's share counts them up from 0."""
    database = Database.open(url)
    rows = [
        {"id": f"{owner}-{number}", "at": at, "owner": owner, "memory_bytes": 10**8, "cpu_share": float(number)}
        | {"models_bytes": number, "models": json.dumps([{"name": SMALL, "role": "ux", "memory_bytes": number}])}
        for number, at in enumerate(moments)
    ]
    await database.write(lambda c: c.execute(insert(monitor_samples), rows).rowcount)
    await database.close()


def seeded(url: str, *, now: float = NOW, **options: Any) -> Sample:
    """Make a history and keep it, from code that does not await."""
    made = sample(now=now, **options)
    asyncio.run(keep(url, made, now=now))
    return made
