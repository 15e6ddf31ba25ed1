"""How long does it take to be told what a message asks for, while the task model keeps both cores busy?"""

import asyncio
import tempfile
import time
from pathlib import Path

import psutil
from harness import Row, busy_cores, free_ports, median, quantile, show

from tale.learning.intent_data import data_folder, read_examples
from tale.learning.intent_encoder import read_encoder
from tale.learning.intent_training import train
from tale.orchestration.home_key import made_key
from tale.servers.learning_link import PLACE_FILE, LearningLink
from tale.settings import Settings, load_settings
from tale.storage.database import Database

MESSAGES = 1_000
BUSY_PROCESSES = 2


async def settings_of(home: Path) -> Settings:
    """A home in which everything is learned already, and whose database a service has made."""
    (port,) = free_ports(1)
    settings = load_settings({"home": str(home), "learning_port": port}, environment={}, folder=home)
    settings.run_folder.mkdir(parents=True)
    made_key(settings)
    train(home / "learning" / "intents.model", [], folder=data_folder(), encoder=read_encoder())
    await Database.open(settings.database).close()
    return settings


async def times_of(link: LearningLink, texts: list[str]) -> tuple[list[float], float]:
    """Seconds a message, and the share of messages for which the plain rules had to stand in."""
    times: list[float] = []
    stood_in = 0
    for text in texts:
        began = time.perf_counter()
        found = await link.detect(text)
        times.append(time.perf_counter() - began)
        stood_in += found.source == "fallback"
    return times, stood_in / len(texts)


async def measured(home: Path) -> list[Row]:
    """The rows of the table."""
    settings = await settings_of(home)
    texts = [each.text for each in read_examples(data_folder() / "intents")][::7][:MESSAGES]
    link = LearningLink(settings)
    began = time.perf_counter()
    await link.start()
    while (await link.detect("could you write a farewell note")).source != "model":
        await asyncio.sleep(0.02)
    started_s = time.perf_counter() - began
    idle, _ = await times_of(link, texts)
    with busy_cores(BUSY_PROCESSES):
        busy, stood_in = await times_of(link, texts)
    place = (settings.run_folder / PLACE_FILE).read_text(encoding="utf-8")
    memory_bytes = psutil.Process(int(place.split('"pid": ')[1].rstrip("}"))).memory_info().rss
    await link.stop()
    return [
        Row("start until the first answer, learned before", started_s, "s"),
        Row("nothing else at work, median", median(idle) * 1e3, "ms"),
        Row("nothing else at work, p99", quantile(idle, 0.99) * 1e3, "ms", 20),
        Row(f"{BUSY_PROCESSES} busy processes, median", median(busy) * 1e3, "ms"),
        Row(f"{BUSY_PROCESSES} busy processes, p99", quantile(busy, 0.99) * 1e3, "ms", 20),
        Row("told by the rules instead", stood_in * 100, "%", 1),
        Row("memory of the learning server", memory_bytes / 1e6, "MB", 400),
    ]


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
        return show("What a message asks for, told over loopback", asyncio.run(measured(Path(folder))))


if __name__ == "__main__":
    raise SystemExit(main())
