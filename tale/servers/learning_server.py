"""The learning server: tells what a message asks for; the only process that imports scikit-learn.

Its MCP calls leave no rows: tale's own servers alone make them, for each message and each task, within 0.15 s, and the
process would be one more writer of the database, with a commit a message. Who asked has a row of the request.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from filelock import FileLock, Timeout

from tale import __version__
from tale.background import NICENESS, ORDINARY, set_session_niceness
from tale.exceptions import ServerException, TaleBaseException
from tale.orchestration.home_key import made_key
from tale.orchestration.run_state import prepare_folder
from tale.orchestration.watcher import CANNOT_START
from tale.records import Action, Intent
from tale.servers.bootstrap import LOG_FORMAT, loaded_for_good
from tale.servers.learning_link import LOCK_FILE, PLACE_FILE
from tale.settings import Settings, load_settings

if TYPE_CHECKING:
    from tale.learning.engine_learner import EngineLearner
    from tale.learning.intent_learner import IntentLearner
    from tale.mcp.http_server import HTTPMCPServer

INSTRUCTIONS: Final = "Tells what a message asks for: chat, a task, status, control, or something unclear."
CORRECTIONS_LIMIT: Final = 5_000  # the newest ones; older ones no longer count
HEAVY: Final = (
    *("tale.mcp.http_server", "tale.learning.intent_learner", "tale.storage.correction_store"),
    *("tale.servers.learning_tools", "tale.servers.task_learning"),
)
# What libraries import where it is there, for tables, bars and servers that they never see here: 75 MB.
UNWANTED: Final = ("pandas", "pytest", "rich", "uvicorn")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detected:
    """What a message asks for; `confidence` is the probability of the label, from 0 to 1.

    `action` is what a control message orders, with its own probability; null for all others.
    """

    label: Intent
    confidence: float
    reasons: list[str]
    probabilities: dict[str, float]
    action: Action | None
    action_confidence: float | None


@dataclass(frozen=True)
class LearningStatus:
    """What was learned; times in Unix seconds, null where nothing was learned yet.

    `accuracy` is the share of right answers on messages that were kept out of the learning.
    """

    state: str
    trained_at: float | None
    training_s: float | None
    messages: int | None
    corrections: int | None
    corrections_left_out: bool | None
    accuracy: float | None


class LearningTools:
    """The tools of the learning server; those about tasks are in `learning_tools`."""

    def __init__(self, intents: "IntentLearner", tasks: "EngineLearner") -> None:
        self._intents = intents
        self._tasks = tasks

    async def detect(self, text: str) -> Detected:
        """Tell what a message asks for: chat, task, status, control or ambiguous.

        Args:
            text: The message as it was typed.
        """
        found = self._intents.detect(text)
        known = (found.action, found.action_confidence)
        return Detected(found.label, found.confidence, list(found.reasons), dict(found.probabilities), *known)

    async def learning_status(self) -> LearningStatus:
        """Tell what was learned, from how much, when, and how good it is."""
        standing = self._intents.standing
        told: dict[str, Any] = {} if standing is None else asdict(standing)
        fields = ("trained_at", "training_s", "messages", "corrections", "corrections_left_out", "accuracy")
        return LearningStatus(self._intents.state, *(told.get(name) for name in fields))

    async def learn(self) -> LearningStatus:
        """Learn anew if users have corrected something, or tasks have ended, since; returns at once."""
        self._intents.look_again()
        self._tasks.look_again()
        return await self.learning_status()


async def serve(settings: Settings, *, is_child: bool) -> None:
    """Serve until SIGTERM, SIGINT or, as a child, the end of the standard input. Raises ServerException."""
    from tale.learning.intent_learner import IntentLearner
    from tale.servers.task_learning import TaskLearning
    from tale.storage.correction_store import read_corrections

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    intents = IntentLearner(
        settings.home / "learning" / "intents.model",
        lambda: read_corrections(settings.database, limit=CORRECTIONS_LIMIT),
        with_encoder=settings.encoder == "on",
    )
    tasks = TaskLearning(settings)
    server = await _started(settings, intents, tasks.learner, is_child=is_child)
    place = settings.run_folder / PLACE_FILE
    try:
        _leave_word(place, server.port)
        intents.start()
        await tasks.start()
        if is_child:
            await asyncio.to_thread(_say, {"port": server.port})
            _end_with_parent(loop, stop)
        logger.info("The learning server listens on port %d.", server.port)
        await stop.wait()
    finally:
        await intents.stop()
        await tasks.stop()
        await server.stop()
        place.unlink(missing_ok=True)


async def _started(
    settings: Settings, intents: "IntentLearner", tasks: "EngineLearner", *, is_child: bool
) -> "HTTPMCPServer":
    """The server on its port; a child takes a free one where another program holds that."""
    try:
        server = _server(settings, intents, tasks, settings.learning_port)
        await server.start()
    except ServerException as error:
        if not is_child:
            raise
        logger.warning("%s The learning server takes a free one.", error)
        server = _server(settings, intents, tasks, 0)
        await server.start()
    return server


def _server(settings: Settings, intents: "IntentLearner", learner: "EngineLearner", port: int) -> "HTTPMCPServer":
    from tale.mcp.http_server import HTTPMCPServer
    from tale.servers.learning_tools import add_task_learning_tools

    started_at = time.time()

    async def health() -> Mapping[str, Any]:
        return {
            "name": "tale-learning",
            "role": "learning",
            "version": __version__,
            "status": "ok" if intents.standing else "starting",
            "uptime_s": round(time.time() - started_at, 3),
            "pid": os.getpid(),
            "home": str(settings.home),
            "intents": intents.state,
            "tasks": learner.state,
        }

    key = made_key(settings) if settings.api_key is None else settings.api_key.get_secret_value()
    server = HTTPMCPServer(
        "tale-learning", version=__version__, port=port, health=health, api_key=key, instructions=INSTRUCTIONS
    )
    tools = LearningTools(intents, learner)
    add_task_learning_tools(server, learner)
    server.add_tool(tools.detect, title="Tell what a message asks for", read_only=True)
    server.add_tool(tools.learning_status, title="What was learned", read_only=True)
    server.add_tool(tools.learn, title="Learn anew", idempotent=True)
    return server


def _leave_word(place: Path, port: int) -> None:
    """Tell the other processes of this home where the server is."""
    draft = place.with_suffix(".tmp")
    draft.write_text(json.dumps({"port": port, "pid": os.getpid()}), encoding="utf-8")
    draft.replace(place)


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


def _end_with_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Stop at the end of the input, which comes when the parent closes it or dies, however it dies."""

    def wait() -> None:
        while sys.stdin.buffer.read(1):
            continue
        with suppress(RuntimeError):  # the loop is closed: the server has stopped for another reason
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def _load_gently(*, is_child: bool) -> None:
    """Import what is heavy, two seconds of work, while a child yields to the models; after that it answers at once."""
    if is_child:  # whose session is its own
        set_session_niceness(NICENESS)
    for module in UNWANTED:
        sys.modules.setdefault(module, cast(ModuleType, None))  # as if it were not installed
    with loaded_for_good():
        for module in HEAVY:
            import_module(module)
    if is_child:
        set_session_niceness(ORDINARY)


