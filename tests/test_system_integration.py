"""The whole service as real processes: a task done from end to end, and every death on its way survived."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes.engine_script import EngineScript
from fakes.ollama_server import OllamaServer, served
from fakes.openai_server import OpenAIServer
from fakes.servers import PATIENCE_S, rows, settings_for, soon, until
from fakes.service_home import ServiceHome, service_home

from tale.cli.plans import Step, requests_of
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.run_state import FAILURE_FILE
from tale.orchestration.server_manager import SERVICE_COMMAND
from tale.orchestration.service_processes import living
from tale.orchestration.watcher import CANNOT_START, WatchPlan, spawn_watcher
from tale.settings import Settings

MODEL = "smollm2:135m"


@pytest.fixture
async def engine() -> AsyncIterator[OpenAIServer]:
    """An engine that writes one word and then waits for the script's gate."""
    async with served(OpenAIServer(EngineScript(models=["m"], gate=asyncio.Event()))) as engine:
        yield engine


@pytest.fixture
async def home(tmp_path: Path, engine: OpenAIServer) -> AsyncIterator[ServiceHome]:
    async with service_home(tmp_path, backend="openai", openai_url=engine.base_url) as home:
        yield home


def open_gate(engine: OpenAIServer) -> None:
    assert engine.script.gate is not None
    engine.script.gate.set()


async def task_under_way(home: ServiceHome, engine: OpenAIServer) -> str:
    """The id of a task whose first word is written."""
    engine.script.started.clear()
    task_id = await home.submitted("Write a haiku")
    await soon(engine.script.started)
    return task_id


def outcomes(home: ServiceHome, task_id: str) -> list[str]:
    query = "SELECT outcome FROM attempts WHERE task_id = ? ORDER BY number"
    return [row["outcome"] for row in rows(home.settings, query, task_id)]


@pytest.mark.model
async def test_complete_workflow(tmp_path: Path, model_folder: Path) -> None:
    """A real model: handed in, progress, answer, rows; its engine killed on the way, and the next task still done."""
    (tmp_path / "models").symlink_to(model_folder)
    embedded = {"backend": "embedded", "ux_model": MODEL, "task_model": MODEL, "task_context_tokens": 4_096}
    async with service_home(tmp_path, **embedded) as home:
        await home.manager().ensure_running()
        heard: list[str] = []
        task_id = await home.submitted("Say hello to the world", max_output_tokens=24)
        done = await home.ended(task_id, lambda figure, total, message: heard.append(message))
        assert (done["status"], done["model"], done["attempt"]) == ("completed", MODEL, 1)
        assert done["result"]
        assert any(message.startswith(f"{MODEL} is ") for message in heard)  # what came in between may be folded away
        (call,) = rows(home.settings, "SELECT * FROM model_calls WHERE task_id = ?", task_id)
        assert (call["provider"], call["finish_reason"] in ("stop", "length")) == ("embedded", True)
        assert 20 < call["input_tokens"] < 100
        assert 0 < call["output_tokens"] <= 24
        for figure in ("prefill_s", "decode_s", "time_to_first_token_s", "total_s"):
            assert call[figure] > 0
        parts = sum(call[name] for name in ("queue_s", "load_s", "prefill_s", "decode_s", "other_s"))
        assert parts == pytest.approx(call["total_s"], abs=0.02)
        tools = {row["tool"] for row in rows(home.settings, "SELECT tool FROM mcp_calls WHERE task_id = ?", task_id)}
        assert {"submit_task", "wait_for_task"} <= tools

        reading = asyncio.Event()
        (engine,) = embedded_engines(home)

        def on_reading(figure: float, total: float | None, message: str) -> None:
            if re.search(r"is reading the task \(\d+ of \d+ tokens\)", message):
                reading.set()

        task_id = await home.submitted("word " * 600, max_output_tokens=8)
        ending = asyncio.create_task(home.ended(task_id, on_reading))
        await soon(reading)
        engine.kill()
        done = await ending
        assert (done["status"], done["model"]) == ("completed", MODEL)
        assert embedded_engines(home) != [engine]


def embedded_engines(home: ServiceHome) -> list[psutil.Process]:
    """The engine processes of the service."""
    children = psutil.Process(home.pid()).children()
    return [child for child in children if "tale.models.embedded_host" in child.cmdline()]


async def test_kill_9_of_the_service_during_a_task_and_the_task_still_completes(
    home: ServiceHome, engine: OpenAIServer
) -> None:
    await home.manager().ensure_running()
    task_id = await task_under_way(home, engine)
    waiting = await home.submitted("In the queue")
    killed = home.kill()
    open_gate(engine)
    assert await home.back("gateway", instead_of=killed) == home.pid()
    done = await home.ended(task_id)
    assert (done["status"], done["result"], done["failures"]) == ("completed", "Hello world!", 1)
    assert outcomes(home, task_id) == ["lost", "completed"]
    assert ((await home.ended(waiting))["status"], outcomes(home, waiting)) == ("completed", ["completed"])
    # The row of the call that died with its process is closed, and says why.
    calls = rows(home.settings, "SELECT error_class FROM model_calls WHERE task_id = ? ORDER BY started_at", task_id)
    assert [call["error_class"] for call in calls] == ["ProcessDied", None]


