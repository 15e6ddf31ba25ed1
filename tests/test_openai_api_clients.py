"""The official client of OpenAI's API works on the gateway, and no body, however odd, makes the gateway fail."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fakes.in_thread import in_thread
from fakes.openai_gateway import CHAT, Gateway, openai_gateway
from fakes.openai_server import OpenAIServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

USER: Any = [{"role": "user", "content": "Hi"}]
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
SERVER_FAULT = 500


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with openai_gateway(tmp_path, OpenAIServer()) as gateway:
        yield gateway


@asynccontextmanager
async def client_of(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_the_official_client_completes_streams_lists_and_embeds(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        whole = await client.chat.completions.create(model="tale-auto", messages=USER)
        assert (whole.choices[0].message.content, whole.model) == ("Hello world!", "small")
        options: Any = {"include_usage": True}
        stream = await client.chat.completions.create(model="small", messages=USER, stream=True, stream_options=options)
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "Hello world!"
        assert chunks[-1].usage == whole.usage
        assert [model.id async for model in client.models.list()][:2] == ["small", "large"]
        assert (await client.models.retrieve("tale-task")).owned_by == "tale"
        vectors = await client.embeddings.create(model="small", input=["one", "three"])
        assert [row.embedding for row in vectors.data] == [[3.0], [5.0]]


async def test_the_official_client_calls_tools_in_both_ways(gateway: Gateway) -> None:
    gateway.engine.script.words, gateway.engine.script.calls = [], [("call_a", "weather", '{"place": "Bern"}')]
    async with client_of(gateway) as client:
        whole = await client.chat.completions.create(model="small", messages=USER, tools=TOOLS)
        assert whole.choices[0].message.tool_calls is not None
        (call,) = whole.choices[0].message.tool_calls
        async with client.chat.completions.stream(model="small", messages=USER, tools=TOOLS) as stream:
            final = await stream.get_final_completion()
        assert final.choices[0].message.tool_calls is not None
        (streamed,) = final.choices[0].message.tool_calls
        assert (streamed.id, streamed.function.arguments) == (call.id, '{"place": "Bern"}')
        gateway.engine.script.words, gateway.engine.script.calls = ["Sunny"], []
        answered: Any = [
            *USER,
            whole.choices[0].message.to_dict(),
            {"role": "tool", "tool_call_id": call.id, "content": "sun"},
        ]
        assert (await client.chat.completions.create(model="small", messages=answered)).choices[0].message.content == (
            "Sunny"
        )


async def test_the_official_client_knows_our_failures_for_what_they_are(gateway: Gateway) -> None:
    async with client_of(gateway) as client:
        with pytest.raises(openai.NotFoundError, match="There is no model 'gpt-9' here"):
            await client.chat.completions.create(model="gpt-9", messages=USER)
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="small", messages=USER, n=3)
        assert (refused.value.param, refused.value.type) == ("n", "invalid_request_error")
        gateway.engine.script.break_after = 1
        stream = await client.chat.completions.create(model="small", messages=USER, stream=True)
        with pytest.raises(openai.APIError, match=r"does not answer|broke off"):
            async for _ in stream:
                pass


async def test_a_plain_http_client_reads_the_stream_line_by_line(gateway: Gateway) -> None:
    body = {"model": "tale-ux", "messages": USER, "stream": True}
    async with (
        httpx.AsyncClient(base_url=gateway.url) as client,
        client.stream("POST", CHAT, json=body, headers={"Authorization": "Bearer none"}) as response,
    ):
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["object"] == "chat.completion.chunk"


async def test_the_official_client_leaves_a_stream_and_the_engine_stops(gateway: Gateway) -> None:
    gateway.engine.script.gate = asyncio.Event()
    async with client_of(gateway) as client:
        stream = await client.chat.completions.create(model="small", messages=USER, stream=True)
        assert (await anext(aiter(stream))).choices[0].delta.content == "Hello"
        await stream.close()
        await gateway.engine.script.left.wait()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway for many examples; yields its address."""
    with in_thread(openai_gateway(tmp_path_factory.mktemp("home"), OpenAIServer())) as gateway:
        yield gateway.url


def test_the_official_client_without_asyncio_completes_streams_lists_and_embeds(lasting: str) -> None:
    with openai.OpenAI(base_url=f"{lasting}/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(model="tale-auto", messages=USER)
        assert (whole.choices[0].message.content, whole.model) == ("Hello world!", "small")
        with client.chat.completions.create(model="tale-task", messages=USER, stream=True) as stream:
            chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello world!"
        assert chunks[-1].usage == whole.usage
        assert [model.id for model in client.models.list()][:2] == ["small", "large"]
        vectors = client.embeddings.create(model="small", input=["one", "three"])
        assert [row.embedding for row in vectors.data] == [[3.0], [5.0]]
        with pytest.raises(openai.NotFoundError, match="There is no model 'gpt-9' here"):
            client.chat.completions.create(model="gpt-9", messages=USER)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
WORDS = """model messages max_tokens max_completion_tokens n temperature top_p seed stop stream stream_options
    response_format tools tool_choice logprobs logit_bias input encoding_format dimensions"""
FIELDS = st.sampled_from(WORDS.split())
ODD_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "system"]) | JSON, "content": JSON},
        optional={"tool_calls": JSON, "tool_call_id": JSON, "name": JSON},
    ),
    max_size=3,
)
ODD_CHATS = st.fixed_dictionaries({"messages": ODD_MESSAGES}, optional={"tools": JSON})
BODIES = JSON | st.dictionaries(FIELDS, JSON) | ODD_CHATS
ODD = BODIES.map(json.dumps) | st.text() | st.binary()


@given(body=ODD, path=st.sampled_from([CHAT, "/v1/embeddings"]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_no_body_makes_the_gateway_fail(lasting: str, body: str | bytes, path: str) -> None:
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    answer = httpx.post(f"{lasting}{path}", content=content)
    assert answer.status_code < SERVER_FAULT, (answer.text, content)
    if answer.status_code != httpx.codes.OK:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
