"""Commands start, find, stop and replace real background servers, whoever else does so at the same time."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from fakes.engine_script import EngineScript
from fakes.gateway import FakeGateway, serving
from fakes.ollama_server import served
from fakes.openai_server import OpenAIServer
from fakes.servers import settings_for, soon, until
from fakes.service_home import ServiceHome, service_home
from pydantic import SecretStr

from tale import __version__
from tale.exceptions import DatabaseException, NetworkException, ServerException
from tale.orchestration.run_state import ServiceState, read_states, write_state
from tale.orchestration.server_manager import SERVICE_COMMAND, ServerManager
from tale.orchestration.service_processes import end_all, living
from tale.orchestration.watcher import CANNOT_START
from tale.settings import load_settings


@pytest.fixture
async def engine() -> AsyncIterator[OpenAIServer]:
    async with served(OpenAIServer(EngineScript(models=["m"]))) as engine:
        yield engine


@pytest.fixture
async def home(tmp_path: Path, engine: OpenAIServer) -> AsyncIterator[ServiceHome]:
    async with service_home(tmp_path, backend="openai", openai_url=engine.base_url) as home:
        yield home


@asynccontextmanager
async def another_program(port: int) -> AsyncIterator[None]:
    """Something that listens and hangs up on everybody."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
    async with server:
        yield


async def test_servers_are_started_once_found_restarted_and_stopped(home: ServiceHome) -> None:
    await asyncio.gather(*(home.manager().ensure_running() for _ in range(3)))  # as three commands at once
    assert len(living(home.settings.run_folder)) == len(home.watchers()) == 1
    assert home.said.count("Starting the servers") == 1
    manager = home.manager()
    first = {status.role: status for status in await manager.status()}
    assert set(first) == {"gateway", "execution", "ux_agent", "model"}
    assert {status.pid for status in first.values()} == {home.pid()}
    gateway = first["gateway"]
    assert (gateway.version, gateway.home) == (__version__, str(home.settings.home))
    assert gateway.state in ("starting", "running")
    assert gateway.memory_bytes is not None
    assert gateway.memory_bytes > 30_000_000
    home.said.clear()
    await home.manager().ensure_running()
    assert home.said == []
    with pytest.raises(ServerException, match=rf"The gateway server runs already \(pid {home.pid()}\)"):
        await home.manager().start()
    await manager.restart()
    assert home.pid() != gateway.pid
    assert living(home.settings.run_folder)[0].background
    assert await manager.stop()
    assert {status.state for status in await manager.status()} == {"stopped"}
    assert home.watchers() == []
    assert not await manager.stop()


async def test_servers_of_the_foreground_last_after_a_restart_as_they_would_have(home: ServiceHome) -> None:
    environment = {**os.environ, **home.settings.environment()}
    foreground = await asyncio.create_subprocess_exec(*SERVICE_COMMAND, env=environment, stderr=subprocess.DEVNULL)
    assert await home.back("gateway", instead_of=0) == foreground.pid
    for _ in range(2):  # the second time they are in the background already
        await home.manager().restart()
        (state,) = living(home.settings.run_folder)
        assert not state.background
    assert await foreground.wait() == 0


async def test_who_comes_while_the_servers_stop_gets_new_ones(tmp_path: Path, engine: OpenAIServer) -> None:
    engine.script.gate = asyncio.Event()
    chosen = {"backend": "openai", "openai_url": engine.base_url, "stop_grace_s": 60.0}
    async with service_home(tmp_path, **chosen) as home:
        await home.manager().start()
        old = home.pid()
        task = await home.submitted("Hi")
        await soon(engine.script.started)
        os.kill(old, signal.SIGTERM)

        async def is_stopping() -> bool:
            async with home.client() as client:
                return (await client.health())["status"] == "stopping"

        await until(is_stopping)  # it lets the task finish, and answers meanwhile
        comes = asyncio.create_task(home.manager().ensure_running())
        await until(lambda: "Waiting for servers that are starting or stopping" in home.said)
        engine.script.gate.set()
        await comes
        assert home.pid() != old
        assert (await home.ended(task))["attempt"] == 1


