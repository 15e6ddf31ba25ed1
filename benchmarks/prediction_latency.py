"""How long does an executor wait to be told what to expect of a task, alone and while a model keeps the cores busy?

Which model is to do it is part of the answer: the limit where nothing else is at work is the own bar of the target
"routing".
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

import psutil
from harness import LEARNED_WITHIN_S, Row, busy_cores, free_ports, median, quantile, show, until_at_rest

from tale.learning.intent_data import data_folder, read_examples
from tale.learning.performance_engine import PerformanceEngine
from tale.orchestration.home_key import made_key
from tale.predictions import EngineVersion, PastAttempt, TaskQuestion
from tale.servers.learning_link import PLACE_FILE, LearningLink
from tale.servers.prediction_link import PREDICTION_LIMIT_S, PredictionLink
from tale.settings import Settings, load_settings
from tale.storage.database import Database
from tale.storage.learning_store import LearningStore

QUESTIONS = 1_000
BUSY_PROCESSES = 2
PATIENT_S = 5.0  # so that the measurement does not end where an executor would stop to wait


def history(texts: list[str], count: int) -> list[PastAttempt]:
    """Attempts whose lengths follow the lengths of their texts, by chance; half of them by either model."""
    chance = random.Random(1)
    rows: list[PastAttempt] = []
    for number in range(count):
        text = f"{chance.choice(texts)} ({number % 997})"
        role = chance.choice(("ux", "task"))
        tokens = round(20 + 4 * len(text) * chance.lognormvariate(0, 0.4))
        succeeded = chance.random() < (0.8 if role == "ux" else 0.95)
        rows.append(PastAttempt(f"t{number}", float(number), text, role, role, tokens, "stop", succeeded))
    return rows


async def prepared(home: Path, texts: list[str], rows: int) -> tuple[Settings, float]:
    """A home in which a version serves that was made of so many rows, and the seconds that took."""
    (port,) = free_ports(1)
    settings = load_settings({"home": str(home), "learning_port": port}, environment={}, folder=home)
    settings.run_folder.mkdir(parents=True)
    made_key(settings)
    began = time.perf_counter()
    engine = PerformanceEngine().fit(history(texts, rows))
    taken_s = time.perf_counter() - began
    database = Database.open(settings.database)
    version = EngineVersion("v1", 1.0, "serving", rows, engine.trained_until_, "")
    await LearningStore(database).add_version(version, engine.to_bytes())
    await database.close()
    return settings, taken_s


async def times_of(link: PredictionLink, texts: list[str]) -> list[float]:
    """Milliseconds a question."""
    times: list[float] = []
    for number, text in enumerate(texts):
        question = TaskQuestion(f"{text} Take care of case {number}.", 2_048, has_check=bool(number % 2))
        began = time.perf_counter()
        if await link.predict(question, limit_s=PATIENT_S) is None:
            raise SystemExit("The learning server does not answer.")
        times.append((time.perf_counter() - began) * 1e3)
    return times


async def measured(home: Path, rows: int) -> list[Row]:
    """The rows of the table."""
    texts = [each.text for each in read_examples(data_folder() / "intents")]
    settings, fit_s = await prepared(home, texts, rows)
    asked = texts[::7][:QUESTIONS]
    learning = LearningLink(settings)
    link = PredictionLink(learning)
    await learning.start()
    try:
        deadline = time.monotonic() + 180
        while await link.predict(TaskQuestion("Write a poem", 100), limit_s=PATIENT_S) is None:
            if time.monotonic() > deadline:
                raise SystemExit("The learning server did not start.")
            await asyncio.sleep(0.1)
        place = (settings.run_folder / PLACE_FILE).read_text(encoding="utf-8")
        server = psutil.Process(int(place.split('"pid": ')[1].rstrip("}")))
        async with asyncio.timeout(LEARNED_WITHIN_S):
            await until_at_rest(server)
        used_s = sum(server.cpu_times()[:2])
        idle = await times_of(link, asked)
        used_s = sum(server.cpu_times()[:2]) - used_s
        with busy_cores(BUSY_PROCESSES):
            busy = await times_of(link, asked)
        memory_bytes = server.memory_info().rss
    finally:
        await learning.stop()
    late = sum(each > PREDICTION_LIMIT_S * 1e3 for each in busy)
    return [
        Row(f"fit of {rows:,} attempts, both heads", fit_s, "s", 40.0),
        Row("processor time of the learning server, mean", 1e3 * used_s / len(asked), "ms"),
        Row("nothing else at work, median", median(idle), "ms"),
        Row("nothing else at work, p99", quantile(idle, 0.99), "ms", 10.0),
        Row(f"{BUSY_PROCESSES} busy processes, median", median(busy), "ms"),
        Row(f"{BUSY_PROCESSES} busy processes, p99", quantile(busy, 0.99), "ms", 50.0),
        Row("too late for the executor, busy", 100 * late / len(busy), "%", 1.0),
        Row("memory of the learning server", memory_bytes / 1e6, "MB", 400.0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000, help="attempts in the history")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
        return show(
            f"What to expect of a task, over HTTP ({QUESTIONS} new texts)",
            asyncio.run(measured(Path(folder), given.rows)),
        )


if __name__ == "__main__":
    sys.exit(main())
