"""A service process from within: opened in order, closed in order, refused with a reason, stopped when idle."""

import asyncio
import json
import os
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.engine_script import EngineScript
from fakes.ollama_server import served
from fakes.openai_server import OpenAIServer
from fakes.servers import PATIENCE_S, rows, settings_for, until

from tale.exceptions import NetworkException, ServerException, TaleBaseException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.run_state import read_states
from tale.orchestration.watcher import LINK_VARIABLE, PLAN_VARIABLE, WatchPlan
from tale.servers.service import Service
from tale.settings import Settings

ROLES = ("gateway", "execution", "ux_agent")
Made = Any


@pytest.fixture
async def engine() -> AsyncIterator[OpenAIServer]:
    async with served(OpenAIServer(EngineScript(models=["m"]))) as engine:
        yield engine


def settings_of(tmp_path: Path, engine: OpenAIServer, **chosen: object) -> Settings:
    return settings_for(tmp_path, **{"backend": "openai", "openai_url": engine.base_url, **chosen})


@asynccontextmanager
async def started(settings: Settings, *roles: str, background: bool = False) -> AsyncIterator[Service]:
    service = Service(settings, roles or ROLES, background=background)
    try:
        await service.start()
        yield service
    finally:
        await service.stop()


async def refusal(settings: Settings, *roles: str) -> TaleBaseException:
    with pytest.raises(TaleBaseException) as caught:
        async with started(settings, *roles):
            pass
    return caught.value


async def health(settings: Settings, role: str = "gateway") -> dict[str, Any]:
    async with HTTPMCPClient(settings.url_of(role)) as client:
        return await client.health()


async def done(settings: Settings, text: str) -> dict[str, Any]:
    async with HTTPMCPClient(settings.url_of("gateway")) as client:
        task = await client.call_tool("submit_task", {"text": text})
        return await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": PATIENCE_S})