async def test_a_crashed_service_is_replaced_or_stopped_though_its_watcher_still_waits(
    tmp_path: Path, engine: OpenAIServer
) -> None:
    chosen = {"backend": "openai", "openai_url": engine.base_url, "restart_delay_s": 3_600.0}
    async with service_home(tmp_path, **chosen) as home:
        await home.manager().start()
        old = home.kill()
        await until(lambda: not psutil.pid_exists(old))
        await home.manager().ensure_running()  # before the watcher would have brought it back
        new = home.kill()
        await until(lambda: not psutil.pid_exists(new))
        assert len(home.watchers()) == 2
        assert await home.manager().stop()
        assert (home.watchers(), living(home.settings.run_folder)) == ([], [])


async def test_a_service_that_does_not_listen_is_killed_and_not_brought_back(home: ServiceHome) -> None:
    manager = home.manager()
    await manager.start()
    pid = home.pid()
    os.kill(pid, signal.SIGSTOP)
    assert await asyncio.to_thread(end_all, home.settings, limit_s=0.05)
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert (home.watchers(), read_states(home.settings.run_folder)) == ([], [])
    assert not await manager.stop()


async def test_roles_that_run_apart_are_left_alone_and_only_the_others_started(home: ServiceHome) -> None:
    await home.manager().start(["execution"])
    apart = home.pid("execution")
    await home.manager().ensure_running()
    assert home.pid("execution") == apart != home.pid("gateway") == home.pid("ux_agent")
    assert (await home.ended(await home.submitted("Hi")))["status"] == "completed"


async def test_what_runs_the_tasks_is_started_beside_a_gateway_and_what_talks_where_it_is_wanted(
    home: ServiceHome,
) -> None:
    await home.manager().start(["gateway"])
    gateway = home.pid()
    await home.manager().ensure_running()
    assert home.pid() == gateway != home.pid("execution")
    assert not any("ux_agent" in state.roles for state in living(home.settings.run_folder))
    assert (await home.ended(await home.submitted("Hi")))["status"] == "completed"
    await home.manager().ensure_running("ux_agent")
    assert len({gateway, home.pid("execution"), home.pid("ux_agent")}) == 3
    home.said.clear()
    await home.manager().ensure_running("ux_agent")
    assert home.said == []


async def test_a_host_that_only_takes_tasks_in_for_a_shared_database_is_left_so(home: ServiceHome) -> None:
    await home.manager().start(["gateway"])
    shared = home.settings.model_copy(update={"database_url": "postgresql://tale@db.example/tale"})
    home.said.clear()
    await home.manager(shared).ensure_running()
    assert home.said == []
    assert [state.roles for state in living(home.settings.run_folder)] == [("gateway",)]


async def test_settings_that_the_servers_began_without_are_named_and_no_secret_is_kept(home: ServiceHome) -> None:
    with_key = home.settings.model_copy(update={"openai_api_key": SecretStr("hush-1"), "routing": "auto"})
    await home.manager(with_key).start()
    assert home.manager(with_key).unheeded() == []
    other = {"routing": "off", "task_model": "another", "http_timeout_s": 7.0, "api_key": SecretStr("hush-2")}
    chosen = with_key.model_copy(update=other)
    assert home.manager(chosen).unheeded() == ["routing", "task_model"]
    assert home.manager(chosen.model_copy(update={"gateway_url": "http://elsewhere"})).unheeded() == []
    assert not any("hush" in path.read_text() for path in home.settings.run_folder.glob("service-*.json"))


async def test_a_start_that_fails_is_told_to_the_command_that_waits(home: ServiceHome) -> None:
    (home.settings.home / "tale.db").write_text("this is no database, but long enough to be taken for one " * 20)
    with pytest.raises(DatabaseException):
        await home.manager().ensure_running()
    (home.settings.home / "tale.db").unlink()
    port = home.settings.execution_port
    async with another_program(port):
        with pytest.raises(ServerException, match=f"Port {port} is used by another program"):
            await home.manager().ensure_running()
    assert living(home.settings.run_folder) == []


