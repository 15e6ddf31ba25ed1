"""How long does `tale submit "hello world"` take when nothing runs yet?"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Row, environment_for, median, show

RUNS = 3
COMMAND = [sys.executable, "-m", "tale.cli.main"]


def evict(folder: Path) -> None:
    """Drop the model files from the page cache."""
    for path in folder.glob("*.gguf"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(folder: Path) -> None:
    """Bring the model files into the page cache."""
    for path in folder.glob("*.gguf"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def measure(*, cold_disk: bool) -> list[float]:
    taken: list[float] = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory(prefix="tale-benchmark-") as folder:
            environment = environment_for(Path(folder))
            (evict if cold_disk else warm)(Path(folder) / "models")
            start = time.perf_counter()
            done = subprocess.run([*COMMAND, "submit", "hello world"], env=environment, capture_output=True, text=True)
            taken.append(time.perf_counter() - start)
            subprocess.run([*COMMAND, "servers", "stop"], env=environment, capture_output=True)
            if done.returncode:
                raise SystemExit(done.stderr)
    return taken


def main() -> int:
    warmed, cold = measure(cold_disk=False), measure(cold_disk=True)
    return show(
        f'tale submit "hello world" from cold processes ({RUNS} runs each)',
        [
            Row("files in the page cache, median", median(warmed), "s", 10.0),
            Row("files on the disk alone, median", median(cold), "s"),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
