"""The Ollama backend uses the official client, keeps one set of options a model, and tells what went wrong."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
from fakes.ollama_server import OllamaServer, served
from fakes.servers import until

from tale.exceptions import ModelException, NetworkException, ValidationException
from tale.models.ollama_backend import OllamaBackend
from tale.records import ChatRequest, Delta, EngineTimings, Message, PullProgress, Reply, ToolCall, Usage, Vectors

REQUEST = ChatRequest("small", (Message("user", "Hi"),), max_tokens=9, temperature=0.5, stop=("END",))


@pytest.fixture
async def engine() -> AsyncIterator[OllamaServer]:
    async with served(OllamaServer()) as server:
        yield server


@pytest.fixture
async def backend(engine: OllamaServer) -> AsyncIterator[OllamaBackend]:
    made = OllamaBackend(engine.url, timeout_s=5, context_tokens={"small": 2_048, "absent": 1_024})
    yield made
    await made.close()


async def events(backend: OllamaBackend, request: ChatRequest = REQUEST) -> list[object]:
    return [event async for event in backend.chat(request)]


async def test_a_generation_streams_and_ends_with_ollama_s_figures(
    engine: OllamaServer, backend: OllamaBackend
) -> None:
    seen = await events(backend)
    timings = EngineTimings(load_s=0.1, prefill_s=0.2, decode_s=0.3)
    reply = Reply("Hello world!", "small", "stop", Usage(11, 3), timings)
    assert seen == [Delta("Hello"), Delta(" world"), Delta("!"), reply]
    assert await backend.complete(REQUEST) == reply
    sent = engine.script.requests[0]
    assert sent["options"] == {"num_ctx": 2_048, "num_predict": 9, "temperature": 0.5, "stop": ["END"]}


async def test_every_request_of_a_model_has_the_same_context_and_keeps_it_loaded(
    engine: OllamaServer, backend: OllamaBackend
) -> None:
    assert await backend.load("small") >= 0
    await events(backend)
    await backend.complete(ChatRequest("small", (Message("user", "Hi"),)))
    assert {(sent["options"]["num_ctx"], sent["keep_alive"]) for sent in engine.script.requests} == {(2_048, -1)}


async def test_a_model_is_loaded_and_unloaded(engine: OllamaServer, backend: OllamaBackend) -> None:
    await backend.load("small")
    assert engine.running == {"small": 2_048}
    await backend.unload("small")
    assert engine.running == {}


async def test_models_are_listed_with_what_could_be_fetched(engine: OllamaServer, backend: OllamaBackend) -> None:
    await backend.load("small")
    found = {model.name: model for model in await backend.list_models()}
    assert set(found) == {"small", "large", "absent"}
    assert (found["small"].loaded, found["small"].memory_bytes, found["small"].size_bytes) == (True, 2_000, 1_000)
    assert (found["absent"].available, found["absent"].size_bytes) == (False, None)


async def test_a_model_is_pulled_with_progress_and_removed(engine: OllamaServer, backend: OllamaBackend) -> None:
    seen: list[PullProgress] = []
    await backend.pull("absent", seen.append)
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (2_000, 2_000)
    assert "absent" in engine.script.models
    await backend.remove("absent")
    assert "absent" not in engine.script.models
    with pytest.raises(ModelException, match="file does not exist"):
        await backend.pull("nowhere")


async def test_an_unknown_model_is_told_with_the_command_that_fetches_it(backend: OllamaBackend) -> None:
    with pytest.raises(ModelException, match="tale models pull absent"):
        await backend.complete(ChatRequest("absent", (Message("user", "x"),)))
    with pytest.raises(ModelException, match="tale models pull absent"):
        await events(backend, ChatRequest("absent", (Message("user", "x"),)))


@pytest.mark.parametrize(
    ("status", "words"), [(503, "too many requests"), (500, "option .* must be of type"), (400, "refused")]
)
async def test_ollama_s_refusals_are_told(
    engine: OllamaServer, backend: OllamaBackend, status: int, words: str
) -> None:
    engine.script.refuse = (status, {"error": 'option "seed" must be of type integer'})
    with pytest.raises(ModelException, match=words):
        await backend.complete(REQUEST)


@pytest.mark.parametrize("told", ["prompt is too long", "the input length exceeds the context length"])
async def test_a_prompt_beyond_the_context_is_not_to_be_shortened_and_its_refusal_is_final(
    engine: OllamaServer, backend: OllamaBackend, told: str
) -> None:
    await backend.complete(REQUEST)
    [event async for event in backend.chat(REQUEST)]
    assert [request["truncate"] for request in engine.script.requests] == [False, False]
    engine.script.refuse = (400, {"error": told})
    with pytest.raises(ValidationException, match=f"does not fit the model's context; Ollama said: {told}") as caught:
        await backend.complete(REQUEST)
    assert (caught.value.context["param"], caught.value.context["code"]) == ("messages", "context_length_exceeded")


async def test_closing_a_generation_stops_ollama(engine: OllamaServer, backend: OllamaBackend) -> None:
    engine.script.gate = asyncio.Event()
    stream = backend.chat(REQUEST)
    assert await anext(stream) == Delta("Hello")
    await stream.aclose()
    await engine.script.left.wait()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_who_is_cancelled_twice_stops_ollama_all_the_same(
    engine: OllamaServer, backend: OllamaBackend, turns: int
) -> None:
    engine.script.gate = asyncio.Event()
    reading = asyncio.create_task(events(backend))
    await engine.script.started.wait()
    for _ in range(2):
        reading.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(5):
        await engine.script.left.wait()


async def test_no_connection_is_left_whenever_a_call_is_cancelled(engine: OllamaServer, backend: OllamaBackend) -> None:
    for turns in range(60):
        for act in (events(backend), backend.complete(REQUEST)):
            call = asyncio.ensure_future(act)
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
    port = int(engine.url.rpartition(":")[2])
    await until(lambda: all(port not in (at.laddr.port, at.raddr and at.raddr.port) for at in connections()))


def connections() -> list[Any]:
    """This process's connections that somebody is at the other end of."""
    return [found for found in psutil.Process().net_connections("tcp") if found.status == psutil.CONN_ESTABLISHED]


