"""Prints the one command in README.md's code blocks that begins with the words given, so that CI runs what it says."""

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Every line of every fenced block, without a leading prompt and without trailing white space."""
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    return [line.strip().removeprefix("$ ") for line in lines if line.strip()]


def main() -> int:
    """Print the command; 1 when README.md holds none or several that begin so."""
    wanted = sys.argv[1]
    found = sorted({line for line in commands(README.read_text(encoding="utf-8")) if line.startswith(wanted)})
    if len(found) != 1:
        print(f"README.md has {len(found)} commands that begin with {wanted!r}, not one: {found}", file=sys.stderr)
        return 1
    print(found[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
