"""A role in another process uses the host's pool over HTTP as if it held it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.scripted_backend import ScriptedBackend

from tale.exceptions import ModelException, NetworkException, ServerException, ValidationException
from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.models.model_pool import ModelPool
from tale.models.remote_pool import RemoteModelPool
from tale.records import CallContext, ChatRequest, Delta, Dispatched, Message, Reply, Usage, Vectors
from tale.servers.model_server import ModelServer, build_model_server
from tale.settings import load_settings
from tale.storage.call_store import CallStore
from tale.storage.database import Database

REQUEST = ChatRequest("", (Message("user", "Hi"),), max_tokens=5, stop=("END",), json_schema={"type": "object"})
CONTEXT = CallContext("task", "execute", task_id="t", attempt=3)


@dataclass
class Bench:
    backend: ScriptedBackend
    pool: ModelPool
    server: ModelServer
    remote: RemoteModelPool
    calls: CallStore

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


async def health() -> dict[str, Any]:
    return {"name": "tale-model", "status": "ok"}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    backend, calls = ScriptedBackend(), CallStore(database)
    pool = ModelPool(
        backend,
        ux_model="small",
        task_model="large",
        tracker=TokenTracker(Recorder(calls)),
        memory_limit_bytes=10_000,
        routing="auto",
        monitor_interval_s=60,
        provider_reason="It is a test.",
    )
    await pool.start()
    settings = load_settings({"home": str(tmp_path), "api_key": "secret"}, environment={})
    server = build_model_server(settings.model_copy(update={"model_port": 0}), pool, health=health, on_use=lambda: None)
    await server.start()
    remote = RemoteModelPool(f"http://127.0.0.1:{server.port}", "secret")
    await remote.start()
    yield Bench(backend, pool, server, remote, calls)
    await remote.close()
    await server.stop()
    await pool.close()
    await database.close()


async def test_a_generation_streams_through_and_is_recorded_where_the_models_are(bench: Bench) -> None:
    events = [event async for event in bench.remote.chat(REQUEST, CONTEXT)]
    assert events[:3] == [Dispatched("large", "task", None), Delta("Hello"), Delta(" world")]
    reply = events[3]
    assert isinstance(reply, Reply)
    assert (reply.text, reply.model, reply.usage.input_tokens, reply.usage.cached_tokens) == (
        "Hello world",
        "large",
        10,
        4,
    )
    assert await bench.remote.complete(REQUEST, CONTEXT) == reply
    row = (await bench.calls.calls())[0]
    assert (row.task_id, row.attempt, row.role, row.operation) == ("t", 3, "task", "execute")
    sent = bench.backend.requests[0]
    assert (sent.max_tokens, tuple(sent.stop), sent.json_schema) == (5, ("END",), {"type": "object"})


async def test_closing_a_stream_stops_the_engine_at_the_other_end(bench: Bench) -> None:
    bench.backend.word_gate = asyncio.Event()
    stream = bench.remote.chat(REQUEST, CONTEXT)
    while not isinstance(await anext(stream), Delta):
        pass
    await stream.aclose()
    while not bench.backend.stopped:
        await asyncio.sleep(0)


async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(bench: Bench) -> None:
    bench.backend.context_tokens, bench.backend.tokens = 10, 9
    with pytest.raises(ValidationException, match="9 tokens") as caught:
        await bench.remote.complete(REQUEST, CONTEXT)
    assert caught.value.context == {"input_tokens": 9, "context_tokens": 10}


async def test_a_failure_comes_through_as_what_it_is(bench: Bench) -> None:
    bench.backend.chat_failures = [ModelException("Bad seed.")]
    with pytest.raises(ModelException, match="Bad seed"):
        await bench.remote.complete(REQUEST, CONTEXT)


async def test_status_tokens_and_embeddings_come_through(bench: Bench) -> None:
    bench.backend.tokens = 7
    await bench.remote.complete(REQUEST, CONTEXT)
    assert await bench.remote.status() == await bench.pool.status()
    assert await bench.remote.count_tokens(REQUEST, CONTEXT) == 7
    assert await bench.remote.embed("", ["a", "b"], CONTEXT) == Vectors([[1.0], [1.0]], Usage(input_tokens=2))


async def test_a_stranger_is_refused_but_sees_that_it_lives(bench: Bench) -> None:
    stranger = RemoteModelPool(bench.url, "wrong")
    with pytest.raises(ServerException, match="asks for a key"):
        await stranger.complete(REQUEST, CONTEXT)
    await stranger.close()
    async with aiohttp.ClientSession() as session, session.get(f"{bench.url}/health") as response:
        assert (await response.json())["name"] == "tale-model"


async def test_plain_openai_clients_are_served(bench: Bench) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stop": "END"}
    headers = {"Authorization": "Bearer secret"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(f"{bench.url}/v1/models") as response:
            assert [row["id"] for row in (await response.json())["data"]] == ["small", "large"]
        async with session.post(f"{bench.url}/v1/chat/completions", json=body) as response:
            answer = await response.json()
        assert answer["choices"][0]["message"]["content"] == "Hello world"
        assert answer["usage"]["prompt_tokens"] == 10
        async with session.post(f"{bench.url}/v1/chat/completions", json={"messages": []}) as response:
            assert response.status == 400
            assert "messages" in (await response.json())["error"]["message"]
        async with session.post(f"{bench.url}/v1/embeddings", json={"input": "a"}) as response:
            assert (await response.json())["data"][0]["embedding"] == [1.0]


async def test_a_model_server_that_is_gone_is_told_and_its_status_unknown() -> None:
    remote = RemoteModelPool("http://127.0.0.1:9", "k")
    with pytest.raises(NetworkException, match="does not answer"):
        await remote.complete(REQUEST, CONTEXT)
    status = await remote.status()
    assert (status.provider, status.models) == ("remote", ())
    await remote.close()


async def test_a_model_server_without_a_key_is_not_built(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ValidationException, match="needs a key"):
        build_model_server(
            load_settings({"home": str(tmp_path)}, environment={}), bench.pool, health=health, on_use=lambda: None
        )
