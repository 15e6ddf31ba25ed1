"""Clients of OpenAI's API get on with the gateway: answers, streams, models, vectors, failures, keys, rows."""

import asyncio
import base64
import io
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes.engine_script import EngineScript
from fakes.openai_gateway import CHAT, MESSAGES, Answer, Gateway, openai_gateway
from fakes.openai_server import OpenAIServer
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import rows, running, settings_for, until

from tale.credentials import Scope
from tale.storage.key_store import KeyStore

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALLS = [("call_a", "weather", '{"place": "Bâle"}')]
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 3,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
MODEL_CALLS = "SELECT * FROM model_calls ORDER BY started_at"
HTTP_CALLS = "SELECT * FROM mcp_calls ORDER BY started_at"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with openai_gateway(tmp_path, OpenAIServer()) as gateway:
        yield gateway


async def test_a_chat_is_answered_with_its_tokens(gateway: Gateway) -> None:
    answer = await gateway.chat(max_completion_tokens=9, temperature=0.5, stop="END", user="ignored")
    told = answer.json
    assert (answer.status, told["object"], told["model"], told["usage"]) == (200, "chat.completion", "small", USAGE)
    message = {"role": "assistant", "content": "Hello world!"}
    assert told["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    (sent,) = gateway.engine.script.requests
    assert (sent["max_tokens"], sent["temperature"], sent["stop"]) == (9, 0.5, ["END"])
    assert "user" not in sent


async def test_a_stream_says_what_the_whole_answer_says(gateway: Gateway) -> None:
    whole = (await gateway.chat()).json
    stream = await gateway.chat(stream=True, stream_options={"include_usage": True})
    assert stream.headers["Content-Type"] == "text/event-stream"
    assert stream.words == whole["choices"][0]["message"]["content"]
    *_, ending, figures = stream.chunks
    assert (figures["choices"], figures["usage"]) == ([], whole["usage"])
    assert (ending["choices"][0]["finish_reason"], "usage" in ending) == ("stop", False)
    assert stream.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {(chunk["id"], chunk["model"]) for chunk in stream.chunks} == {(stream.chunks[0]["id"], "small")}


async def test_who_says_nothing_of_usage_finds_it_on_the_last_chunk(gateway: Gateway) -> None:
    assert (await gateway.chat(stream=True)).chunks[-1]["usage"] == USAGE
    without = (await gateway.chat(stream=True, stream_options={"include_usage": False})).chunks
    assert not any("usage" in chunk for chunk in without)


async def test_an_engine_that_counts_nothing_leaves_the_usage_open(gateway: Gateway) -> None:
    gateway.engine.habits.usage = "none"
    assert (await gateway.chat()).json["usage"] is None
    assert (await gateway.chat(stream=True)).chunks[-1]["usage"] is None
    assert {call["output_tokens"] for call in rows(gateway.process.settings, MODEL_CALLS)} == {None}


async def test_characters_that_the_engine_cuts_in_two_arrive_whole(gateway: Gateway) -> None:
    gateway.engine.script.words = ["Zürich ", "🦊 und ", '"Anführung"\n', "\\ end\u2028"]
    gateway.engine.habits.piece = 3
    whole = (await gateway.chat()).json["choices"][0]["message"]["content"]
    assert (await gateway.chat(stream=True)).words == whole == "".join(gateway.engine.script.words)


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_go_to_the_engine_and_its_calls_come_back(gateway: Gateway, stream: bool) -> None:
    gateway.engine.script.words, gateway.engine.script.calls = [], CALLS
    answer = await gateway.chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=False, stream=stream)
    sent = gateway.engine.script.requests[-1]
    assert (sent["tools"], sent["tool_choice"], sent["parallel_tool_calls"]) == (TOOLS, "required", False)
    if stream:
        choices = [choice for chunk in answer.chunks for choice in chunk["choices"]]
        parts = [part for choice in choices for part in choice["delta"].get("tool_calls", [])]
        assert (parts[0]["id"], parts[0]["function"]["name"]) == ("call_a", "weather")
        assert "".join(part["function"]["arguments"] for part in parts) == CALLS[0][2]
        assert choices[-1]["finish_reason"] == "tool_calls"
    else:
        (choice,) = answer.json["choices"]
        function = {"name": "weather", "arguments": CALLS[0][2]}
        assert choice["message"]["tool_calls"] == [{"id": "call_a", "type": "function", "function": function}]
        assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")


async def test_the_answer_of_a_tool_goes_back_to_the_engine(gateway: Gateway) -> None:
    call = {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_a", "content": "sun"},
    ]
    assert (await gateway.chat(messages=messages)).status == 200
    (sent,) = gateway.engine.script.requests
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["messages"][2:] == messages[2:]