async def test_a_service_that_dies_at_its_start_is_given_up(home: ServiceHome, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the interpreter cannot even begin with: it ends with a traceback, again and again.
    (home.settings.home / "asyncio.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(home.settings.home))
    with pytest.raises(ServerException, match=r"The servers ended while starting; .*service\.log says why"):
        await home.manager().start()


async def test_a_full_disk_is_named_where_no_word_could_be_left(
    home: ServiceHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.settings.home / "asyncio.py").write_text(f"raise SystemExit({CANNOT_START})")
    monkeypatch.setenv("PYTHONPATH", str(home.settings.home))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, used=10**9, free=4_096))
    with pytest.raises(ServerException, match=f"The disk of {home.settings.home} is full; make room"):
        await home.manager().start()


async def test_a_port_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    async with another_program(settings.gateway_port):
        with pytest.raises(ServerException, match="is used by another program; stop it"):
            await ServerManager(settings).start()
    with (
        serving(FakeGateway(home="/elsewhere"), settings.gateway_port),
        pytest.raises(ServerException, match=r"is used by another tale \(home /elsewhere\); stop it"),
    ):
        await ServerManager(settings).ensure_running()
    assert living(settings.run_folder) == []


async def test_servers_of_another_version_are_restarted(home: ServiceHome) -> None:
    stale = FakeGateway(home=str(home.settings.home), version="0.0.1")
    port = home.settings.gateway_port
    with serving(stale, port), pytest.raises(ServerException, match=f"Port {port} is in use"):
        await home.manager().ensure_running()  # this one has no process that could be ended
    assert "Restarting the servers of version 0.0.1" in home.said


async def test_a_gateway_elsewhere_is_used_and_never_started_here(tmp_path: Path) -> None:
    with serving(FakeGateway(home="/elsewhere")) as port:
        settings = settings_for(tmp_path, gateway_url=f"http://127.0.0.1:{port}")
        await ServerManager(settings).ensure_running()
    with pytest.raises(NetworkException, match="does not answer; start it there, or leave gateway_url out"):
        await ServerManager(settings).ensure_running()
    assert not settings.run_folder.exists()


async def test_what_is_used_beside_a_gateway_elsewhere_has_to_answer_too(tmp_path: Path) -> None:
    with serving(FakeGateway(home="/elsewhere")) as port:
        url = f"http://127.0.0.1:{port}"
        settings = settings_for(tmp_path, gateway_url=url)
        with pytest.raises(NetworkException, match="name the one beside the gateway with TALE_UX_AGENT_URL"):
            await ServerManager(settings).ensure_running("ux_agent")
        manager = ServerManager(settings.model_copy(update={"ux_agent_url": url}))
        await manager.ensure_running("ux_agent")
        found = [(status.role, status.state) for status in await manager.status()]
    assert found == [("gateway", "running"), ("ux_agent", "running")]
    assert not settings.run_folder.exists()


async def test_a_service_of_ours_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """Such as one that was started before the ports were changed; this test's process stands for it."""
    settings = settings_for(tmp_path)
    state = ServiceState(os.getpid(), psutil.Process().create_time(), ("gateway",), __version__, background=False)
    write_state(settings.run_folder, state)
    said: list[str] = []
    manager = ServerManager(settings, on_wait=said.append, stop_margin_s=0.1)
    named = rf"The gateway server of this home \(pid {os.getpid()}\) does not answer at {settings.url_of('gateway')}"
    with pytest.raises(ServerException, match=named):
        await manager.ensure_running()
    assert "Waiting for servers that are starting or stopping" in said
    async with another_program(settings.gateway_port):
        with pytest.raises(ServerException, match=named):
            await manager.ensure_running()


async def test_what_cannot_be_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(ServerException, match="There is no role 'gatway'; choose from gateway, execution"):
        await ServerManager(settings_for(tmp_path)).start(["gatway"])
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    settings = load_settings({"home": str(in_the_way)}, environment={}, folder=tmp_path)
    with pytest.raises(ServerException, match="cannot be used: Not a directory"):
        await ServerManager(settings).start()
    assert not await ServerManager(settings).stop()