async def test_what_was_written_before_kill_9_is_the_result_of_a_task_that_is_not_tried_again(
    tmp_path: Path, engine: OpenAIServer
) -> None:
    chosen = {"backend": "openai", "openai_url": engine.base_url, "max_task_retries": 1}
    async with service_home(tmp_path, **chosen) as home:
        await home.manager().ensure_running()
        task_id = await task_under_way(home, engine)
        query = "SELECT result FROM tasks WHERE id = ?"
        await until(lambda: rows(home.settings, query, task_id)[0]["result"] == "Hello")
        home.kill()
        done = await home.ended(task_id)
        assert (done["status"], done["error_class"], done["result"]) == ("failed", "AttemptsExhausted", "Hello")


async def test_a_plan_goes_on_after_kill_9_with_the_step_that_was_under_way(
    home: ServiceHome, engine: OpenAIServer
) -> None:
    await home.manager().ensure_running()
    steps = [Step("Gather"), Step("Sort", (1,)), Step("Compare", (2,))]
    requests = requests_of("Compare the results", steps, {}, key="a-plan")
    async with home.client() as client:
        ids = [task["id"] for task in (await client.call_tool("submit_tasks", {"tasks": requests}))["tasks"]]
    await soon(engine.script.started)
    first_gate, engine.script.gate = engine.script.gate, asyncio.Event()
    assert first_gate is not None
    first_gate.set()  # the first step is done, the second one begins
    await until(lambda: len(engine.script.requests) > 1)
    killed = home.kill()
    open_gate(engine)
    await home.back("gateway", instead_of=killed)
    done = await home.ended(ids[-1])
    assert (done["status"], done["result"]) == ("completed", "Hello world!")
    assert [outcomes(home, task_id) for task_id in ids] == [["completed"], ["lost", "completed"], *[["completed"]] * 2]


async def test_a_watcher_that_dies_is_replaced_and_the_new_one_keeps_watch(
    home: ServiceHome, engine: OpenAIServer
) -> None:
    async def replaced() -> None:
        (watcher,) = home.watchers()
        watcher.kill()
        await until(lambda: [other.pid for other in home.watchers()] not in ([], [watcher.pid]))

    await home.manager().ensure_running()
    await replaced()
    task_id = await task_under_way(home, engine)
    killed = home.kill()
    open_gate(engine)
    await home.back("gateway", instead_of=killed)
    assert (await home.ended(task_id))["status"] == "completed"
    await replaced()
    await replaced()
    assert await home.manager().stop()
    assert home.watchers() == []


async def test_kill_9_of_the_execution_role_run_apart(home: ServiceHome, engine: OpenAIServer) -> None:
    await home.manager().start(["gateway", "ux_agent"])
    await home.manager().start(["execution"])
    task_id = await task_under_way(home, engine)
    killed = home.kill("execution")
    open_gate(engine)
    await home.back("execution", instead_of=killed)
    done = await home.ended(task_id)
    assert (done["status"], done["result"]) == ("completed", "Hello world!")
    assert outcomes(home, task_id) == ["lost", "completed"]


async def test_a_stop_hands_a_task_back_and_a_start_takes_it_up_while_conversation_is_answered(
    home: ServiceHome, engine: OpenAIServer
) -> None:
    manager = home.manager()
    await manager.ensure_running()
    task_id = await task_under_way(home, engine)
    gate, engine.script.gate = engine.script.gate, None  # for the conversation, not for the task
    words: list[str] = []
    async with home.client("ux_agent") as agent:
        answer = await agent.call_tool(
            "conversation", {"message": "Hello"}, on_progress=lambda _, __, word: words.append(str(word))
        )
    assert (words, answer["reply"]) == (["Hello", " world", "!"], "Hello world!")
    assert outcomes(home, task_id) == [None]
    engine.script.gate = gate
    await manager.stop()
    assert outcomes(home, task_id) == ["handed_back"]
    open_gate(engine)
    await manager.ensure_running()
    done = await home.ended(task_id)
    assert (done["status"], done["failures"], done["attempt"]) == ("completed", 0, 2)


async def test_a_task_against_what_plays_ollama(tmp_path: Path) -> None:
    models = ["qwen2.5:7b", "qwen2.5:14b"]
    async with (
        served(OllamaServer(EngineScript(models=models))) as ollama,
        service_home(tmp_path, backend="auto", ollama_url=ollama.url) as home,
    ):
        await home.manager().ensure_running()
        done = await home.ended(await home.submitted("Write a haiku"))
        assert (done["status"], done["model"], done["result"]) == ("completed", "qwen2.5:14b", "Hello world!")
        async with home.client() as client:
            backend = (await client.health())["backend"]
        assert backend["reason"] == f"Ollama answers at {ollama.url}."
        (call,) = rows(home.settings, "SELECT * FROM model_calls WHERE task_id = ?", done["id"])
        assert (call["provider"], call["input_tokens"], call["output_tokens"]) == ("ollama", 11, 3)
        assert call["decode_s"] / call["prefill_s"] == pytest.approx(0.3 / 0.2)  # told by what plays it, and kept
        assert call["prefill_s"] + call["decode_s"] <= call["total_s"]  # to what the call took


