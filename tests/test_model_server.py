"""The model server speaks OpenAI's API over the host's pool: to tale's other roles, and to any client with the key."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import Process, rows, running, settings_for, soon, until

from tale.exceptions import ModelException, NetworkException
from tale.models.model_pool import ModelPool
from tale.servers.model_server import ModelServer

KEY = "secret-key"
MESSAGES = [{"role": "user", "content": "Hi"}]
Answer = tuple[int, Any]


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path, api_key=KEY), ("model",)) as process:
        yield process


async def ask(process: Process, path: str, body: object = None, *, key: str | None = KEY) -> Answer:
    """GET without a body, POST with one; text is sent as it is."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    data = body if isinstance(body, str | bytes | None) else json.dumps(body)
    url = f"{process.settings.url_of('model')}{path}"
    method = "GET" if body is None else "POST"
    asked = {"data": data, "headers": headers}
    async with aiohttp.ClientSession() as session, session.request(method, url, **asked) as response:
        text = await response.text()
        return response.status, json.loads(text) if response.content_type == "application/json" else text


def chunks(text: str) -> list[dict[str, Any]]:
    """The JSON chunks of a stream, which ends with [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_an_openai_client_gets_an_answer_with_its_figures(process: Process) -> None:
    body = {"messages": MESSAGES, "max_tokens": 9, "temperature": 0.5, "stop": ["END"], "user": "ignored"}
    status, answer = await ask(process, "/v1/chat/completions", body)
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", "large")
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "Hello world"},
        "finish_reason": "stop",
    }
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    (request,) = process.backend.requests
    assert (request.max_tokens, request.temperature, tuple(request.stop)) == (9, 0.5, ("END",))
    (call,) = rows(process.settings, "SELECT role, operation, budget_tokens FROM model_calls")
    assert call == {"role": "task", "operation": "chat", "budget_tokens": 9}


async def test_a_trace_that_a_client_names_is_taken_over(process: Process) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    url = f"{process.settings.url_of('model')}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json={"messages": MESSAGES}, headers=headers):
        pass
    assert rows(process.settings, "SELECT trace_id FROM model_calls") == [{"trace_id": "a" * 32}]


async def test_an_answer_is_streamed_in_openai_s_chunks(process: Process) -> None:
    status, text = await ask(process, "/v1/chat/completions", {"messages": MESSAGES, "stream": True, "model": "small"})
    assert status == 200
    told = chunks(text)
    assert told[0]["tale"]["dispatched"]["model"] == "small"
    words = [choice["delta"].get("content") for chunk in told for choice in chunk["choices"]]
    assert words == ["Hello", " world", None]
    assert (told[-1]["choices"][0]["finish_reason"], told[-1]["usage"]["completion_tokens"]) == ("stop", 2)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        ({"messages": MESSAGES, "tale": {"role": "king"}}, "tale"),
        ({"messages": MESSAGES, "tale": 5}, "tale"),
        ([], "body"),
        ("{not json", "body"),
        (b"\xff\xfe", "body"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_with_the_place_at_fault(
    process: Process, body: object, complaint: str
) -> None:
    for path in ("/v1/chat/completions", "/tale/count_tokens"):
        status, answer = await ask(process, path, body)
        assert (status, answer["error"]["type"]) == (400, "ValidationException")
        assert complaint in answer["error"]["message"]


@pytest.mark.parametrize("body", [{}, {"input": 5}, {"input": ["a"], "tale": {"x": 1}}, "nonsense"])
async def test_wrong_requests_for_vectors_are_refused(process: Process, body: object) -> None:
    status, answer = await ask(process, "/v1/embeddings", body)
    assert (status, answer["error"]["type"]) == (400, "ValidationException")


async def test_vectors_come_for_one_text_and_for_many(process: Process) -> None:
    status, answer = await ask(process, "/v1/embeddings", {"input": ["a", "b"], "model": "small"})
    assert (status, [row["index"] for row in answer["data"]]) == (200, [0, 1])
    status, answer = await ask(process, "/v1/embeddings", {"input": "a"})
    assert (status, len(answer["data"])) == (200, 1)


@pytest.mark.parametrize("path", ["/v1/models", "/tale/status", "/v1/nothing"])
@pytest.mark.parametrize("key", [None, "wrong", "ключ"])
async def test_every_path_but_health_asks_for_the_key(process: Process, path: str, key: str | None) -> None:
    assert (await ask(process, path, key=key))[0] == 401
    assert (await ask(process, "/health", key=key))[0] == 200


async def test_health_tells_of_the_models_and_the_database_to_who_has_no_key(process: Process) -> None:
    async def is_ready() -> bool:
        return await ask(process, "/health/ready", key=None) == (200, {"status": "ok"})

    await until(is_ready)
    assert await ask(process, "/health/live", key=None) == (200, {"status": "alive"})
    status, told = await ask(process, "/health", key=None)
    assert (status, told["name"], told["role"], told["status"]) == (200, "tale-model", "model", "ok")
    assert told["uptime_s"] >= 0
    assert told["database"]["state"] == "ok"
    assert {model["name"]: model["state"] for model in told["models"]}["small"] == "ready"
    assert "sessions" not in told


async def test_calls_are_a_use_of_the_process_and_looks_are_none(process: Process) -> None:
    activity = process.shared.activity
    activity.last_use = 0.0
    for path in ("/health", "/health/live", "/health/ready", "/tale/status", "/metrics"):
        await ask(process, path)
    assert (await ask(process, "/v1/models", key=None))[0] == 401
    assert activity.last_use == 0.0
    for path in ("/v1/chat/completions", "/tale/count_tokens"):
        activity.last_use = 0.0
        assert (await ask(process, path, {"messages": MESSAGES}))[0] == 200
        assert activity.last_use > 0.0


async def test_failures_are_told_with_their_kind(process: Process) -> None:
    status, answer = await ask(process, "/v1/chat/completions", {"messages": MESSAGES, "model": "huge"})
    assert (status, answer["error"]["type"]) == (400, "ModelException")
    assert "it holds small, large" in answer["error"]["message"]
    process.backend.chat_failures = [ModelException("Bad seed.")]
    status, answer = await ask(process, "/v1/chat/completions", {"messages": MESSAGES})
    assert (status, answer["error"]["message"]) == (400, "Bad seed.")
    process.backend.chat_failures = [NetworkException("The engine is away.", {"path": Path("x")})]
    status, answer = await ask(process, "/v1/chat/completions", {"messages": MESSAGES})
    assert (status, answer["error"]["context"]) == (503, {"path": "x"})


async def test_a_failure_in_mid_stream_is_told_in_the_stream(process: Process) -> None:
    process.backend.chat_failures = [ModelException("Bad seed.")]
    status, text = await ask(process, "/v1/chat/completions", {"messages": MESSAGES, "stream": True})
    assert status == 200
    assert chunks(text)[-1]["error"]["message"] == "Bad seed."


async def test_while_nothing_is_said_comments_show_that_the_server_lives(process: Process) -> None:
    assert isinstance(process.shared.pool, ModelPool)
    gate = process.backend.load_gates["large"] = asyncio.Event()
    settings = process.settings.model_copy(update={"model_port": 0})
    told = {"health": partial(process.shared.health, "tale-model", "model"), "on_use": process.shared.activity.note}
    server = ModelServer(settings, process.shared.pool, api_key=KEY, ping_interval_s=0.001, **told)
    await server.start()
    url, headers = f"http://127.0.0.1:{server.port}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
    body = {"messages": MESSAGES, "stream": True}
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as response:
        assert await response.content.readline() == b": ping\n"
        gate.set()
        assert chunks((await response.read()).decode())[-1]["choices"][0]["finish_reason"] == "stop"
    await server.stop()


async def test_a_client_that_leaves_stops_the_engine(process: Process) -> None:
    process.backend.word_gate = asyncio.Event()
    body = {"messages": MESSAGES, "stream": True}
    asking = asyncio.create_task(ask(process, "/v1/chat/completions", body))
    await soon(process.backend.started)
    asking.cancel()
    await until(lambda: process.backend.stopped == 1)
    query = "SELECT finish_reason FROM model_calls"
    await until(lambda: rows(process.settings, query) == [{"finish_reason": "cancelled"}])


async def test_chat_goes_before_tasks_and_tasks_before_background(tmp_path: Path) -> None:
    backend = ScriptedBackend()
    async with running(settings_for(tmp_path, api_key=KEY), ("model",), backend=backend) as process:
        gate = backend.word_gate = asyncio.Event()

        async def call(name: str, priority: int) -> None:
            context = {"role": "task", "operation": "test", "priority": priority}
            messages = [{"role": "user", "content": name}]
            await ask(process, "/v1/chat/completions", {"messages": messages, "tale": context})

        calls = [asyncio.create_task(call("first", 10))]
        await soon(backend.started)
        for waiting, (name, priority) in enumerate([("background", 20), ("task", 10), ("chat", 0)]):
            calls.append(asyncio.create_task(call(name, priority)))
            await until(lambda waiting=waiting: _waiting(process, waiting + 1))
        gate.set()
        await asyncio.gather(*calls)
    assert [request.messages[0].content for request in backend.requests] == ["first", "chat", "task", "background"]


async def _waiting(process: Process, number: int) -> bool:
    status, told = await ask(process, "/tale/status")
    return status == 200 and sum(model["waiting"] for model in told["models"]) == number
