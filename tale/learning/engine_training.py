"""Learns from the history in a process of its own, of low priority, and leaves the result in a folder.

`python -m tale.learning.engine_training FOLDER` reads past attempts and priors as JSON on standard input, and the
artefacts of the version that serves and the one before it from the folder, as far as they are there. It writes
`verdict.json` and, where a new version is to serve, `new`.
"""

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sklearn

from tale.background import give_way
from tale.exceptions import ModelException
from tale.learning.engine_judgement import judge
from tale.learning.performance_engine import PerformanceEngine
from tale.predictions import PastAttempt

SERVING, PREVIOUS, NEW, VERDICT = "serving", "previous", "new", "verdict.json"

logger = logging.getLogger(__name__)


def train(folder: Path, rows: list[PastAttempt], priors: list[PastAttempt]) -> None:
    """Learn from the rows, judge, and leave the outcome in the folder. Raises OSError."""
    found = judge(rows, priors=priors, serving=_read(folder / SERVING), previous=_read(folder / PREVIOUS))
    if found.engine is not None and found.verdict == "promoted":
        (folder / NEW).write_bytes(found.engine.to_bytes())
    told = {name: value for name, value in vars(found).items() if name != "engine"}
    (folder / VERDICT).write_text(json.dumps({**told, "library": sklearn.__version__}), encoding="utf-8")


def as_json(rows: list[PastAttempt], priors: list[PastAttempt]) -> bytes:
    """The rows and priors as the process reads them."""
    return json.dumps({"rows": [asdict(row) for row in rows], "priors": [asdict(row) for row in priors]}).encode()


def _read(path: Path) -> PerformanceEngine | None:
    """The engine of a file; None where there is none that can be used."""
    if not path.exists():
        return None
    try:
        return PerformanceEngine.from_bytes(path.read_bytes())
    except ModelException as error:
        logger.warning("The %s version does not take part: %s", path.name, error)
        return None


def main() -> int:
    """Entry of the process."""
    give_way()
    told: dict[str, list[dict[str, Any]]] = json.load(sys.stdin)
    rows, priors = ([PastAttempt(**each) for each in told[name]] for name in ("rows", "priors"))
    train(Path(sys.argv[1]), rows, priors)
    return 0


if __name__ == "__main__":
    sys.exit(main())
