"""Writes constraints.txt: every package that tale and its extras bring into this environment, by name and version.

python scripts/freeze_constraints.py          rewrite constraints.txt from the environment that runs this
python scripts/freeze_constraints.py --check  exit 1 when a package installed here is missing or another version
"""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("", "dev", "meaning", "postgres", "telemetry")
INSTALLER = {"pip", "setuptools", "wheel"}  # the interpreter's own; pinning them would replace the running installer
FILE = Path(__file__).parent.parent / "constraints.txt"
HEADER = (
    "# The whole set tale was tested with; `python scripts/freeze_constraints.py` writes it. Use: pip install -c.\n"
)


def closure(root: str, extras: tuple[str, ...]) -> dict[str, str]:
    """Name and version of every installed package that `root` with `extras` needs, `root` itself left out."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, extra) for extra in extras]
    while waiting:
        name, extra = waiting.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        try:
            held = distribution(name)
        except PackageNotFoundError:  # an optional dependency that another marker or platform rules out
            continue
        found[canonicalize_name(name)] = held.version
        waiting += _needs(held.requires or [], extra)
    left_out = INSTALLER | {canonicalize_name(root)}
    return {name: version for name, version in sorted(found.items()) if name not in left_out}


def _needs(requirements: list[str], extra: str) -> Iterator[tuple[str, str]]:
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield from ((requirement.name, wanted) for wanted in ("", *requirement.extras))


def main() -> int:
    """Write or check the file; 0 when it is right."""
    packages = closure("tale", EXTRAS)
    if "--check" not in sys.argv[1:]:
        FILE.write_text(HEADER + "".join(f"{name}=={version}\n" for name, version in packages.items()))
        print(f"{FILE.name}: {len(packages)} packages")
        return 0
    lines = FILE.read_text().splitlines()
    held = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wrong = [
        f"{name}: {held.get(name)} listed, {version} here"
        for name, version in packages.items()
        if held.get(name) != version
    ]
    print("\n".join(wrong) or f"{FILE.name} names the {len(packages)} packages installed here")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