@contextmanager
def _alone(settings: Settings) -> Generator[None]:
    """Hold the lock that the service holds for its child: one learning server a home."""
    try:
        with FileLock(settings.run_folder / LOCK_FILE, thread_local=False).acquire(timeout=0):
            yield
    except Timeout as error:
        raise ServerException(
            f"A learning server already runs on {settings.home}; stop it with `tale servers stop`, "
            "or choose another home with --home."
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m tale.servers.learning_server`: in the foreground, or as a child of a service."""
    parser = argparse.ArgumentParser(prog="python -m tale.servers.learning_server", description=__doc__)
    parser.add_argument("--port", type=int, help="port to listen on, 1024 to 65535")
    parser.add_argument("--home", help="folder of the database and of what was learned")
    parser.add_argument("--child", action="store_true", help="end with the standard input; used by the servers")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings({"learning_port": given.port, "home": given.home})
        logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT)
        prepare_folder(settings.run_folder)
        with nullcontext() if given.child else _alone(settings):
            _load_gently(is_child=given.child)
            asyncio.run(serve(settings, is_child=given.child))
        if given.child:
            logging.shutdown()
            os._exit(0)  # the libraries take most of a second to say goodbye, for which a service would wait
    except TaleBaseException as error:
        if given.child:
            _say({"error": str(error)})
        else:
            sys.stderr.write(f"{error}\n")
        return CANNOT_START
    return 0


if __name__ == "__main__":
    sys.exit(main())
