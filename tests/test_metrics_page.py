"""GET /metrics tells in Prometheus' form what the calls table tells."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fakes.metrics_reader import OPENMETRICS, MetricsReader, Page
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import ROLES, Process, rows, running, settings_for, until

from tale import __version__
from tale.exceptions import ModelException, TaleBaseException
from tale.models.remote_pool import RemoteModelPool
from tale.servers.metrics_page import TaskGauge
from tale.storage.database import Database
from tale.storage.task_store import TaskStore

KEY = "a key of sixteen letters"
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


@pytest.fixture
async def reader() -> AsyncIterator[MetricsReader]:
    async with MetricsReader() as opened:
        yield opened


async def knows_memory(process: Process) -> bool:
    return all(model.memory_bytes for model in (await process.shared.pool.status()).models)


async def page_of(reader: MetricsReader, process: Process, role: str = "gateway") -> Page:
    key = process.settings.api_key
    return await reader.read(process.settings.url_of(role), key=key.get_secret_value() if key else None)


async def test_the_page_agrees_with_the_table_of_calls_to_the_token(tmp_path: Path, reader: MetricsReader) -> None:
    backend = ScriptedBackend()
    async with running(settings_for(tmp_path), backend=backend) as process:
        await process.done("Write a haiku")
        await (await process.client("ux_agent")).call_tool("conversation", {"message": "Hello"})
        backend.chat_failures = [ModelException("Not today.")]
        await process.done("Write another one")  # one failed call, then a good one
        page = await page_of(reader, process)
        (table,) = rows(
            process.settings, f"SELECT {', '.join(f'sum({name}) AS {name}' for name in TOKENS)} FROM model_calls"
        )
        assert table["input_tokens"] == 30
        for name in TOKENS:
            assert page.total(f"tale_model_{name}_total") == table[name], name
        assert page.total("tale_model_calls_total", outcome="completed") == 3
        assert page.total("tale_model_calls_total", outcome="failed", model="large", operation="execute") == 1
        assert page.total("tale_model_calls_unreported_total") == 1
        assert page.total("tale_model_call_duration_seconds_count") == 4
        assert page.total("tale_model_time_to_first_token_seconds_count", role="ux", provider="scripted") == 1
        assert page.total("tale_model_queue_duration_seconds_bucket", le="+Inf") == 4


async def test_the_page_tells_requests_tasks_models_and_the_process(tmp_path: Path, reader: MetricsReader) -> None:
    async with running(settings_for(tmp_path)) as process:
        await process.done("Write a haiku")
        await until(lambda: knows_memory(process))  # what engines tell of their models is kept for a second
        page = await page_of(reader, process)
        submitted = {"server": "tale-gateway", "method": "tools/call", "tool": "submit_task"}
        assert page.samples("tale_requests_total")[0] == ({**submitted, "outcome": "ok"}, 1)
        assert page.total("tale_request_duration_seconds_count", tool="wait_for_task") == 1
        assert {labels["status"]: value for labels, value in page.samples("tale_tasks")} == {
            **{"queued": 0, "running": 0, "completed": 1, "failed": 0, "cancelled": 0}
        }
        ready = {labels["model"]: value for labels, value in page.samples("tale_model_ready")}
        assert ready == {"small": 1, "large": 1}
        assert page.total("tale_model_memory_bytes", model="large") == 100
        assert page.samples("tale_build_info") == [({"version": __version__}, 1)]
        assert page.total("process_resident_memory_bytes") > 1_000_000
        same = await page_of(reader, process, "ux_agent")
        assert same.total("tale_model_calls_total") == 1
        assert same.samples("tale_tasks") == []


async def test_clients_that_take_openmetrics_get_it(tmp_path: Path, reader: MetricsReader) -> None:
    async with running(settings_for(tmp_path), ("gateway",)) as process:
        url = process.settings.url_of("gateway")
        plain, newer = await reader.read(url), await reader.read(url, accept=OPENMETRICS)
        assert (plain.content_type.split(";")[0], newer.content_type.split(";")[0]) == (
            "text/plain",
            "application/openmetrics-text",
        )
        assert newer.total("tale_build_info") == plain.total("tale_build_info") == 1


async def test_where_keys_are_asked_for_a_key_to_read_opens_the_page(tmp_path: Path, reader: MetricsReader) -> None:
    async with running(settings_for(tmp_path, api_key=KEY), (*ROLES, "model")) as process:
        for role in (*ROLES, "model"):
            url = process.settings.url_of(role)
            stranger = await reader.read(url)
            assert (stranger.status, "tale_" in stranger.text) == (401, False), role
            assert (await reader.read(url, key=KEY)).total("tale_build_info") == 1, role


async def test_each_process_counts_what_it_recorded_itself(tmp_path: Path, reader: MetricsReader) -> None:
    settings = settings_for(tmp_path, api_key=KEY)
    async with AsyncExitStack() as stack:
        models = await stack.enter_async_context(running(settings, ("model",)))
        processes: list[Process] = []
        for roles in (("execution",), ("gateway",)):
            pool = RemoteModelPool(settings.url_of("model"), KEY)
            stack.push_async_callback(pool.close)
            processes.append(await stack.enter_async_context(running(settings, roles, pool=pool)))
        await processes[-1].done("Write a haiku")
        model, execution, gateway = [await page_of(reader, models, role) for role in ("model", "execution", "gateway")]
        assert [page.total("tale_model_input_tokens_total") for page in (model, execution, gateway)] == [10, 0, 0]
        assert execution.total("tale_requests_total", tool="execute_task", outcome="ok") == 1
        assert gateway.total("tale_requests_total", tool="submit_task") == 1
        assert (model.samples("tale_model_ready") != [], gateway.samples("tale_model_ready")) == (True, [])
        assert gateway.total("tale_tasks", status="completed") == 1


async def test_names_that_clients_make_up_do_not_make_the_page_grow(tmp_path: Path, reader: MetricsReader) -> None:
    async with running(settings_for(tmp_path), ("gateway",)) as process:
        client = await process.client()
        await client.list_tools()
        for number in range(5):
            with pytest.raises(TaleBaseException):
                await client.call_tool(f"tool{number}")
            with pytest.raises(TaleBaseException):
                await client.request(f"method{number}")
        told = [labels for labels, _ in (await page_of(reader, process)).samples("tale_requests_total")]
        assert {labels["method"] for labels in told} <= {"unknown", "tools/list", "tools/call", "server/discover"}
        assert {labels["tool"] for labels in told} == {""}


async def test_a_call_whose_caller_left_while_it_was_written_is_counted(tmp_path: Path, reader: MetricsReader) -> None:
    backend = ScriptedBackend()
    async with running(settings_for(tmp_path), backend=backend) as process:
        client = await process.client()
        for number in range(6):
            task = await client.call_tool("submit_task", {"text": f"Task {number}"})
            await client.call_tool("cancel_task", {"task_id": task["id"]})
        await until(lambda: not any(busy() for busy in process.busy))
        ended = rows(process.settings, "SELECT count(*) AS n FROM model_calls WHERE ended_at IS NOT NULL")
        assert (await page_of(reader, process)).total("tale_model_calls_total") == ended[0]["n"]


async def test_the_page_comes_without_tasks_while_the_database_is_gone(tmp_path: Path, reader: MetricsReader) -> None:
    async with running(settings_for(tmp_path), ("gateway",)) as process:
        await (await process.client()).list_tools()  # now it is known that nobody has to show a key
        await process.shared.database.close()
        page = await page_of(reader, process)
        assert (page.status, page.samples("tale_tasks"), page.total("tale_build_info")) == (200, [], 1)


async def test_tasks_are_counted_anew_the_less_often_the_longer_it_takes(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    moments = iter([0.0, 0.5, 50.0, 50.6, 50.7])  # half a second of counting: no more within fifty
    gauge = TaskGauge(TaskStore(database), timer=lambda: next(moments))
    first = await gauge.counts()
    assert await gauge.counts() is first
    assert await gauge.counts() is not first
    await database.close()