async def test_pictures_and_a_schema_reach_the_engine(gateway: Gateway) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    content = [{"type": "text", "text": "What is it?"}, picture]
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema}}
    assert (await gateway.chat(messages=[{"role": "user", "content": content}], response_format=form)).status == 200
    (sent,) = gateway.engine.script.requests
    assert sent["messages"][0]["content"] == content
    assert sent["response_format"]["json_schema"]["schema"] == schema
    await gateway.chat(response_format={"type": "json_object"})
    assert gateway.engine.script.requests[-1]["response_format"] == {"type": "json_object"}


async def test_reasoning_comes_beside_the_text(gateway: Gateway) -> None:
    gateway.engine.script.reasoning = "Let me think."
    (choice,) = (await gateway.chat()).json["choices"]
    assert choice["message"]["reasoning_content"] == "Let me think."
    stream = await gateway.chat(stream=True)
    assert stream.chunks[0]["choices"][0]["delta"]["reasoning_content"] == "Let me think."
    assert stream.words == "Hello world!"


async def test_the_models_are_listed_with_those_that_tale_chooses(gateway: Gateway) -> None:
    listed = (await gateway.ask("/v1/models")).json["data"]
    assert [model["id"] for model in listed] == ["small", "large", "tale-auto", "tale-ux", "tale-task"]
    assert {model["owned_by"] for model in listed} == {"openai", "tale"}
    for model in listed:
        assert (await gateway.ask(f"/v1/models/{model['id']}")).json == model
    unknown = await gateway.ask("/v1/models/gpt-9/mini")
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("name", "served", "reason"),
    [
        ("tale-ux", "small", None),
        ("tale-task", "large", None),
        ("large", "large", None),
        ("tale-auto", "small", "tale-auto: chat goes to the small model"),
        ("", "small", "tale-auto: chat goes to the small model"),
    ],
)
async def test_each_name_has_its_model(gateway: Gateway, name: str, served: str, reason: str | None) -> None:
    assert (await gateway.chat(model=name)).json["model"] == served
    (call,) = rows(gateway.process.settings, MODEL_CALLS)
    role = "task" if served == "large" else "ux"
    assert (call["model"], call["role"], call["route_reason"]) == (served, role, reason)


async def test_vectors_come_as_numbers_and_packed(gateway: Gateway) -> None:
    body = {"model": "small", "input": ["one", "two words"]}
    told = (await gateway.ask("/v1/embeddings", body)).json
    assert [row["embedding"] for row in told["data"]] == [[3.0], [9.0]]
    assert told["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    packed = (await gateway.ask("/v1/embeddings", {**body, "encoding_format": "base64"})).json
    assert [struct.unpack("<f", base64.b64decode(row["embedding"])) for row in packed["data"]] == [(3.0,), (9.0,)]
    (first, _) = rows(gateway.process.settings, MODEL_CALLS)
    assert (first["operation"], first["input_tokens"]) == ("embed", 3)


@pytest.mark.parametrize("given", [[1, 2], [[1, 2]], [], "", ["a"] * 2_049, 5, None])
async def test_what_is_no_text_cannot_be_embedded(gateway: Gateway, given: object) -> None:
    answer = await gateway.ask("/v1/embeddings", {"model": "small", "input": given})
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "film"}]}]}, "messages.0.content.list[tagged-union].0"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**20}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
async def test_what_cannot_be_served_is_refused_with_the_place_at_fault(
    gateway: Gateway, change: dict[str, Any], param: str
) -> None:
    answer = await gateway.chat(**change)
    error = answer.json["error"]
    assert (answer.status, error["type"]) == (400, "invalid_request_error")
    assert param in (error["param"], error["message"]) or param.split(".")[0] in error["param"]
    assert gateway.engine.script.requests == []


@pytest.mark.parametrize("body", ["{not json", b"\xff\xfe", "[]", "null", '"x"', '{"messages": "' + "x" * 99])
async def test_what_is_no_json_object_is_refused(gateway: Gateway, body: str | bytes) -> None:
    answer = await gateway.ask(CHAT, body)
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


async def test_a_model_that_is_not_here_is_told_with_those_that_are(gateway: Gateway) -> None:
    answer = await gateway.chat(model="gpt-9")
    error = answer.json["error"]
    assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "small, large, tale-auto" in error["message"]


