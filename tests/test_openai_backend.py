"""The OpenAI-compatible backend reads every engine's way of streaming, and stops an engine when it is told to."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fakes.ollama_server import served
from fakes.openai_server import Habits, OpenAIServer

from tale.exceptions import ModelException, NetworkException, TaskException, ValidationException
from tale.models.openai_backend import OpenAIBackend
from tale.models.openai_wire import Gathered, chunks_of, events_of
from tale.records import (
    ChatRequest,
    Delta,
    EngineTimings,
    Message,
    PromptProgress,
    Reply,
    ToolCall,
    ToolCallPart,
    Usage,
    Vectors,
)

REQUEST = ChatRequest(
    "small", (Message("user", "Say hello please"),), max_tokens=9, temperature=0.5, top_p=0.9, seed=7, stop=("END",)
)
FULL_USAGE = Usage(input_tokens=11, output_tokens=3, cached_tokens=3, reasoning_tokens=1)


@pytest.fixture
async def engine() -> AsyncIterator[OpenAIServer]:
    async with served(OpenAIServer()) as server:
        yield server


@pytest.fixture
async def backend(engine: OpenAIServer) -> AsyncIterator[OpenAIBackend]:
    made = OpenAIBackend(engine.base_url, timeout_s=5, llama_cpp=True)
    yield made
    await made.close()


async def events(backend: OpenAIBackend, request: ChatRequest = REQUEST) -> list[object]:
    return [event async for event in backend.chat(request)]


async def test_a_generation_streams_and_ends_with_the_engine_s_figures(
    engine: OpenAIServer, backend: OpenAIBackend
) -> None:
    seen = await events(backend)
    assert seen[:3] == [Delta("Hello"), Delta(" world"), Delta("!")]
    timings = EngineTimings(prefill_s=0.2, decode_s=0.3)
    assert seen[3:] == [FULL_USAGE, Reply("Hello world!", "small", "stop", FULL_USAGE, timings)]
    sent = engine.script.requests[0]
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"], sent["seed"]) == (9, 0.5, 0.9, 7)
    assert (sent["stop"], sent["stream_options"]) == (["END"], {"include_usage": True})


async def test_streamed_and_unstreamed_account_the_same(backend: OpenAIBackend) -> None:
    assert (await events(backend))[-1] == await backend.complete(REQUEST)


@pytest.mark.parametrize("usage", ["last", "own chunk", "every"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("piece", [None, 1, 7])
@pytest.mark.parametrize("done", [True, False])
async def test_usage_counts_wherever_it_comes_and_however_the_bytes_are_split(
    engine: OpenAIServer, backend: OpenAIBackend, usage: Any, newline: str, piece: int | None, done: bool
) -> None:
    engine.habits = Habits(usage=usage, newline=newline, piece=piece, done=done)
    engine.script.words = ["Grüße ", "🦉", "\n"]
    reply = (await events(backend))[-1]
    assert isinstance(reply, Reply)
    assert (reply.text, reply.usage) == ("Grüße 🦉\n", FULL_USAGE)


async def test_what_an_engine_does_not_report_stays_unknown(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    engine.habits = Habits(usage="none", timings=False)
    reply = (await events(backend))[-1]
    assert isinstance(reply, Reply)
    assert (reply.usage, reply.timings) == (Usage(), EngineTimings())


async def test_prompt_progress_is_told(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    engine.habits = Habits(prompt_progress=True)
    assert (await events(backend))[0] == PromptProgress(4, 11)


def test_the_time_until_an_engine_begins_with_the_prompt_is_a_wait() -> None:
    gathered = Gathered("small", sent_at=time.perf_counter() - 60)
    for processed, reading_ms in ((4, 20_000), (11, 59_000)):
        told = {"processed": processed, "total": 11, "time_ms": reading_ms}
        events_of({"choices": [], "prompt_progress": told}, gathered)
    assert gathered.reply().timings.queue_s == pytest.approx(40, abs=5)


async def test_an_engine_that_does_not_stream_is_read_all_the_same(
    engine: OpenAIServer, backend: OpenAIBackend
) -> None:
    engine.script.refuse = (200, '{"choices": [{"message": {"content": "Whole"}, "finish_reason": "stop"}]}')
    with pytest.raises(NetworkException):  # text/plain is no event stream
        await events(backend)
    assert (await backend.complete(REQUEST)).text == "Whole"


async def test_closing_a_generation_stops_the_engine(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    engine.script.gate = asyncio.Event()
    stream = backend.chat(REQUEST)
    assert await anext(stream) == Delta("Hello")
    await stream.aclose()
    await engine.script.left.wait()


async def test_cancelling_the_reader_stops_the_engine(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    engine.script.gate = asyncio.Event()
    reading = asyncio.create_task(events(backend))
    await engine.script.started.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await engine.script.left.wait()


async def test_an_engine_that_breaks_off_is_a_network_error(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    engine.script.break_after = 1
    with pytest.raises(NetworkException):
        await events(backend)


async def test_an_engine_that_falls_silent_is_given_up(engine: OpenAIServer) -> None:
    engine.script.gate = asyncio.Event()
    impatient = OpenAIBackend(engine.base_url, timeout_s=0.05)
    with pytest.raises(NetworkException, match="silent"):
        await events(impatient)
    await impatient.close()


@pytest.mark.parametrize(
    ("status", "told", "kind", "words"),
    [
        (400, {"error": {"message": "Bad seed", "type": "x"}}, ModelException, "refused: Bad seed"),
        (500, {"error": "it hurts"}, ModelException, "it hurts"),
        (500, {"message": "vllm says no"}, ModelException, "vllm says no"),
        (502, "<html>bad gateway</html>", ModelException, "bad gateway"),
        (503, "", ModelException, "no reason given"),
        (404, {"error": {"message": "No such task.", "type": "TaskException"}}, TaskException, "No such task"),
        (
            400,
            {"error": {"type": "exceed_context_size_error", "message": "x", "n_prompt_tokens": 900, "n_ctx": 512}},
            ValidationException,
            "900 tokens",
        ),
        (
            400,
            {"object": "error", "message": "This model's maximum context length is 512 tokens.", "code": 400},
            ValidationException,
            "do not fit the model's context; the engine said: This model's",
        ),
        (400, {"error": {"message": "Too much.", "code": "context_length_exceeded"}}, ValidationException, "Too much"),
        (500, {"error": "The CUDA context size is wrong"}, ModelException, "refused: The CUDA"),
    ],
)
async def test_an_engine_s_refusal_is_told_in_its_own_words(
    engine: OpenAIServer, backend: OpenAIBackend, status: int, told: object, kind: type[Exception], words: str
) -> None:
    engine.script.refuse = (status, told)
    with pytest.raises(kind, match=words):
        await events(backend)
    with pytest.raises(kind, match=words):
        await backend.complete(REQUEST)


async def test_an_error_within_a_stream_is_raised(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    engine.script.refuse = (200, 'data: {"error": {"message": "out of slots"}}\n\n')
    with pytest.raises(ModelException, match="out of slots"):
        await events(backend)
    engine.script.refuse = (200, "data: {nonsense\n\n")
    with pytest.raises(ModelException, match="not JSON"):
        await events(backend)


@pytest.mark.parametrize("body", ["nonsense", "[1]"])
async def test_an_answer_that_is_no_json_object_is_refused(
    engine: OpenAIServer, backend: OpenAIBackend, body: str
) -> None:
    engine.script.refuse = (200, body)
    with pytest.raises(ModelException, match="not"):
        await backend.complete(REQUEST)


async def test_nobody_there_is_told_with_the_url() -> None:
    backend = OpenAIBackend("http://127.0.0.1:9/v1", timeout_s=1)
    with pytest.raises(NetworkException) as caught:
        await backend.complete(REQUEST)
    assert caught.value.context["url"] == "http://127.0.0.1:9/v1"
    assert not await backend.health()
    assert not await backend.is_responsive("small")
    await backend.close()


async def test_the_key_is_sent_and_asked_for() -> None:
    async with served(OpenAIServer(api_key="k")) as engine:
        stranger, friend = (OpenAIBackend(engine.base_url, timeout_s=5, api_key=key) for key in (None, "k"))
        with pytest.raises(ModelException, match="Invalid API key"):
            await stranger.complete(REQUEST)
        assert (await friend.complete(REQUEST)).text == "Hello world!"
        await stranger.close()
        await friend.close()


async def test_models_are_the_engine_s_own_affair(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    assert [(model.name, model.loaded) for model in await backend.list_models()] == [("small", True), ("large", True)]
    assert await backend.health()
    assert await backend.load("small") == 0.0
    await backend.unload("small")
    with pytest.raises(ModelException, match="does not serve 'other'"):
        await backend.pull("other")
    with pytest.raises(ModelException, match="manages its own"):
        await backend.remove("small")


async def test_texts_are_embedded_in_their_order(backend: OpenAIBackend) -> None:
    assert await backend.embed("small", ["a", "bbb"]) == Vectors([[1.0], [3.0]], Usage(input_tokens=2))


async def test_tokens_are_counted_where_the_engine_can(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    assert await backend.count_tokens(REQUEST) == 3
    other = OpenAIBackend(engine.base_url, timeout_s=5)
    assert await other.count_tokens(REQUEST) is None
    await other.close()


async def test_an_engine_that_tells_its_context_is_asked_for_counts_as_vllm_is(engine: OpenAIServer) -> None:
    engine.script.context_tokens = 4_096
    backend = OpenAIBackend(engine.base_url, timeout_s=5)
    assert [model.context_tokens for model in await backend.list_models()] == [4_096, 4_096]
    assert await backend.count_tokens(REQUEST) == 3
    assert await backend.count_tokens(replace(REQUEST, model="other")) is None
    engine.counts_chats = False  # as SGLang
    assert await backend.count_tokens(REQUEST) is None
    await backend.close()


async def test_a_prompt_is_counted_as_the_client_has_it_made(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    engine.script.context_tokens = 4_096
    other = OpenAIBackend(engine.base_url, timeout_s=5)
    await other.list_models()
    options = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 3}
    for each in (backend, other):
        await each.count_tokens(replace(REQUEST, options=options))
        await each.count_tokens(REQUEST)
    await other.close()
    messages = [{"role": "user", "content": "Say hello please"}]
    plain = [{"messages": messages}, {"model": "small", "messages": messages}]
    thoughtless = [{**body, "chat_template_kwargs": {"enable_thinking": False}} for body in plain]
    assert engine.counted == [thoughtless[0], plain[0], thoughtless[1], plain[1]]


async def test_a_json_schema_is_passed_on(engine: OpenAIServer, backend: OpenAIBackend) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    await backend.complete(ChatRequest("small", (Message("user", "x"),), json_schema=schema))
    assert engine.script.requests[0]["response_format"]["json_schema"]["schema"] == schema


TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},)
CALLS = [("call_a", "weather", '{"place": "Bâle"}'), ("call_b", "weather", "{}")]


async def test_tool_calls_are_put_together_from_their_pieces(backend: OpenAIBackend, engine: OpenAIServer) -> None:
    engine.script.words, engine.script.calls = [], CALLS
    request = ChatRequest("small", REQUEST.messages, tools=TOOLS, tool_choice="required", options={"top_logprobs": 2})
    streamed = [event async for event in backend.chat(request)]
    assert streamed[-1] == await backend.complete(request)
    assert isinstance(streamed[-1], Reply)
    assert streamed[-1].tool_calls == tuple(ToolCall(*call) for call in CALLS)
    assert streamed[-1].finish_reason == "tool_calls"
    assert streamed[0] == Delta("", tool_calls=(ToolCallPart(0, "call_a", "weather"),))
    sent = engine.script.requests[0]
    assert (sent["tools"], sent["tool_choice"], sent["top_logprobs"]) == (list(TOOLS), "required", 2)


async def test_a_conversation_with_tools_and_pictures_is_sent_as_it_was(
    backend: OpenAIBackend, engine: OpenAIServer
) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = ToolCall(*CALLS[0])
    messages = (
        Message("user", "", (picture,)),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "sun", tool_call_id=call.id),
    )
    await backend.complete(ChatRequest("small", messages))
    user, assistant, tool = engine.script.requests[0]["messages"]
    assert user["content"] == [picture]
    assert assistant["tool_calls"][0]["function"] == {"name": "weather", "arguments": call.arguments}
    assert tool == {"role": "tool", "content": "sun", "tool_call_id": "call_a"}


async def test_reasoning_is_kept_apart_from_the_text(backend: OpenAIBackend, engine: OpenAIServer) -> None:
    engine.script.reasoning = "Let me think."
    events = [event async for event in backend.chat(REQUEST)]
    assert events[0] == Delta("", "Let me think.")
    assert isinstance(events[-1], Reply)
    assert (events[-1].reasoning, events[-1].text) == ("Let me think.", "Hello world!")


class Sent:
    """A response whose body came in these blocks."""

    def __init__(self, *blocks: bytes) -> None:
        self.content = self
        self._blocks = blocks

    async def iter_any(self) -> AsyncIterator[bytes]:
        for block in self._blocks:
            yield block


async def test_half_a_character_may_come_escaped() -> None:
    sent: Any = Sent(b'data: {"a": "\\ud8', b'3d"}\n\ndata: {"a": "\\ude00"}\n\n', b"data: [DONE]\n\n")
    assert [chunk async for chunk in chunks_of(sent)] == [{"a": "\ud83d"}, {"a": "\ude00"}]


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": 5},
        {"choices": [5]},
        {"choices": [{"delta": 5}]},
        {"choices": [{"delta": {"tool_calls": 5}}]},
        {"choices": [{"delta": {"tool_calls": [5]}}]},
        {"choices": [], "prompt_progress": {"processed": "many"}},
        {"choices": [], "usage": 5},
        {"choices": [{"delta": {"content": "x"}, "logprobs": 5}]},
    ],
)
def test_chunks_of_another_form_are_the_engine_s_fault(chunk: dict[str, Any]) -> None:
    with pytest.raises(ModelException, match="not OpenAI's"):
        events_of(chunk, Gathered("small"))
    with pytest.raises(ModelException, match="not OpenAI's"):
        events_of({"choices": [{"message": {"tool_calls": 5}}]}, Gathered("small"), is_whole=True)


async def test_the_password_of_its_address_is_used_and_not_told(engine: OpenAIServer) -> None:
    backend = OpenAIBackend(engine.base_url.replace("://", "://ann:s3cret@"), timeout_s=5)
    assert await backend.health()
    engine.script.refuse = (400, {"error": {"message": "no"}})
    with pytest.raises(ModelException) as refused:
        await backend.complete(REQUEST)
    await backend.close()
    nobody = OpenAIBackend("http://ann:s3cret@127.0.0.1:9/v1", timeout_s=1)
    with pytest.raises(NetworkException) as lost:
        await nobody.complete(REQUEST)
    await nobody.close()
    for caught in (refused, lost):
        assert "s3cret" not in f"{caught.value} {caught.value.context}"
