"""Those who follow a conversation hear how its tasks go at a pace that a reader can take."""

import asyncio
from pathlib import Path

import pytest
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import running, settings_for, until
from fakes.speaker import INTENTS, Speaker, held

from tale.models.backend import ChatStream
from tale.records import ChatRequest
from tale.servers import ux_agent_server

INTERVAL_S = 10.0  # longer than a busy machine pauses, so that the test alone lets it pass


class Reader(ScriptedBackend):
    """Writes its first word once it has read, which takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.has_read = asyncio.Event()

    async def chat(self, request: ChatRequest) -> ChatStream:
        await self.has_read.wait()
        async for event in super().chat(request):
            yield event


async def stands(speaker: Speaker, words: str) -> None:
    """Wait until that is what is known of the task."""

    async def is_known() -> bool:
        return words in (await speaker.history())["tasks"][0]["line"]

    await until(is_known)


async def test_two_changes_within_the_interval_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ux_agent_server.PROGRESS_INTERVAL_S == 2.0  # as the description of the tool says
    monkeypatch.setattr(ux_agent_server, "PROGRESS_INTERVAL_S", INTERVAL_S)
    backend, loop = Reader(), asyncio.get_running_loop()
    loading, writing = backend.load_gates.setdefault("large", asyncio.Event()), held(backend)
    async with running(settings_for(tmp_path), backend=backend, intents=INTENTS) as process:
        speaker, heard = Speaker(await process.client("ux_agent")), list[str]()
        await speaker.say("Write a poem")
        await stands(speaker, "waiting for a model")
        following = asyncio.create_task(speaker.hear(on_progress=lambda _f, _t, line: heard.append(str(line))))
        await until(lambda: heard)
        loading.set()
        await stands(speaker, "large is reading")
        backend.has_read.set()
        await stands(speaker, "large is writing")
        assert len(heard) == 1

        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + INTERVAL_S)
        await until(lambda: len(heard) > 1)
        writing.set()
        assert [turn["kind"] for turn in await following] == ["result"]

    first, second = heard
    assert first.startswith("1. Write a poem: waiting for a model, ")
    assert second.startswith("1. Write a poem: large is writing, ")
