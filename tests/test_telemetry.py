"""Spans of tasks, attempts, model calls and requests reach an OpenTelemetry collector, and cost no call anything."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.collector import Collector
from fakes.command_line import free_port
from fakes.ollama_server import served
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import Process, rows, running, settings_for, soon, until

from tale import __version__
from tale.exceptions import ModelException
from tale.models.remote_pool import RemoteModelPool
from tale.records import McpCall, ModelCall
from tale.servers.task_spans import open_telemetry
from tale.telemetry import Telemetry

KEY = "a key of sixteen letters"
INTERNAL, SERVER, CLIENT = 1, 2, 3
CALL = ModelCall("id", 1.0, "task", "execute", "large", "embedded", trace_id="a" * 32, ended_at=2.0, total_s=1.0)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with served(Collector()) as opened:
        yield opened


@asynccontextmanager
async def told(home: Path, collector: Collector, backend: ScriptedBackend | None = None) -> AsyncIterator[Process]:
    """A process that sends spans; all of them are there when it has ended."""
    settings = settings_for(home, telemetry_url=collector.url, max_task_retries=2)
    async with running(settings, backend=backend, intents={}) as process, AsyncExitStack() as stack:
        await open_telemetry(process.shared, stack)
        yield process
        await until(lambda: not any(busy() for busy in process.busy))


async def test_a_task_is_a_tree_of_attempts_and_model_calls_in_its_trace(tmp_path: Path, collector: Collector) -> None:
    backend = ScriptedBackend()
    backend.chat_failures = [ModelException("Not today.")]
    async with told(tmp_path, collector, backend) as process:
        done = await process.done("Write a haiku")
        (stored,) = rows(process.settings, "SELECT * FROM tasks")
        calls = rows(process.settings, "SELECT * FROM model_calls ORDER BY attempt")
    task, first, second = (collector.named(name) for name in ("task", "attempt 1", "attempt 2"))
    assert {span.trace_id for span in (task, first, second)} == {stored["trace_id"]}
    assert (task.parent_id, first.parent_id, second.parent_id) == ("", task.span_id, task.span_id)
    assert (task.begin, task.end) == (pytest.approx(stored["created_at"]), pytest.approx(stored["ended_at"]))
    assert [(span.is_error, span.attributes["tale.outcome"]) for span in (task, first, second)] == [
        (False, "completed"),
        (True, "failed"),
        (False, "completed"),
    ]
    assert {span.attributes["tale.task.id"] for span in (task, first, second)} == {done["id"]}
    failed, good = sorted((span for span in collector.spans if span.kind == CLIENT), key=lambda span: span.begin)
    assert (failed.parent_id, good.parent_id, good.trace_id) == (first.span_id, second.span_id, stored["trace_id"])
    assert (failed.is_error, failed.attributes["error.type"]) == (True, "ModelException")
    assert "gen_ai.usage.input_tokens" not in failed.attributes  # unknown is not zero
    assert (good.begin, good.end) == (pytest.approx(calls[1]["started_at"]), pytest.approx(calls[1]["ended_at"]))


async def test_a_model_call_is_told_in_the_words_of_the_conventions(tmp_path: Path, collector: Collector) -> None:
    async with told(tmp_path, collector) as process:
        talk = await (await process.client("ux_agent")).call_tool("conversation", {"message": "A secret"})
    (call,) = [span for span in collector.spans if span.kind == CLIENT]
    assert (call.name, call.is_error, call.schema_url.rpartition("/")[2]) == ("chat small", False, "1.44.0")
    told_of = {name: call.attributes.get(name) for name in call.attributes if name.startswith("gen_ai.")}
    assert told_of.pop("gen_ai.response.time_to_first_chunk") > 0
    assert told_of == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "small",
        "gen_ai.request.max_tokens": 512,
        "gen_ai.response.model": "small",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "gen_ai.conversation.id": talk["conversation_id"],
    }
    assert (call.attributes["tale.role"], call.attributes["tale.operation"]) == ("ux", "chat")
    assert call.resource["service.name"] == "tale" and call.resource["service.version"] == __version__
    request = collector.named("tools/call conversation")
    assert (request.kind, request.trace_id) == (SERVER, call.trace_id)
    assert request.attributes["mcp.method.name"] == "tools/call"
    assert "secret" not in repr(collector.spans)


async def test_servers_apart_agree_on_the_tree(tmp_path: Path, collector: Collector) -> None:
    settings = settings_for(tmp_path, api_key=KEY, telemetry_url=collector.url)
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(running(settings, ("model",)))]
        for roles in (("execution",), ("gateway",)):
            pool = RemoteModelPool(settings.url_of("model"), KEY)
            stack.push_async_callback(pool.close)
            processes.append(await stack.enter_async_context(running(settings, roles, pool=pool)))
        async with AsyncExitStack() as sending:
            for process in processes:
                await open_telemetry(process.shared, sending)
            await processes[-1].done("Write a haiku")
            executed = "SELECT * FROM mcp_calls WHERE tool = 'execute_task'"
            await until(lambda: rows(settings, executed))
    task, attempt = collector.named("task"), collector.named("attempt 1")
    call, execution = collector.named("chat large"), collector.named("tools/call execute_task")
    assert (attempt.parent_id, call.parent_id) == (task.span_id, attempt.span_id)
    assert {task.trace_id, attempt.trace_id, call.trace_id, execution.trace_id} == {task.trace_id}


async def test_a_task_cancelled_in_the_queue_is_told_once(tmp_path: Path, collector: Collector) -> None:
    async with told(tmp_path, collector) as process:
        client = await process.client()
        await client.call_tool("pause_queue", {})
        task = await client.call_tool("submit_task", {"text": "Write a haiku"})
        await client.call_tool("cancel_task", {"task_id": task["id"]})
    span = collector.named("task")
    assert (span.attributes["tale.outcome"], span.attributes["error.type"]) == ("cancelled", "Cancelled")


async def test_while_the_collector_hangs_calls_are_answered(tmp_path: Path, collector: Collector) -> None:
    collector.gate = asyncio.Event()
    telemetry = Telemetry(collector.url)
    async with running(settings_for(tmp_path)) as process:
        process.shared.recorder.observe(telemetry)
        for _ in range(600):  # more than a batch, which is sent at once
            telemetry.model_call_ended(CALL)
        await soon(collector.asked)
        assert (await process.done("Write a haiku"))["status"] == "completed"
        collector.gate.set()
        await telemetry.close()
    assert len(collector.spans) > 600


async def test_a_collector_that_is_gone_is_told_of_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO)
    telemetry = Telemetry(f"http://127.0.0.1:{free_port()}", close_limit_s=0.05)
    for number in range(9_000):  # more than the queue holds
        telemetry.model_call_ended(replace(CALL, id=str(number)))
    await telemetry.close()
    await until(lambda: any("No spans can be delivered" in record.message for record in caplog.records))
    told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([message for message in told if "No spans" in message]) == 1
    assert len(told) == 2 and not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_an_error_of_who_looks_on_costs_no_call(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def model_call_ended(self, call: ModelCall) -> None:
            raise AttributeError("no such thing")

        def request_answered(self, call: McpCall) -> None:
            raise AttributeError("no such thing")

    async with running(settings_for(tmp_path)) as process:
        process.shared.recorder.observe(Broken())
        assert (await process.done("Write a haiku"))["status"] == "completed"
        assert process.shared.recorder.counts.models
    assert "An observer of model calls failed." in caplog.text and "An observer of requests failed." in caplog.text


async def test_what_was_lost_is_told_when_the_collector_takes_spans_again(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    collector.status = 400
    telemetry = Telemetry(f"{collector.url}/v1/traces")  # the whole address will do, too
    for _ in range(512):
        telemetry.model_call_ended(CALL)
    await until(lambda: "No spans can be delivered" in caplog.text)
    collector.status = 200
    telemetry.model_call_ended(CALL)
    await telemetry.close()
    assert "Spans are delivered to" in caplog.text and "again; 512 or more were lost" in caplog.text
    assert len(collector.spans) == 1


async def test_a_request_whose_path_names_a_thing_is_told_by_its_route(collector: Collector) -> None:
    telemetry = Telemetry(collector.url)
    for number, method in enumerate(("POST /v1/embeddings", "GET /tasks/{task_id}/events")):
        telemetry.request_answered(McpCall(str(number), 1.0, "tale-gateway", method, 0.5, "ok"))
    await telemetry.close()
    told = [collector.named(name).attributes for name in ("POST /v1/embeddings", "GET /tasks/{task_id}/events")]
    assert (told[0].get("url.path"), told[0].get("http.route")) == ("/v1/embeddings", None)
    assert (told[1].get("url.path"), told[1].get("http.route")) == (None, "/tasks/{task_id}/events")


@pytest.mark.parametrize("trace_id", [None, "", "no trace", "0" * 32])
async def test_a_call_without_a_good_trace_is_a_trace_of_its_own(collector: Collector, trace_id: str | None) -> None:
    telemetry = Telemetry(collector.url)
    for number in range(2):
        telemetry.model_call_ended(replace(CALL, id=f"call {number}", trace_id=trace_id))
    await telemetry.close()
    traces = {span.trace_id for span in collector.spans}
    assert len(traces) == 2 and "0" * 32 not in traces


def test_without_its_packages_a_collector_is_refused_in_a_sentence_that_names_the_extra() -> None:
    script = """
import asyncio, sys
from contextlib import AsyncExitStack
from types import SimpleNamespace
sys.modules["opentelemetry.exporter"] = None
from tale.servers.task_spans import open_telemetry
asyncio.run(open_telemetry(SimpleNamespace(settings=SimpleNamespace(telemetry_url="http://c:4318")), AsyncExitStack()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip().endswith("install them with: pip install 'tale[telemetry]'")


def test_opentelemetry_is_imported_only_where_a_collector_is_named() -> None:
    probe = "import sys, tale.servers.roles, tale.servers.service, tale.servers.shared, tale.servers.task_spans;"
    probe += "print([name for name in sys.modules if name.startswith('opentelemetry.sdk') or 'otlp' in name])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
