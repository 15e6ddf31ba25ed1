"""Kills a process that records calls, and tells what it had been told was durable, and what then is in the database."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from tale.storage.reader import reading
from tale.storage.tables import model_calls

PROGRAM = Path(__file__).with_name("recording_process.py")


@dataclass(frozen=True)
class Killed:
    """Calls by number: those whose end was acknowledged, those whose rows are complete, and those still open."""

    acknowledged: list[int]
    complete: dict[int, tuple[int | None, ...]]  # with their tokens
    open: list[int]
    calls_per_s: float

    @property
    def lost(self) -> set[int]:
        """Acknowledged, and not there."""
        return set(self.acknowledged) - set(self.complete)


def kill_after(url: str, acknowledgements: int, *, calls_per_s: float) -> Killed:
    """Have calls recorded, and `kill -9` the process after so many were acknowledged."""
    command = [sys.executable, str(PROGRAM), url, str(calls_per_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    try:
        acknowledged = [int(process.stdout.readline())]
        began = time.perf_counter()
        acknowledged += [int(process.stdout.readline()) for _ in range(acknowledgements - 1)]
        took_s = time.perf_counter() - began
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout if line.endswith(b"\n")]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    call = model_calls.c
    wanted = select(call.task_id, call.ended_at, call.input_tokens, call.output_tokens, call.cached_tokens)
    with reading(url) as reader:
        assert reader is not None
        rows = reader.read(lambda connection: connection.execute(wanted).all())
    complete = {int(row[0]): tuple(row[2:]) for row in rows if row[1] is not None}
    assert len(complete) == sum(row[1] is not None for row in rows), "a call has two rows"
    still_open = [int(row[0]) for row in rows if row[1] is None]
    return Killed(acknowledged, complete, still_open, (len(acknowledged) - 1) / took_s if took_s else 0.0)
