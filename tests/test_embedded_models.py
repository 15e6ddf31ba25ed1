"""The embedded engine runs a real small model in a process of its own, and ends with whoever started it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tale.exceptions import ModelException, TaleBaseException, ValidationException
from tale.models.download import ModelFiles
from tale.models.embedded_backend import EmbeddedBackend
from tale.models.embedded_host import HostPlan
from tale.models.engine_process import EngineProcess
from tale.records import ChatRequest, Delta, Message, PromptProgress, Reply

MODEL = "smollm2:135m"
REQUEST = ChatRequest(MODEL, (Message("user", "Say hello."),), max_tokens=8, temperature=0.0)
LONG = " ".join(f"item {number} costs {number * 7} euros;" for number in range(120))


@pytest.fixture
async def backend(model_folder: Path, tmp_path: Path) -> AsyncIterator[EmbeddedBackend]:
    made = EmbeddedBackend(
        ModelFiles(model_folder, hub_url="http://127.0.0.1:9"),
        log=tmp_path / "engines.log",
        timeout_s=30,
        context_tokens={MODEL: 2_048},
        slots={MODEL: 2},
    )
    yield made
    await made.close()


@pytest.mark.model
async def test_a_real_model_is_loaded_answers_with_its_figures_and_is_unloaded(backend: EmbeddedBackend) -> None:
    assert await backend.load(MODEL) > 0
    assert await backend.load(MODEL) == 0.0
    info = next(model for model in await backend.list_models() if model.name == MODEL)
    assert info.loaded
    assert info.memory_bytes is not None
    assert info.memory_bytes > 50_000_000
    events = [event async for event in backend.chat(REQUEST)]
    reply = events[-1]
    assert isinstance(reply, Reply)
    assert reply.text == "".join(event.text for event in events if isinstance(event, Delta)) != ""
    assert reply.usage.input_tokens == await backend.count_tokens(REQUEST)
    assert reply.usage.output_tokens == 8
    assert reply.finish_reason == "length"
    assert reply.timings.prefill_s is not None
    assert reply.timings.decode_s is not None
    assert (await backend.complete(REQUEST)).usage.output_tokens == 8
    assert await backend.is_responsive(MODEL)
    await backend.unload(MODEL)
    assert not await backend.is_responsive(MODEL)
    with pytest.raises(ModelException, match="not loaded"):
        await backend.complete(REQUEST)


@pytest.mark.model
async def test_a_cancel_while_a_long_prompt_is_read_frees_the_engine(backend: EmbeddedBackend) -> None:
    await backend.load(MODEL)
    stream = backend.chat(ChatRequest(MODEL, (Message("user", LONG),), max_tokens=4))
    async for event in stream:
        if isinstance(event, PromptProgress) and event.processed_tokens:
            assert event.processed_tokens < event.total_tokens
            break
    await stream.aclose()
    assert (await backend.complete(REQUEST)).usage.output_tokens == 8


@pytest.mark.model
async def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(backend: EmbeddedBackend) -> None:
    await backend.load(MODEL)
    with pytest.raises(ValidationException) as caught:
        await backend.complete(ChatRequest(MODEL, (Message("user", LONG * 4),)))
    assert caught.value.context["context_tokens"] == 2_048


@pytest.mark.model
async def test_a_json_schema_binds_the_model(backend: EmbeddedBackend) -> None:
    await backend.load(MODEL)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    reply = await backend.complete(ChatRequest(MODEL, REQUEST.messages, max_tokens=40, json_schema=schema))
    assert reply.text.strip().startswith("{")


@pytest.mark.model
async def test_an_engine_that_is_killed_is_noticed_and_can_be_loaded_again(backend: EmbeddedBackend) -> None:
    await backend.load(MODEL)
    child = next(process for process in psutil.Process().children() if "embedded_host" in " ".join(process.cmdline()))
    stream = backend.chat(ChatRequest(MODEL, REQUEST.messages, max_tokens=500))
    with pytest.raises(TaleBaseException):
        async for event in stream:
            if isinstance(event, Delta):
                with suppress(psutil.NoSuchProcess):  # words that were on their way still come
                    child.send_signal(signal.SIGKILL)
    assert not await backend.is_responsive(MODEL)
    assert await backend.load(MODEL) > 0
    assert (await backend.complete(REQUEST)).usage.output_tokens == 8


PARENT = """
import asyncio, sys
from pathlib import Path
from tale.models.engine_process import EngineProcess
async def main():
    engine = await EngineProcess.start(Path(sys.argv[1]), context_tokens=512, slots=1, threads=1, batch_tokens=64,
                                       log=Path(sys.argv[2]))
    print(engine._process.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.model
async def test_an_engine_ends_when_its_parent_is_killed(model_folder: Path, tmp_path: Path) -> None:
    file = ModelFiles(model_folder, hub_url="http://127.0.0.1:9").path(MODEL)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(file), str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    engine = psutil.Process(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(psutil.wait_procs, [engine], 10)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


async def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelException, match="broken"):
        await EngineProcess.start(
            broken, context_tokens=64, slots=1, threads=1, batch_tokens=32, log=tmp_path / "engines.log"
        )


async def test_a_model_that_does_not_fit_in_memory_is_refused_with_both_numbers(
    model_folder: Path, tmp_path: Path
) -> None:
    backend = EmbeddedBackend(
        ModelFiles(model_folder, hub_url="http://127.0.0.1:9"),
        log=tmp_path / "engines.log",
        timeout_s=5,
        context_tokens={MODEL: 10**9},
    )
    with pytest.raises(ModelException, match="does not fit in memory") as caught:
        await backend.load(MODEL)
    assert caught.value.context["needed_bytes"] > caught.value.context["available_bytes"]
    await backend.close()


async def test_unknown_models_are_refused_and_known_ones_listed(tmp_path: Path) -> None:
    backend = EmbeddedBackend(
        ModelFiles(tmp_path, hub_url="http://127.0.0.1:9"), log=tmp_path / "engines.log", timeout_s=5
    )
    assert await backend.health()
    listed = {model.name: model for model in await backend.list_models()}
    assert not listed[MODEL].available
    assert listed[MODEL].licence == "Apache-2.0"
    with pytest.raises(ModelException, match="no embedded model 'x'"):
        await backend.load("x")
    await backend.remove(MODEL)
    await backend.close()


async def test_an_engine_that_writes_makes_no_vectors(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, hub_url="http://127.0.0.1:9")
    backend = EmbeddedBackend(files, log=tmp_path / "engines.log", timeout_s=30)
    with pytest.raises(ValidationException, match="makes no vectors"):
        await backend.embed(MODEL, ["Hi"])


def test_a_plan_is_one_line() -> None:
    plan = HostPlan("a\nb", 1, 1, 1, 1, "k")
    assert "\n" not in plan.to_json()
    assert os.linesep not in plan.to_json()
