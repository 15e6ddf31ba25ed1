"""How soon does a command answer: its help, the import of tale, the status of servers that run?

python benchmarks/startup.py                    starts a service of its own for `tale status`
python benchmarks/startup.py --home ~/.tale     asks the service that runs there
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from harness import Row, median, quantile, running_service, show

RUNS = 15
TALE = str(Path(sys.executable).with_name("tale"))
IMPORT = "import time; start = time.perf_counter(); import tale; print(time.perf_counter() - start)"


def wall_ms(command: list[str], environment: dict[str, str]) -> list[float]:
    """Milliseconds that the command takes from start to end, after one run that fills the caches."""
    taken: list[float] = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        taken.append((time.perf_counter() - start) * 1000)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {done.stderr or done.stdout}")
    return taken[1:]


def import_ms() -> list[float]:
    """Milliseconds of `import tale` within a new interpreter, whose own start is not counted."""
    command = [sys.executable, "-c", IMPORT]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(RUNS + 1)]
    return [float(run.stdout) * 1000 for run in runs[1:]]


def status_ms(home: Path | None) -> list[float]:
    """Milliseconds of `tale status` against running servers."""
    if home:
        return wall_ms([TALE, "status"], {**os.environ, "TALE_HOME": str(home)})
    with running_service(
        backend="openai", openai_url="http://127.0.0.1:9/v1", ux_model="none", task_model="none"
    ) as service:
        return wall_ms([TALE, "status"], service.environment)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--home", type=Path, help="TALE_HOME of a service that runs already")
    home = parser.parse_args().home
    bare = wall_ms([sys.executable, "-c", "pass"], dict(os.environ))
    shown, imported, status = wall_ms([TALE, "--help"], dict(os.environ)), import_ms(), status_ms(home)
    return show(
        f"from nothing to an answer ({RUNS} runs each, files in the page cache)",
        [
            Row("a bare Python interpreter, median", median(bare), "ms"),
            Row("import tale, median", median(imported), "ms", 50.0),
            Row("tale --help, median", median(shown), "ms", 200.0),
            Row("tale --help, worst", quantile(shown, 1.0), "ms"),
            Row("tale status, servers running, median", median(status), "ms", 500.0),
            Row("tale status, servers running, worst", quantile(status, 1.0), "ms"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