async def test_an_ollama_that_breaks_off_is_a_network_error(engine: OllamaServer, backend: OllamaBackend) -> None:
    engine.script.break_after = 1
    with pytest.raises(NetworkException, match="broke off"):
        await events(backend)


async def test_no_ollama_is_told_with_the_command_that_starts_it() -> None:
    backend = OllamaBackend("http://127.0.0.1:9", timeout_s=1, context_tokens={})
    with pytest.raises(NetworkException, match="ollama serve") as caught:
        await backend.complete(REQUEST)
    assert caught.value.context["url"] == "http://127.0.0.1:9"
    assert not await backend.health()
    await backend.close()


async def test_the_password_of_its_address_is_not_told() -> None:
    backend = OllamaBackend("http://ann:s3cret@127.0.0.1:9", timeout_s=1, context_tokens={})
    with pytest.raises(NetworkException) as caught:
        await backend.complete(REQUEST)
    assert "s3cret" not in f"{caught.value} {caught.value.context}"


async def test_it_is_healthy_when_it_answers_and_counts_no_tokens(backend: OllamaBackend) -> None:
    assert await backend.health()
    assert await backend.is_responsive("small")
    assert await backend.count_tokens(REQUEST) is None


async def test_texts_are_embedded(backend: OllamaBackend) -> None:
    assert await backend.embed("small", ["a", "bb"]) == Vectors([[1.0, 1.0], [2.0, 1.0]], Usage(input_tokens=2))


async def test_a_json_schema_is_passed_on(engine: OllamaServer, backend: OllamaBackend) -> None:
    await backend.complete(ChatRequest("small", (Message("user", "x"),), json_schema={"type": "object"}))
    assert engine.script.requests[0]["format"] == {"type": "object"}


TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}},)


async def test_tools_pass_in_both_directions(backend: OllamaBackend, engine: OllamaServer) -> None:
    engine.script.words, engine.script.calls = [], [("", "weather", '{"place": "Bâle"}')]
    asked = (Message("user", "Weather?"),)
    first = [event async for event in backend.chat(ChatRequest("small", asked, tools=TOOLS))][-1]
    assert isinstance(first, Reply)
    (call,) = first.tool_calls
    assert (call.name, call.arguments) == ("weather", '{"place": "Bâle"}')
    engine.script.words, engine.script.calls = ["Sunny"], []
    answered = (*asked, Message("assistant", "", tool_calls=(call,)), Message("tool", "sun", tool_call_id=call.id))
    assert (await backend.complete(ChatRequest("small", answered, tools=TOOLS))).text == "Sunny"
    sent = engine.script.requests[-1]
    assert sent["tools"][0]["function"]["name"] == "weather"
    assert sent["messages"][1]["tool_calls"] == [{"function": {"name": "weather", "arguments": {"place": "Bâle"}}}]
    assert sent["messages"][2] == {"role": "tool", "content": "sun", "tool_name": "weather"}


@pytest.mark.parametrize(("choice", "told"), [("none", False), ("auto", True), ("required", True), (None, True)])
async def test_who_wants_no_tools_called_has_ollama_told_of_none(
    backend: OllamaBackend, engine: OllamaServer, choice: str | None, told: bool
) -> None:
    await backend.complete(ChatRequest("small", REQUEST.messages, tools=TOOLS, tool_choice=choice))
    assert bool(engine.script.requests[-1].get("tools")) is told


async def test_pictures_go_as_their_bytes_and_never_as_an_address(backend: OllamaBackend, engine: OllamaServer) -> None:
    def request(url: str) -> ChatRequest:
        return ChatRequest(
            "small", (Message("user", "What is it?", ({"type": "image_url", "image_url": {"url": url}},)),)
        )

    await backend.complete(request("data:image/png;base64,AAAA"))
    assert engine.script.requests[-1]["messages"][0]["images"] == ["AAAA"]
    with pytest.raises(ValidationException, match="data: URLs"):
        await backend.complete(request("https://example.org/cat.png"))


async def test_arguments_of_a_call_that_are_no_json_are_refused(backend: OllamaBackend) -> None:
    call = ToolCall("call_1", "weather", "{oops")
    with pytest.raises(ValidationException, match="call_1"):
        await backend.complete(ChatRequest("small", (Message("assistant", "", tool_calls=(call,)),)))


async def test_json_of_any_schema_can_be_asked_for(backend: OllamaBackend, engine: OllamaServer) -> None:
    await backend.complete(ChatRequest("small", REQUEST.messages, json_object=True))
    assert engine.script.requests[-1]["format"] == "json"


async def test_the_trace_goes_along_with_the_request_it_belongs_to_alone(
    backend: OllamaBackend, engine: OllamaServer
) -> None:
    for trace_id in ("a" * 32, None):
        await backend.complete(ChatRequest("small", REQUEST.messages, trace_id=trace_id))
        [event async for event in backend.chat(ChatRequest("small", REQUEST.messages, trace_id=trace_id))]
    assert [trace and trace[3:35] for trace in engine.script.traces] == ["a" * 32, "a" * 32, None, None]