async def test_paths_and_methods_that_are_not_served_are_refused_in_the_same_form(gateway: Gateway) -> None:
    assert (await gateway.ask("/v1/audio/speech", {})).json["error"]["code"] == "not_found"
    wrong = await gateway.ask(CHAT)
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    assert wrong.json["error"]["code"] == "method_not_supported"


@pytest.mark.parametrize(("engines", "ours"), [(400, 400), (429, 429), (401, 502), (404, 502), (500, 502), (503, 502)])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses_has_a_status_of_its_own(
    gateway: Gateway, engines: int, ours: int, stream: bool
) -> None:
    gateway.engine.script.refuse = (engines, {"error": {"message": "It is so."}})
    answer = await gateway.chat(stream=stream)
    assert (answer.status, answer.json["error"]["message"]) == (ours, "The engine refused: It is so.")
    (call,) = rows(gateway.process.settings, HTTP_CALLS)
    assert (call["outcome"], call["error_class"]) == ("error", "ModelException")


async def test_a_prompt_beyond_the_context_is_told_with_openai_s_code(gateway: Gateway) -> None:
    told = {"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 9_000, "n_ctx": 4_096}}
    gateway.engine.script.refuse = (400, told)
    error = (await gateway.chat()).json["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")


async def test_an_engine_that_breaks_off_is_told_in_the_stream(gateway: Gateway) -> None:
    gateway.engine.script.break_after = 2
    answer = await gateway.chat(stream=True)
    assert answer.status == 200
    assert "error" in answer.chunks[-1]
    (call,) = rows(gateway.process.settings, HTTP_CALLS)
    assert (call["outcome"], call["error_class"]) == ("error", "NetworkException")
    whole = await gateway.chat()
    assert (whole.status, whole.json["error"]["type"]) == (503, "server_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_engine(gateway: Gateway, stream: bool) -> None:
    gateway.engine.script.gate = asyncio.Event()
    asking = asyncio.create_task(gateway.chat(stream=stream))
    await gateway.engine.script.started.wait()
    asking.cancel()
    await gateway.engine.script.left.wait()
    await until(lambda: [call["outcome"] for call in rows(gateway.process.settings, HTTP_CALLS)] == ["cancelled"])
    (call,) = rows(gateway.process.settings, MODEL_CALLS)
    assert (call["finish_reason"], call["error_class"]) == ("cancelled", "Cancelled")


async def test_a_stop_of_the_server_is_told_in_the_stream(gateway: Gateway) -> None:
    gateway.engine.script.gate = asyncio.Event()
    body = {"model": "small", "messages": MESSAGES, "stream": True}
    async with gateway.session.post(f"{gateway.url}{CHAT}", json=body) as response:
        first = await response.content.readline()
        await gateway.process.stack.aclose()
        answer = Answer(response.status, response.headers, (first + await response.read()).decode())
    assert (answer.chunks[0]["model"], answer.chunks[-1]["error"]["type"]) == ("small", "server_error")
    assert "stopping" in answer.chunks[-1]["error"]["message"]
    (call,), (model_call,) = rows(gateway.process.settings, HTTP_CALLS), rows(gateway.process.settings, MODEL_CALLS)
    assert (call["outcome"], model_call["finish_reason"]) == ("cancelled", "cancelled")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_before_the_answer_has_begun_is_told_by_the_status(gateway: Gateway, stream: bool) -> None:
    gateway.engine.script.words, gateway.engine.script.gate = [""] * 2, asyncio.Event()
    asking = asyncio.create_task(gateway.chat(stream=stream))
    await gateway.engine.script.started.wait()
    await gateway.process.stack.aclose()
    answer = await asking
    assert (answer.status, answer.json["error"]["type"]) == (503, "server_error")


async def test_both_rows_are_there_when_the_last_byte_is(gateway: Gateway) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    body = {"model": "small", "messages": MESSAGES, "stream": True}
    url = f"{gateway.url}{CHAT}"
    async with gateway.session.post(url, json=body, headers=headers) as response:
        while await response.content.readline() != b"data: [DONE]\n":
            pass
        found = rows(gateway.process.settings, MODEL_CALLS), rows(gateway.process.settings, HTTP_CALLS)
        request_id = response.headers["x-request-id"]
    (model_call,), (http_call,) = found
    assert (model_call["output_tokens"], model_call["trace_id"], model_call["priority"]) == (3, trace, 0)
    assert (http_call["server"], http_call["method"]) == ("tale-gateway", "POST /v1/chat/completions")
    assert (http_call["outcome"], http_call["trace_id"]) == ("ok", trace)
    assert http_call["id"].replace("-", "") == request_id
    (sent_on,) = gateway.engine.script.traces
    assert sent_on is not None
    assert sent_on[3:35] == trace


async def test_keys_are_asked_for_and_named_in_the_rows(gateway: Gateway) -> None:
    store = KeyStore(gateway.process.shared.database)
    scopes = {"laptop": Scope.SUBMIT, "dashboard": Scope.READ}
    keys = {name: (await store.create(name, scope, now=1.0))[1] for name, scope in scopes.items()}

    async def ask(name: str, path: str = CHAT, body: object = None) -> Any:
        return await gateway.ask(path, body, headers={"Authorization": f"Bearer {keys.get(name, 'wrong')}"})

    body = {"model": "small", "messages": MESSAGES}
    await until(lambda: _refuses(gateway))
    stranger = await ask("nobody", body=body)
    assert (stranger.status, stranger.json["error"]["code"]) == (401, "invalid_api_key")
    assert stranger.headers["WWW-Authenticate"].startswith("Bearer")
    looker = await ask("dashboard", body=body)
    assert (looker.status, looker.json["error"]["type"]) == (403, "permission_error")
    assert (await ask("dashboard", "/v1/models")).status == 200
    assert (await ask("laptop", body=body)).status == 200
    assert rows(gateway.process.settings, MODEL_CALLS)[-1]["key_name"] == "laptop"
    assert rows(gateway.process.settings, HTTP_CALLS)[-1]["key_name"] == "laptop"


async def _refuses(gateway: Gateway) -> bool:
    return (await gateway.ask("/v1/models")).status == 401


async def test_who_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    limits = {"rate_limit_per_s": 0.01, "rate_limit_burst": 1}
    async with openai_gateway(tmp_path, OpenAIServer(), **limits) as gateway:
        _, key = await KeyStore(gateway.process.shared.database).create("k", Scope.SUBMIT, now=1.0)
        headers = {"Authorization": f"Bearer {key}"}
        await until(lambda: _refuses(gateway))
        answers = [await gateway.ask("/v1/models", headers=headers) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 429]
        assert answers[1].json["error"]["code"] == "rate_limit_exceeded"
        assert int(answers[1].headers["Retry-After"]) > 0


async def test_a_body_that_is_too_large_is_refused(gateway: Gateway) -> None:
    body = {"messages": [{"role": "user", "content": "x" * 5_000_000}]}
    answer = await gateway.ask(CHAT, io.BytesIO(json.dumps(body).encode()))
    assert (answer.status, answer.json["error"]["code"]) == (413, "request_too_large")


async def test_a_database_that_takes_nothing_more_refuses_calls(gateway: Gateway) -> None:
    await gateway.ask("/v1/models")  # reads the keys, of which there are none
    await gateway.process.shared.database.close()
    answer = await gateway.chat()
    assert (answer.status, answer.json["error"]["type"]) == (503, "server_error")


@pytest.mark.parametrize(
    ("words", "tokens", "larger", "served"),
    [
        *((3, None, 900, "small"), (100, 200, 900, "small"), (100, 360, 900, "large"), (100, None, 900, "small")),
        *((300, None, 900, "large"), (300, None, 400, "small"), (600, None, 900, "large")),
        ("字" * 360, None, 900, "large"),
    ],
)
async def test_tale_auto_takes_the_larger_model_for_what_the_small_one_cannot_hold(
    tmp_path: Path, words: int | str, tokens: int | None, larger: int, served: str
) -> None:
    backend = ScriptedBackend(context_tokens=400)
    backend.contexts["large"], backend.tokens = larger, tokens
    content = words if isinstance(words, str) else "word " * words
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 50}
    async with (
        running(settings_for(tmp_path), ("gateway",), backend=backend) as process,
        aiohttp.ClientSession() as session,
        session.post(f"{process.settings.url_of('gateway')}{CHAT}", json=body) as response,
    ):
        assert (await response.json())["model"] == served
        (call,) = rows(process.settings, MODEL_CALLS)
    count = f"about {len(content.encode()) // 3:,}" if tokens is None else tokens
    exceeds = f"tale-auto: {count} tokens and 50 to answer exceed the small model's 400"
    assert call["route_reason"] == ("tale-auto: the chat fits the small model" if served == "small" else exceeds)


async def test_while_nothing_is_said_comments_show_that_the_gateway_lives(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = OpenAIServer(EngineScript(gate=gate))
    async with openai_gateway(tmp_path, engine, http_timeout_s=0.02) as gateway:
        body = {"model": "small", "messages": MESSAGES, "stream": True}
        async with gateway.session.post(f"{gateway.url}{CHAT}", json=body) as response:
            while await response.content.readline() != b": ping\n":
                pass
            gate.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
