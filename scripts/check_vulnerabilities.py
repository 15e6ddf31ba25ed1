"""Asks pip-audit about every package in constraints.txt; passes with a message where its service is out of reach."""

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
COMMAND = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]


def main() -> int:
    """1 when a package has a known vulnerability; 0 when none has, or when nobody could be asked."""
    done = subprocess.run(
        [*COMMAND, "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if not done.stdout.strip():
        return _not_asked((done.stderr.strip() or "no output").splitlines()[-1])
    packages = json.loads(done.stdout)["dependencies"]
    asked = [package for package in packages if "skip_reason" not in package]
    if not asked:
        return _not_asked("it knew none of the packages")
    wrong = [(package, hole) for package in asked for hole in package["vulns"]]
    for package, hole in wrong:
        fixed = ", ".join(hole["fix_versions"]) or "no release yet"
        print(f"{package['name']} {package['version']}: {hole['id']}, fixed in {fixed}")
    print(f"{len(asked)} of {len(packages)} packages audited, {len(wrong)} known vulnerabilities")
    return 1 if wrong else 0


def _not_asked(reason: str) -> int:
    print(f"SKIPPED: the vulnerability service could not be asked ({reason}).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
