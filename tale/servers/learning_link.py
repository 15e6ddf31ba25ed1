"""The servers' bond with the learning server: starts it, starts it again when it dies, asks what messages mean."""

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from typing import Any, Final, cast, get_args

from filelock import FileLock, Timeout

from tale.circuit_breaker import CircuitBreaker
from tale.conversation.detector import by_rule, fallback
from tale.exceptions import NetworkException, TaleBaseException
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.home_key import own_key
from tale.orchestration.watcher import ENVIRONMENT_PREFIX, PYTHON
from tale.records import Action, Detection, Intent
from tale.settings import Settings

COMMAND: Final = (*PYTHON, "-m", "tale.servers.learning_server", "--child")
LOCK_FILE: Final = "learning.lock"
PLACE_FILE: Final = "learning.json"  # where the learning server of this home listens
LOG_FILE: Final = "learning.log"
ANSWER_LIMIT_S: Final = 0.15  # then the plain rules decide
PATIENT_S: Final = 1.0  # who waits so long asks a server, too, that did not answer others in time
START_LIMIT_S: Final = 120.0  # of a process that yields to the models
END_LIMIT_S: Final = 3.0
LONGEST_DELAY_S: Final = 60.0
STABLE_S: Final = 60.0  # a server that lived so long died of something new
LEARN_INTERVAL_S: Final = 30.0
LEARN_LIMIT_S: Final = 5.0
LOOK_INTERVAL_S: Final = 5.0  # at whether a server that another process looked after has to be taken over
LEAN: Final = {
    **{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # what is learned is small
    "MALLOC_MMAP_THRESHOLD_": "131072",  # the pieces of a version that is read are given back when it is put together
}
FAILURE_LIMIT: Final = 3

logger = logging.getLogger(__name__)


class LearningLink:
    """Of all servers of a home one starts the learning server; the others find it. Where there is none, rules decide.

    `learn_interval_s` is the shortest time between two rounds of learning.
    """

    def __init__(self, settings: Settings, *, learn_interval_s: float = LEARN_INTERVAL_S) -> None:
        self._settings = settings
        self._learn_interval_s = learn_interval_s
        self._client: HTTPMCPClient | None = None
        self._breaker = CircuitBreaker(failure_limit=FAILURE_LIMIT)
        self._task_breaker = CircuitBreaker(failure_limit=FAILURE_LIMIT)  # apart: messages are not the tasks' to delay
        self._has_corrections = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to look after the learning server; returns at once, long before it answers."""
        if self._settings.learning == "off" or self._tasks:
            return
        look_after = self._use_named() if self._settings.learning_url else self._look_after()
        self._tasks = [
            asyncio.create_task(look_after, name="learning-link"),
            asyncio.create_task(self._pass_on_corrections(), name="learning-corrections"),
        ]

    async def stop(self) -> None:
        """End the learning server, if it was started here."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._disconnect()

    async def detect(self, text: str) -> Detection:
        """What a message asks for: by a fixed phrase, as it was learned, or by plain rules when nobody else answers."""
        return by_rule(text) or await self._learned(text) or fallback(text)

    async def corrected(self) -> None:
        """There are new corrections in the store; they are learned from in the background."""
        self._has_corrections.set()

    def learnable(self) -> None:
        """A task has ended; it is learned from in the background."""
        self._has_corrections.set()

    async def ask(self, tool: str, arguments: Mapping[str, Any], *, limit_s: float) -> dict[str, Any] | None:
        """What a tool about tasks answers; None where no server is there, or it is slow or refuses. Never raises."""
        client, breaker = self._client, self._task_breaker
        if client is None or (limit_s < PATIENT_S and breaker.wait_s()):
            return None
        try:
            answer = await client.call_tool(tool, arguments, timeout_s=limit_s)
        except NetworkException as error:
            breaker.failed()
            logger.info("The learning server does not answer about tasks: %s", error)
            return None
        except TaleBaseException as error:
            breaker.succeeded()
            logger.info("The learning server refuses to answer about a task: %s", error)
            return None
        except BaseException:
            breaker.withdrawn()
            raise
        breaker.succeeded()
        return answer

    async def _learned(self, text: str) -> Detection | None:
        client = self._client
        if client is None or self._breaker.wait_s():
            return None
        try:
            detected = _detection_of(await client.call_tool("detect", {"text": text}, timeout_s=ANSWER_LIMIT_S))
        except (TaleBaseException, ValueError, KeyError, TypeError) as error:
            self._breaker.failed()
            logger.info("The learning server did not tell what a message asks for: %s", error)
            return None
        except BaseException:
            self._breaker.withdrawn()
            raise
        self._breaker.succeeded()
        return detected

    async def _use_named(self) -> None:
        await self._connect(self._settings.url_of("learning"))

    async def _look_after(self) -> None:
        """Start the server, and again whenever it has died, ever more slowly where it dies at once."""
        lock = FileLock(self._settings.run_folder / LOCK_FILE, thread_local=False)
        delay_s = self._settings.restart_delay_s
        loop = asyncio.get_running_loop()
        try:
            while not _taken(lock):
                await self._use_neighbours()
                await asyncio.sleep(LOOK_INTERVAL_S)
            while True:
                began = loop.time()
                await self._run_child()
                lived_long = loop.time() - began >= STABLE_S
                delay_s = self._settings.restart_delay_s if lived_long else min(max(2 * delay_s, 1.0), LONGEST_DELAY_S)
                await asyncio.sleep(delay_s)
        finally:
            lock.release()

    async def _use_neighbours(self) -> None:
        """Find the server that another process of this home has started."""
        try:
            port = int(json.loads((self._settings.run_folder / PLACE_FILE).read_text(encoding="utf-8"))["port"])
        except (OSError, ValueError, KeyError, TypeError):  # it is about to start, or ends
            return
        await self._connect(f"http://127.0.0.1:{port}")

    async def _run_child(self) -> None:
        """Start the server and return when it has ended."""
        try:
            process = await self._spawned()
        except OSError as error:
            logger.warning("The learning server cannot be started: %s", error)
            return
        try:
            answer = await _answer_of(process)
            if "port" in answer:
                await self._connect(f"http://127.0.0.1:{answer['port']}")
                status = await process.wait()
                logger.warning("The learning server ended with %d; plain rules take its place meanwhile.", status)
            else:
                logger.warning("The learning server cannot start: %s", answer.get("error", "it died"))
        finally:
            await _ended(process)
            await self._disconnect()

    async def _spawned(self) -> asyncio.subprocess.Process:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT_PREFIX)}
        with (self._settings.run_folder / LOG_FILE).open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**inherited, **LEAN, **self._settings.environment()},
                start_new_session=True,  # Ctrl-C in a terminal is for the service, which then ends its children
            )

    async def _connect(self, url: str) -> None:
        if self._client is not None and self._client.url == url:
            return
        await self._disconnect()
        self._client = HTTPMCPClient(url, api_key=own_key(self._settings, "learning"))
        self._breaker.succeeded()
        self._task_breaker.succeeded()

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _pass_on_corrections(self) -> None:
        """Have the server learn from corrections, those of some seconds together."""
        while True:
            await self._has_corrections.wait()
            self._has_corrections.clear()
            if client := self._client:
                try:
                    await client.call_tool("learn", {}, timeout_s=LEARN_LIMIT_S)
                except TaleBaseException as error:  # a server that starts anew reads all corrections
                    logger.info("The learning server was not told of corrections: %s", error)
            await asyncio.sleep(self._learn_interval_s)


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _detection_of(told: Mapping[str, Any]) -> Detection:
    """The server's answer; raises ValueError, KeyError or TypeError for one that is none."""
    label, shares = told["label"], told["probabilities"]
    if label not in get_args(Intent) or not isinstance(shares, dict):
        raise ValueError(f"it answered with the label {label!r}")
    probabilities = {str(name): float(share) for name, share in cast("dict[str, Any]", shares).items()}
    reasons, action, sure = tuple(map(str, told["reasons"])), told["action"], told["action_confidence"]
    if action not in (None, *get_args(Action)):
        raise ValueError(f"it answered with the action {action!r}")
    known = (action, None if sure is None else float(sure))
    return Detection(label, float(told["confidence"]), reasons, "model", probabilities, *known)


async def _answer_of(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """The line in which the server says where it listens, or why it cannot; nothing of one that died or is too slow."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        async with asyncio.timeout(START_LIMIT_S):
            line = await process.stdout.readline()
        return cast("dict[str, Any]", json.loads(line))
    except (TimeoutError, ValueError):
        return {}


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End the server by the end of its input; it is killed where that does not help."""
    if process.returncode is not None:
        return
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    process.stdin.close()
    try:
        async with asyncio.timeout(END_LIMIT_S):
            await process.wait()
    except TimeoutError:
        logger.warning("The learning server (pid %d) did not end by itself and is killed.", process.pid)
        process.kill()
        await process.wait()
