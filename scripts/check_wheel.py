"""Checks that a wheel of tale holds every file of the package and works by itself.

python scripts/check_wheel.py dist/tale-0.1.0-py3-none-any.whl
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MUST_HOLD = (
    "tale/py.typed",
    "tale/storage/migrations/env.py",
    "tale/conversation/phrases.toml",
    "tale/dashboard/streamlit_app.py",
    "tale/dashboard/pages.py",
    "tale/dashboard/.streamlit/config.toml",
    "tale/learning/data/intent_words.txt",
    "tale/learning/data/intents/near_misses.jsonl",
    "tale/learning/data/priors/priors.jsonl",
    "tale/learning/data/priors/variants.jsonl",
    "tale/cli/data/sample_history.parquet",
)
LICENCES = ("LICENSE", "NOTICE")
# Opening a database runs the migrations that came with the wheel.
PROBE = """
import asyncio, sys
from pathlib import Path
import tale
from tale.storage.database import Database
assert Path(tale.__file__).is_relative_to(sys.argv[1]), tale.__file__
asyncio.run(Database.open(f"sqlite:///{sys.argv[1]}/probe.db").close())
"""


def missing_from(wheel: zipfile.ZipFile) -> list[str]:
    """What the package folder holds and the wheel does not, bytecode apart."""
    held = set(wheel.namelist())
    package = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tale").rglob("*") if path.is_file()]
    wanted = {path for path in package if "__pycache__" not in path} | set(MUST_HOLD)
    licences = [name for name in LICENCES if not any(path.endswith(f"/licenses/{name}") for path in held)]
    return sorted(wanted - held) + licences


def works_alone(wheel: zipfile.ZipFile) -> bool:
    """Unpack the wheel and open a new database with it, far from the source tree."""
    with tempfile.TemporaryDirectory(prefix="tale-wheel-") as folder:
        wheel.extractall(folder)
        environment = {**os.environ, "PYTHONPATH": folder}
        return subprocess.run([sys.executable, "-c", PROBE, folder], cwd=folder, env=environment).returncode == 0


def main() -> int:
    """Print what is wrong; 0 when nothing is."""
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        missing = missing_from(wheel)
        for path in missing:
            print(f"not in the wheel: {path}")
        alone = not missing and works_alone(wheel)
        print(f"{Path(sys.argv[1]).name}: {len(wheel.namelist())} files, {'complete' if alone else 'NOT complete'}")
    return 0 if alone else 1


if __name__ == "__main__":
    sys.exit(main())
