"""A conversation outlives the process that leads it, and those it asks: killed, they are back and it goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import pytest_asyncio
from fakes.engine_script import EngineScript
from fakes.ollama_server import served
from fakes.openai_server import OpenAIServer
from fakes.servers import LEARNING_PATIENCE_S, rows, soon, until
from fakes.service_home import ServiceHome, service_home

from tale.exceptions import TaleBaseException
from tale.servers.learning_link import PLACE_FILE


@pytest.fixture
async def engine() -> AsyncIterator[OpenAIServer]:
    """An engine that writes one word and then waits for the script's gate."""
    async with served(OpenAIServer(EngineScript(models=["m"], gate=asyncio.Event()))) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apart(
    tmp_path_factory: pytest.TempPathFactory, learned_intents: Path
) -> AsyncIterator[tuple[ServiceHome, EngineScript]]:
    """A home each of whose servers is a process of its own, and what its engine does."""
    folder = tmp_path_factory.mktemp("apart")
    (folder / "learning").mkdir()
    copy(learned_intents, folder / "learning" / "intents.model")
    async with (
        served(OpenAIServer(EngineScript(models=["m"]))) as engine,
        service_home(folder, backend="openai", openai_url=engine.base_url) as home,
    ):
        others = home.settings.model_copy(update={"model_url": home.settings.url_of("model")})
        await home.manager().start(["model"])
        await home.manager(others.model_copy(update={"learning": "on"})).start(["ux_agent"])
        for role in ("gateway", "execution"):
            await home.manager(others).start([role])
        yield home, engine.script


async def said(home: ServiceHome, message: str, conversation_id: str | None = None, **more: Any) -> dict[str, Any]:
    async with home.client("ux_agent") as client:
        return await client.call_tool("conversation", {"message": message, "conversation_id": conversation_id, **more})


async def test_a_conversation_and_its_task_go_on_after_kill_9_of_the_ux_agent(
    tmp_path: Path, engine: OpenAIServer
) -> None:
    async with service_home(tmp_path, backend="openai", openai_url=engine.base_url) as home:
        remote = home.settings.model_copy(update={"model_url": home.settings.url_of("model")})
        await home.manager().start(["model", "gateway", "execution"])
        await home.manager(remote).start(["ux_agent"])
        handed = await said(home, "Write a function that adds two numbers in Python")
        assert handed["kind"] == "hand_off", handed
        await soon(engine.script.started)

        engine.script.started.clear()
        talk = asyncio.create_task(said(home, "Thanks, how are you?", handed["conversation_id"]))
        await soon(engine.script.started)  # it is in the middle of its answer
        killed = home.kill("ux_agent")
        with suppress(TaleBaseException):
            await talk
        assert engine.script.gate is not None
        engine.script.gate.set()
        await home.back("ux_agent", instead_of=killed)

        lost = await said(home, "Thanks, how are you?", handed["conversation_id"], again=True)
        assert lost["reply"] == "Hello world!"
        query = "SELECT content FROM messages WHERE kind = 'result'"
        await until(lambda: rows(home.settings, query))
        again = await said(home, "What was my last request?", handed["conversation_id"])
        assert "Your last request was task 1: “Write a function that adds two numbers in Python”" in again["reply"]
        assert (await said(home, "Thank you!", handed["conversation_id"]))["reply"] == "Hello world!"
        assert rows(home.settings, query) == [{"content": "Task 1 is done:\n\nHello world!"}]
        kept = [row["content"] for row in rows(home.settings, "SELECT content FROM messages ORDER BY position")]
        assert kept.count("Thanks, how are you?") == 1  # what was said is kept before it is answered, and once


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("role", ["gateway", "execution", "model", "learning"])
async def test_a_conversation_and_its_task_go_on_after_kill_9_of_any_other_server(
    apart: tuple[ServiceHome, EngineScript], role: str
) -> None:
    home, script = apart
    if role == "learning":
        await until((home.settings.run_folder / PLACE_FILE).exists, patience_s=LEARNING_PATIENCE_S)
    script.started.clear()
    script.gate = gate = asyncio.Event()
    handed = await said(home, "Write a function that adds two numbers in Python")
    assert handed["kind"] == "hand_off", handed
    await soon(script.started)
    script.gate = None  # the task alone waits at it

    killed = home.kill(role)
    again = await said(home, "What was my last request?", handed["conversation_id"])
    assert "Your last request was task 1: “Write a function that adds two numbers in Python”" in again["reply"]
    gate.set()
    if role != "learning":  # plain rules take its place at once; test_learning_server.py sees it come back
        await home.back(role, instead_of=killed)
    assert (await said(home, "Thanks, how are you?", handed["conversation_id"]))["reply"] == "Hello world!"
    query = "SELECT content FROM messages WHERE kind = 'result' AND conversation_id = ?"
    await until(lambda: rows(home.settings, query, handed["conversation_id"]))
    assert rows(home.settings, query, handed["conversation_id"]) == [{"content": "Task 1 is done:\n\nHello world!"}]
