"""A conversation outlives the process that leads it: killed in the middle of a word, it goes on where it was."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.engine_script import EngineScript
from fakes.ollama_server import served
from fakes.openai_server import OpenAIServer
from fakes.servers import rows, soon, until
from fakes.service_home import ServiceHome, service_home

from tale.exceptions import TaleBaseException


@pytest.fixture
async def engine() -> AsyncIterator[OpenAIServer]:
    """An engine that writes one word and then waits for the script's gate."""
    async with served(OpenAIServer(EngineScript(models=["m"], gate=asyncio.Event()))) as engine:
        yield engine


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
