"""Runs every block of README.md that is marked `sh`, line by line as it stands, so that CI finds what is not true.

The two commands that install tale stand in blocks without a mark; .ci/run runs those by themselves. Where the gateway
has another port (TALE_GATEWAY_PORT), that one is put in place of 8080.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LIMIT_S = 300


def main() -> int:
    """Run the blocks in a temporary folder; 1 at the first line that fails."""
    port = os.environ.get("TALE_GATEWAY_PORT", "8080")
    blocks = [block.replace(":8080", f":{port}") for block in BLOCK.findall(README.read_text(encoding="utf-8"))]
    with tempfile.TemporaryDirectory(prefix="tale-readme-") as folder:
        for block in blocks:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-v", "-c", block], cwd=folder, stdin=subprocess.DEVNULL, timeout=LIMIT_S
            )
            if done.returncode:
                print(f"This block of README.md failed with exit code {done.returncode}:\n{block}", file=sys.stderr)
                return 1
    print(f"{len(blocks)} blocks of README.md ran as they stand.")
    return 0 if blocks else 1


if __name__ == "__main__":
    sys.exit(main())
