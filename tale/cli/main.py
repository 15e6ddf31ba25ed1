"""The console script `tale`; it imports next to nothing, so that an early interrupt leaves no traceback."""

import sys
from collections.abc import Sequence
from typing import Final

INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 ok, 1 task failed, 2 usage, 3 no server or model, 130 interrupted."""
    try:
        from tale.cli.edge import run

        return run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
