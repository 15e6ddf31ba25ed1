"""What does the whole service take when it does nothing: memory without models, and CPU?"""

import asyncio
import sys
import time

import psutil
from harness import Row, running_service, show, until_learned

IDLE_S = 30.0


def main() -> int:
    with running_service(
        backend="openai", openai_url="http://127.0.0.1:9/v1", ux_model="none", task_model="none"
    ) as service:
        asyncio.run(until_learned(service))
        time.sleep(5)
        own = psutil.Process(service.process.pid)
        learning = [child for child in own.children() if "tale.servers.learning_server" in child.cmdline()]
        processes = [own, *learning]
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        time.sleep(IDLE_S)
        used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
        resident = own.memory_info().rss / 1e6
        learned = sum(process.memory_info().rss for process in learning) / 1e6
    return show(
        f"the service at rest ({len(processes)} processes, {IDLE_S:g} s)",
        [
            Row("resident memory of the service", resident, "MB", 180.0),
            Row("resident memory of the learning server", learned, "MB", 400.0),
            Row("CPU of both", 100 * used / IDLE_S, "%", 0.5),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
