"""The learning server as a process of its own, and the link by which the servers start, find and ask it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copy
from typing import Any

import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes.servers import LEARNING_PATIENCE_S, settings_for, until
from filelock import FileLock

from tale.exceptions import DatabaseException, ServerException, TaleBaseException
from tale.learning.intent_data import WORDS_FILE, data_folder
from tale.learning.intent_learner import IntentLearner
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.home_key import made_key
from tale.orchestration.watcher import CANNOT_START, PYTHON
from tale.records import Correction, Detection
from tale.servers.learning_link import LOCK_FILE, PLACE_FILE, LearningLink
from tale.settings import Settings
from tale.storage.correction_store import CorrectionStore, read_corrections
from tale.storage.database import Database

COMMAND = (*PYTHON, "-m", "tale.servers.learning_server")
LEARNED = "Would you draft a farewell note for our neighbours?"


@pytest.fixture
def settings(learned_intents: Path, tmp_path: Path) -> Settings:
    """A home in which everything is learned already."""
    settings = settings_for(tmp_path / "home", learning="on", restart_delay_s=0.0)
    (settings.home / "learning").mkdir(parents=True)
    copy(learned_intents, settings.home / "learning" / "intents.model")
    settings.run_folder.mkdir()
    made_key(settings)
    return settings


@asynccontextmanager
async def linked(settings: Settings) -> AsyncIterator[LearningLink]:
    link = LearningLink(settings, learn_interval_s=0.0)
    await link.start()
    try:
        yield link
    finally:
        await link.stop()


async def until_learned(link: LearningLink) -> Detection:
    """What the server tells, once it does; on a busy machine the rules may stand in now and then."""
    told: list[Detection] = []

    async def is_learned() -> bool:
        told.append(await link.detect(LEARNED))
        return told[-1].source == "model"

    await until(is_learned, patience_s=LEARNING_PATIENCE_S)
    return told[-1]


def place(settings: Settings) -> dict[str, int]:
    """Where the server is, and its process."""
    return json.loads((settings.run_folder / PLACE_FILE).read_text(encoding="utf-8"))


def client_of(settings: Settings, key: str | None) -> HTTPMCPClient:
    return HTTPMCPClient(f"http://127.0.0.1:{place(settings)['port']}", api_key=key)


def clean() -> dict[str, str]:
    """The environment without settings from outside, and without the encoder, with which nothing was learned here."""
    return {key: value for key, value in os.environ.items() if not key.startswith("TALE_")} | {"TALE_ENCODER": "off"}


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_the_server_is_started_asked_replaced_when_it_dies_and_ended(settings: Settings) -> None:
    link = LearningLink(settings)
    assert (await link.detect(LEARNED)).source == "fallback"
    await link.start()
    found = await until_learned(link)
    assert found.label == "task" and found.reasons
    assert (await link.detect("stop")).source == "rule"
    first = place(settings)["pid"]
    os.kill(first, signal.SIGKILL)
    assert (await link.detect(LEARNED)).label in ("task", "chat")  # whoever answers
    await until(lambda: place(settings)["pid"] != first, patience_s=LEARNING_PATIENCE_S)
    await until_learned(link)
    second = place(settings)["pid"]
    await link.stop()
    assert is_gone(second)
    assert not (settings.run_folder / PLACE_FILE).exists()
    assert (await link.detect(LEARNED)).source == "fallback"


PARENT = """
import asyncio
from tale.servers.learning_link import LearningLink
from tale.settings import load_settings