async def test_all_roles_are_served_and_everything_is_released_at_the_end(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_of(tmp_path, engine)
    for _ in range(2):  # started, stopped, started again
        async with started(settings):
            assert [(state.pid, state.roles) for state in read_states(settings.run_folder)] == [(os.getpid(), ROLES)]
            for role in ROLES:
                assert (await health(settings, role))["role"] == role
            assert (await health(settings, "model"))["name"] == "tale-model"
            assert (await done(settings, "Hi"))["result"] == "Hello world!"
        assert read_states(settings.run_folder) == []
        with pytest.raises(NetworkException):
            await health(settings)


async def test_a_call_whose_end_the_database_refused_is_closed_later(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_of(tmp_path, engine)
    refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON model_calls BEGIN SELECT RAISE(ABORT, 'refused'); END"
    body = {"model": "tale-ux", "messages": [{"role": "user", "content": "Hi"}]}
    async with started(settings), aiohttp.ClientSession() as http:
        for change in (refuse, "DROP TRIGGER refuse"):
            with closing(sqlite3.connect(settings.home / "tale.db")) as connection:
                connection.execute(change)
            if change == refuse:
                async with http.post(f"{settings.url_of('gateway')}/v1/chat/completions", json=body) as answer:
                    assert answer.status == 503
        await until(lambda: rows(settings, "SELECT ended_at FROM model_calls")[0]["ended_at"] is not None)


async def test_one_role_may_be_served_alone(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_of(tmp_path, engine)
    async with started(settings, "ux_agent"):
        assert (await health(settings, "ux_agent"))["status"] in ("ok", "starting")
        with pytest.raises(NetworkException):
            await health(settings, "gateway")


async def test_roles_of_one_home_in_two_services_share_one_pool(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_of(tmp_path, engine)
    async with started(settings, "execution", "model"), started(settings, "gateway", "ux_agent"):
        assert (await done(settings, "Hi"))["status"] == "completed"
        assert (await health(settings, "gateway"))["backend"]["url"] == engine.base_url


@pytest.mark.parametrize("role", ["gateway", "execution", "ux_agent"])
async def test_a_home_has_one_server_of_each_role(tmp_path: Path, engine: OpenAIServer, role: str) -> None:
    first, second = settings_of(tmp_path, engine), settings_of(tmp_path, engine)  # the same home, other ports
    async with started(first, role):
        error = await refusal(second, role)
    assert isinstance(error, ServerException)
    assert error.message.startswith(f"A tale {role} server already runs on {tmp_path}; stop it")
    async with started(second, role):
        assert (await health(second, role))["role"] == role


async def test_two_homes_cannot_have_gateways_on_one_database_file(tmp_path: Path, engine: OpenAIServer) -> None:
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    first = settings_of(tmp_path / "one", engine, database_url=shared)
    second = settings_of(tmp_path / "two", engine, database_url=shared)
    async with started(first, "gateway"):
        assert "already runs" in (await refusal(second, "gateway")).message


@pytest.mark.parametrize("url", ["sqlite+pysqlite:///{}/shared.db", "sqlite:///~/shared.db", "sqlite:///{}/link.db"])
async def test_a_database_file_has_one_gateway_however_it_is_named(
    tmp_path: Path, engine: OpenAIServer, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link.db").symlink_to(tmp_path / "shared.db")
    first = settings_of(tmp_path / "one", engine, database_url=f"sqlite:///{tmp_path}/shared.db")
    second = settings_of(tmp_path / "two", engine, database_url=url.format(tmp_path))
    async with started(first, "gateway"):
        assert "already runs" in (await refusal(second, "gateway")).message


@pytest.mark.parametrize("role", ROLES)
async def test_a_port_in_use_is_told_and_all_else_released(tmp_path: Path, engine: OpenAIServer, role: str) -> None:
    settings = settings_of(tmp_path, engine)
    port = getattr(settings, f"{role}_port")
    with socket.create_server(("127.0.0.1", port)):
        error = await refusal(settings)
    assert error.message.startswith(f"Port {port} is in use; stop the program that holds it")
    async with started(settings):
        assert (await health(settings))["role"] == "gateway"


async def test_the_model_server_s_port_matters_only_to_who_asked_for_it(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_of(tmp_path, engine)
    with socket.create_server(("127.0.0.1", settings.model_port)):
        async with started(settings):
            assert (await done(settings, "Hi"))["status"] == "completed"
        assert "is in use" in (await refusal(settings, "model")).message


async def test_a_model_server_without_models_is_refused(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_of(tmp_path, engine)
    async with started(settings, "ux_agent"):
        assert "has no models to serve" in (await refusal(settings, "model")).message
    elsewhere = settings_of(tmp_path, engine, model_url="http://127.0.0.1:9")
    assert "has no models to serve" in (await refusal(elsewhere, "model")).message


async def test_roles_that_there_are_not_and_homes_that_cannot_be_are_refused(
    tmp_path: Path, engine: OpenAIServer
) -> None:
    settings = settings_of(tmp_path, engine)
    error = await refusal(settings, "gatway")
    assert error.message.startswith("There is no role 'gatway'; choose from execution, ux_agent, gateway, model")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    error = await refusal(settings_of(in_the_way, engine))
    assert error.message.startswith(f"{in_the_way / 'run'} cannot be used: Not a directory; choose another home")
    lock = settings.run_folder / "execution.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    assert str(lock) in (await refusal(settings, "execution")).message


async def test_an_engine_that_is_not_there_is_told(tmp_path: Path, engine: OpenAIServer) -> None:
    error = await refusal(settings_of(tmp_path, engine, openai_url="http://127.0.0.1:9/v1"))
    assert "The engine at http://127.0.0.1:9/v1 does not answer; start it" in error.message


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_of(tmp_path, engine)
    (tmp_path / "tale.db").write_text("this is no database, but long enough to be taken for one " * 20)
    error = await refusal(settings)
    assert type(error).__name__ == "DatabaseException"
    assert read_states(settings.run_folder) == []


async def test_an_idle_background_service_stops_by_itself(tmp_path: Path, engine: OpenAIServer) -> None:
    settings = settings_of(tmp_path, engine, idle_stop_s=0.05)
    async with started(settings, background=True) as service:
        await asyncio.wait_for(service.wait(), PATIENCE_S)


async def test_a_service_at_work_is_not_idle(tmp_path: Path, engine: OpenAIServer) -> None:
    engine.script.gate = asyncio.Event()
    settings = settings_of(tmp_path, engine, idle_stop_s=0.1)
    async with started(settings), HTTPMCPClient(settings.url_of("gateway")) as client:
        await client.call_tool("submit_task", {"text": "Hi"})
    async with started(settings, background=True) as service:  # takes the task up at once
        stopped = asyncio.create_task(service.wait())
        assert await asyncio.wait([stopped], timeout=0.4) == (set(), {stopped})
        engine.script.gate.set()
        await asyncio.wait_for(stopped, PATIENCE_S)
    assert rows(settings, "SELECT status FROM tasks") == [{"status": "completed"}]


async def test_a_service_in_the_foreground_and_one_without_a_limit_never_stop_by_themselves(
    tmp_path: Path, engine: OpenAIServer
) -> None:
    for number, (background, limit_s) in enumerate([(False, 0.01), (True, 0.0)]):
        settings = settings_of(tmp_path / str(number), engine, idle_stop_s=limit_s)
        async with started(settings, "ux_agent", background=background) as service:
            stopped = asyncio.create_task(service.wait())
            assert await asyncio.wait([stopped], timeout=0.1) == (set(), {stopped})
            service.request_stop("the test is over")
            await stopped


async def test_the_watcher_is_told_goodbye_when_all_is_closed(
    tmp_path: Path, engine: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setenv(LINK_VARIABLE, str(theirs.detach()))
    monkeypatch.setenv(PLAN_VARIABLE, WatchPlan(("true",), "http://127.0.0.1:9", 60.0, 0.0).to_json())
    settings = settings_of(tmp_path, engine)
    ours.setblocking(False)
    async with started(settings, background=True):
        with pytest.raises(BlockingIOError):
            ours.recv(8)
    assert ours.recv(8) == b"bye"
    assert ours.recv(8) == b""
    assert read_states(settings.run_folder) == []
    ours.close()


async def test_a_service_whose_start_failed_says_no_goodbye_and_gave_its_link_to_no_child(
    tmp_path: Path, engine: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.set_inheritable(True)  # as a watcher hands it over
    monkeypatch.setenv(LINK_VARIABLE, str(theirs.fileno()))
    monkeypatch.setenv(PLAN_VARIABLE, json.dumps([["true"], "http://127.0.0.1:9", 60.0, 0.0]))
    settings = settings_of(tmp_path, engine)
    with socket.create_server(("127.0.0.1", settings.gateway_port)):
        await refusal(settings)
    assert not theirs.get_inheritable()  # no child is to hide the death of this process
    with pytest.raises(BlockingIOError):
        ours.recv(8)
    ours.close()
    theirs.close()


async def test_a_stop_while_tasks_are_handed_in_loses_none_that_was_acknowledged(
    tmp_path: Path, engine: OpenAIServer
) -> None:
    settings = settings_of(tmp_path, engine)
    acknowledged: list[str] = []

    async def hand_in() -> None:
        async with HTTPMCPClient(settings.url_of("gateway")) as client:
            while True:
                acknowledged.append((await client.call_tool("submit_task", {"text": "Hi"}))["id"])

    async with started(settings):
        clients = [asyncio.create_task(hand_in()) for _ in range(4)]
        await until(lambda: len(acknowledged) >= 20)
    ends = await asyncio.gather(*clients, return_exceptions=True)
    assert all(isinstance(end, TaleBaseException) for end in ends), ends
    async with started(settings), HTTPMCPClient(settings.url_of("gateway")) as client:
        for task_id in acknowledged:
            task = await client.call_tool("wait_for_task", {"task_id": task_id, "timeout_s": PATIENCE_S})
            assert (task["status"], task["failures"]) == ("completed", 0)


def test_a_model_server_is_never_open_to_strangers(tmp_path: Path) -> None:
    with pytest.raises(ValidationException, match="reachable by others"):
        settings_for(tmp_path, host="0.0.0.0")


async def test_health_tells_how_each_of_several_engines_stands(tmp_path: Path, engine: OpenAIServer) -> None:
    urls = f"{engine.base_url},http://127.0.0.1:9/v1"
    settings = settings_of(tmp_path, engine, openai_url=urls, ux_model="m")
    async with started(settings):
        told = {state["name"]: state for state in (await health(settings))["engines"]}
    assert list(told) == urls.split(",")
    assert told["http://127.0.0.1:9/v1"]["models"] == []
