"""Starts and ends the process of one embedded model, and notices when it dies."""

import asyncio
import json
import logging
import secrets
import sys
import time
from pathlib import Path
from typing import Any, Final, cast

import psutil

from tale.exceptions import ModelException
from tale.models.embedded_host import HostPlan
from tale.models.openai_backend import Endpoint

# -P: a file of the user's in the working folder must not stand in for a module of the same name.
COMMAND: Final = (sys.executable, "-P", "-m", "tale.models.embedded_host")
LOAD_LIMIT_S: Final = 300.0  # a large file from a slow disk
END_LIMIT_S: Final = 3.0

logger = logging.getLogger(__name__)


class EngineProcess:
    """A running engine with its model loaded."""

    def __init__(self, process: asyncio.subprocess.Process, endpoint: Endpoint, load_s: float) -> None:
        self._process = process
        self.endpoint = endpoint
        self.load_s = load_s

    @classmethod
    async def start(
        cls, path: Path, *, context_tokens: int, slots: int, threads: int, batch_tokens: int, log: Path
    ) -> "EngineProcess":
        """Start the process and wait until the model is loaded; raises ModelException when it cannot be."""
        key = secrets.token_urlsafe(16)
        plan = HostPlan(str(path), context_tokens, slots, threads, batch_tokens, key)
        began = time.perf_counter()
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C in a terminal is for the service, which then ends its engines
            )
        try:
            answer = await _answer(process, plan)
        except BaseException:
            await _end(process)
            raise
        if "error" in answer:
            await _end(process)
            raise ModelException(str(answer["error"]), {"path": str(path)})
        endpoint = Endpoint(f"http://127.0.0.1:{answer['port']}/v1", key)
        return cls(process, endpoint, time.perf_counter() - began)

    @property
    def is_alive(self) -> bool:
        """Whether the process is there; of its death the event loop hears a moment later than of its broken pipes."""
        return self._process.returncode is None

    @property
    def memory_bytes(self) -> int | None:
        """Resident memory; None when the process is gone."""
        try:
            return psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:
            return None

    async def wait(self) -> int:
        """Return the exit status when the process ends."""
        return await self._process.wait()

    async def end(self) -> None:
        """End the process, which frees the model's memory."""
        await _end(self._process)


async def _answer(process: asyncio.subprocess.Process, plan: HostPlan) -> dict[str, Any]:
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None  # noqa: S101 - both are pipes
    try:
        async with asyncio.timeout(LOAD_LIMIT_S):
            stdin.write(f"{plan.to_json()}\n".encode())
            await stdin.drain()
            line = await stdout.readline()
    except TimeoutError as error:
        raise ModelException(f"{plan.path} was not loaded within {LOAD_LIMIT_S:g} s.") from error
    except ConnectionError:
        line = b""
    if not line:
        status = await process.wait()
        raise ModelException(
            f"The engine died while loading {plan.path} (exit status {status}); there may be too little memory.",
            {"path": plan.path, "status": status},
        )
    return cast("dict[str, Any]", json.loads(line))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_LIMIT_S):
            await process.wait()
    except TimeoutError:
        logger.warning("An engine process (pid %d) did not end by itself and is killed.", process.pid)
        process.kill()
        await process.wait()