async def test_a_service_that_nobody_uses_ends_and_its_watcher_lets_it_go(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_for(tmp_path, backend="openai", openai_url=engine.base_url, idle_stop_s=0.1)
    command = (*SERVICE_COMMAND, "--background", "--roles", "ux_agent")
    plan = WatchPlan(command, "http://127.0.0.1:9/health/live", interval_s=60.0, restart_delay_s=0.0)
    with (tmp_path / "log").open("wb") as log:
        watcher = spawn_watcher(plan, settings.environment(), log=log.fileno())
    assert await asyncio.to_thread(watcher.wait, PATIENCE_S) == 0
    assert "Stopping: idle for 0.1 s" in (settings.run_folder / "service.log").read_text()
    assert living(settings.run_folder) == []


def environment(settings: Settings) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TALE_")}
    return {**kept, **settings.environment()}


def role_process(settings: Settings, module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"tale.servers.{module}", *arguments]
    return subprocess.Popen(command, env=environment(settings), stderr=subprocess.PIPE, text=True)


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and stderr of a process that ends by itself."""
    _, told = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    return process.returncode, told


async def answered(settings: Settings, role: str) -> dict[str, Any]:
    health: dict[str, Any] = {}

    async def answers() -> bool:
        nonlocal health
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", getattr(settings, f"{role}_port"))):
                return False
        async with HTTPMCPClient(settings.url_of(role)) as client:
            health = await client.health()
        return True

    await until(answers)
    return health


async def test_each_server_starts_alone_by_its_module(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_for(tmp_path, backend="openai", openai_url=engine.base_url)
    roles = ("model", "execution", "ux_agent", "gateway")
    started: list[subprocess.Popen[str]] = []
    try:
        for role in roles:
            port = getattr(settings, f"{role}_port")
            started.append(role_process(settings, f"{role}_server", "--port", str(port), "--home", str(tmp_path)))
            if role == "model":
                await answered(settings, role)  # first of all: the others use its pool
        for role, process in zip(roles, started, strict=True):
            health = await answered(settings, role)
            assert (health["role"], health["pid"]) == (role, process.pid)
        open_gate(engine)
        async with HTTPMCPClient(settings.url_of("gateway")) as client:
            task = await client.call_tool("submit_task", {"text": "Hi"})
            done = await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": PATIENCE_S})
        assert done["status"] == "completed"
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        ends = [await ended(process) for process in started]
    assert [status for status, _ in ends] == [0, 0, 0, 0]
    assert all("Traceback" not in told for _, told in ends)


async def test_of_two_that_serve_one_home_at_once_the_second_is_told_so(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_for(tmp_path, backend="openai", openai_url=engine.base_url)
    both = [role_process(settings, "bootstrap", "--roles", "gateway") for _ in range(2)]
    await until(lambda: any(process.poll() is not None for process in both))
    (first,) = [process for process in both if process.poll() is None]
    (second,) = [process for process in both if process is not first]
    status, told = await ended(second)
    assert status == CANNOT_START
    assert f"A tale gateway server already runs on {tmp_path}; stop it with `tale servers stop`" in told
    assert "Traceback" not in told
    assert (await answered(settings, "gateway"))["pid"] == first.pid
    first.send_signal(signal.SIGINT)
    assert (await ended(first))[0] == 0


async def test_a_server_that_can_leave_no_word_of_why_it_cannot_start_is_not_started_again(
    tmp_path: Path, engine: OpenAIServer
) -> None:
    settings = settings_for(tmp_path, backend="openai", openai_url=engine.base_url)
    (settings.run_folder / FAILURE_FILE).mkdir(parents=True)
    with socket.create_server(("127.0.0.1", settings.gateway_port)):
        status, told = await ended(role_process(settings, "bootstrap", "--background"))
    assert status == CANNOT_START
    assert "Traceback" not in told


async def test_what_keeps_a_server_from_starting_is_told_in_one_sentence(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_for(tmp_path, backend="openai", openai_url=engine.base_url)
    in_use = settings.gateway_port
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with socket.create_server(("127.0.0.1", in_use)):
        tried = {
            rf"Port {in_use} is in use; stop the program": role_process(settings, "gateway_server"),
            r"(?s)^Invalid input: Setting gateway_port .*1024": role_process(
                settings, "gateway_server", "--port", "80"
            ),
            r"^Server error: .*/file/run cannot be used": role_process(
                settings, "ux_agent_server", "--home", str(in_the_way)
            ),
        }
        for complaint, process in tried.items():
            status, told = await ended(process)
            assert status == CANNOT_START
            assert re.search(complaint, told), told
            assert "Traceback" not in told