async def main():
    await LearningLink(load_settings()).start()
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def parent(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """Another process of the home, which has started the learning server; a program holds the port meant for it."""
    with socket.create_server(("127.0.0.1", settings.learning_port)):
        process = subprocess.Popen([sys.executable, "-c", PARENT], env={**clean(), **settings.environment()})
        yield process
        process.kill()
        process.wait(10)


async def test_two_processes_of_a_home_share_one_server_which_ends_with_the_one_that_started_it(
    settings: Settings, parent: subprocess.Popen[bytes]
) -> None:
    database = Database.open(settings.database)
    await until((settings.run_folder / PLACE_FILE).exists, patience_s=LEARNING_PATIENCE_S)
    async with linked(settings) as link, client_of(settings, made_key(settings)) as client:
        await until_learned(link)
        assert place(settings)["port"] != settings.learning_port
        assert {tool["name"] for tool in await client.list_tools()} >= {"detect", "learning_status", "learn"}
        status = await client.call_tool("learning_status")
        assert (status["state"], status["corrections"]) == ("ready", 0)
        assert status["accuracy"] > 0.9
        assert (await link.detect("I would ask you to discontinue the second of them.")).action == "stop"
        detected = await client.call_tool("detect", {"text": "🙃" * 5_000})
        assert set(detected) == {"label", "confidence", "reasons", "probabilities", "action", "action_confidence"}
        async with client_of(settings, None) as stranger:
            assert (await stranger.health())["role"] == "learning"
            with pytest.raises(TaleBaseException):
                await stranger.call_tool("detect", {"text": "hi"})

        async def is_learning() -> bool:
            return (await client.call_tool("learning_status"))["state"] == "learning"

        await CorrectionStore(database).add(Correction("one", 1.0, "gather the suspects", "status", "chat"))
        await link.corrected()
        await until(is_learning, patience_s=LEARNING_PATIENCE_S)
        await until_learned(link)  # by what was learned before
    await database.close()
    pid = place(settings)["pid"]
    parent.kill()
    await until(lambda: is_gone(pid))


async def test_alone_in_the_foreground_it_listens_where_it_is_told(settings: Settings) -> None:
    command = (*COMMAND, "--port", str(settings.learning_port), "--home", str(settings.home))
    process = await asyncio.create_subprocess_exec(*command, env=clean(), stderr=asyncio.subprocess.DEVNULL)
    await until((settings.run_folder / PLACE_FILE).exists, patience_s=LEARNING_PATIENCE_S)
    async with linked(settings) as link:
        await until_learned(link)
        assert place(settings) == {"port": settings.learning_port, "pid": process.pid}
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


async def test_a_second_server_of_a_home_is_refused(settings: Settings) -> None:
    with FileLock(settings.run_folder / LOCK_FILE, thread_local=False):
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "--home", str(settings.home), env=clean(), stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
    assert process.returncode == CANNOT_START
    assert b"already runs" in said


async def test_what_was_never_learned_is_learned_in_a_process_of_its_own(tmp_path: Path) -> None:
    for name in ("intents", "intents_unseen"):
        (tmp_path / name).mkdir()
        lines = (data_folder() / "intents" / "near_misses.jsonl").read_text(encoding="utf-8")
        (tmp_path / name / "voice.jsonl").write_text(lines, encoding="utf-8")
    copy(data_folder() / WORDS_FILE, tmp_path)
    put_right = [Correction("one", 1.0, "gather the suspects", "status", "chat")]
    learner = IntentLearner(tmp_path / "new" / "model", lambda: put_right, folder=tmp_path, with_encoder=False)
    with pytest.raises(ServerException, match="being learned"):
        learner.detect("hi")
    learner.start()
    await until(lambda: learner.state == "ready", patience_s=LEARNING_PATIENCE_S)
    await learner.stop()
    assert learner.detect("gather the suspects").label == "status"
    assert learner.standing is not None
    assert learner.standing.corrections == 1


async def test_where_corrections_cannot_be_read_the_rest_is_learned_from(settings: Settings) -> None:
    def unreadable() -> list[Correction]:
        raise DatabaseException("The database is of another version.")

    learner = IntentLearner(settings.home / "learning" / "intents.model", unreadable, with_encoder=False)
    learner.start()
    await until(lambda: learner.state == "ready", patience_s=LEARNING_PATIENCE_S)
    await learner.stop()
    assert learner.detect(LEARNED).label == "task"


class Sham:
    """Answers as a learning server must not: late, or with nonsense."""

    def __init__(self, answer: dict[str, Any] | None) -> None:
        self._answer = answer
        self.asked = 0

    async def post(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self._answer is None:
            await asyncio.Event().wait()
        message = await request.json()
        result = {"content": [], "structuredContent": self._answer, "resultType": "complete"}
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"label": "nonsense", "confidence": 1, "reasons": [], "probabilities": {}},
        {"label": "task"},
        {"label": "task", "confidence": "high", "reasons": 3, "probabilities": []},
    ],
)
async def test_a_server_that_is_slow_or_talks_nonsense_is_left_alone(
    settings: Settings, answer: dict[str, Any] | None
) -> None:
    sham = Sham(answer)
    application = web.Application()
    application.router.add_post("/mcp", sham.post)
    async with TestServer(application, handler_cancellation=True) as server:
        named = settings.model_copy(update={"learning_url": str(server.make_url(""))})
        async with linked(named) as link:
            await asyncio.sleep(0)
            for _ in range(6):
                assert (await link.detect(LEARNED)).source == "fallback"
            assert sham.asked == 3


async def test_without_learning_rules_decide_and_nothing_is_started(settings: Settings) -> None:
    async with linked(settings.model_copy(update={"learning": "off"})) as link:
        assert (await link.detect(LEARNED)).source == "fallback"
        await link.corrected()
    assert not (settings.run_folder / LOCK_FILE).exists()


async def test_corrections_are_kept_newest_first_and_read_by_other_processes(settings: Settings) -> None:
    assert read_corrections(settings.database, limit=5) == []
    database = Database.open(settings.database)
    store = CorrectionStore(database)
    kept = [Correction(str(at), float(at), f"text {at}", "task", "chat", key_name="k") for at in range(4)]
    for each in kept:
        await store.add(each)
    assert await store.newest(3) == [kept[3], kept[2], kept[1]]
    assert read_corrections(settings.database, limit=2) == [kept[3], kept[2]]
    await database.close()
