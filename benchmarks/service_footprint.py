"""What does the whole service take when it does nothing: memory without models, and CPU?"""

import sys
import time

import psutil
from harness import Row, running_service, show

IDLE_S = 30.0


def main() -> int:
    with running_service(
        backend="openai", openai_url="http://127.0.0.1:9/v1", ux_model="none", task_model="none"
    ) as service:
        processes = [psutil.Process(service.process.pid)]
        processes += processes[0].children(recursive=True)
        time.sleep(3)
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        time.sleep(IDLE_S)
        used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
        resident = sum(process.memory_info().rss for process in processes) / 1e6
    return show(
        f"the service at rest ({len(processes)} process, {IDLE_S:g} s)",
        [Row("resident memory", resident, "MB", 180.0), Row("CPU", 100 * used / IDLE_S, "%", 0.5)],
    )


if __name__ == "__main__":
    sys.exit(main())
