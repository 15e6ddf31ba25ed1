"""Checks of answers, each in a short-lived process that cannot hang or take this one down."""

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from tale.acceptance import CPU_LIMIT_S
from tale.exceptions import ValidationException

PATIENCE_S: Final = (
    30.0  # the process limits its own computing to a few seconds; this is for a machine that stands still
)
PROGRAM: Final = (sys.executable, "-P", "-m", "tale.acceptance")

logger = logging.getLogger(__name__)


async def refuse_invalid(expects: Sequence[str]) -> None:
    """Raise ValidationException unless all of these checks, as JSON, can be used."""
    distinct = sorted(set(expects))
    if not distinct:
        return
    found = await _asked({"expects": [json.loads(expect) for expect in distinct], "cpu_limit_s": CPU_LIMIT_S})
    if found is None:
        raise ValidationException("The checks of `expect` took too long to be read; make them simpler.")
    if faults := [fault for fault in found if fault]:
        raise ValidationException(faults[0])


async def failure_of(expect: str, text: str, *, cpu_limit_s: int = CPU_LIMIT_S) -> str | None:
    """Why the text does not pass the checks; None where it does. A check that takes too long is not passed."""
    found = await _asked({"expect": json.loads(expect), "text": text, "cpu_limit_s": cpu_limit_s})
    return "it took too long, or too much memory" if found is None else found[0]


async def _asked(question: dict[str, Any]) -> list[str | None] | None:
    """The findings; None where the process broke off or was too slow."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate(json.dumps(question).encode())
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        logger.warning("A check ended with status %d: %s", process.returncode, err.decode(errors="replace")[-500:])
        return None
    return json.loads(out)
