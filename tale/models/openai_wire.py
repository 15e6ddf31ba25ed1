"""OpenAI's chat format as engines speak it: bodies that are sent, chunks and answers that come back."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import aiohttp
from pydantic_core import from_json

from tale import exceptions
from tale.exceptions import ModelException, TaleBaseException, ValidationException
from tale.models.figures import count_of, seconds_of
from tale.models.prompt_size import CONTEXT_EXCEEDED, tells_of_length
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

LINE_LIMIT_BYTES: Final = 4 * 1024 * 1024
REASON_CHARACTERS: Final = 500
MS_PER_S: Final = 1_000
BAD_GATEWAY: Final = 502  # the status of an answer that cannot be read
FIRST_SERVER_ERROR: Final = 500
TEMPLATE_OPTIONS: Final = "chat_template_kwargs"

Json = dict[str, Any]


@dataclass(slots=True)
class Gathered:
    """What the chunks of one stream have told so far; made when the request is sent."""

    model: str
    sent_at: float = field(default_factory=time.perf_counter)
    queue_s: float | None = None
    text: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    tool_calls: dict[int, list[ToolCallPart]] = field(default_factory=dict[int, list[ToolCallPart]])
    logprobs: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    finish_reason: str | None = None
    usage: Json = field(default_factory=dict[str, Any])
    timings: Json = field(default_factory=dict[str, Any])

    def reply(self) -> Reply:
        return Reply(
            "".join(self.text),
            self.model,
            self.finish_reason,
            usage_of(self.usage),
            _timings_of(self.timings, self.queue_s),
            reasoning="".join(self.reasoning) or None,
            tool_calls=tuple(_whole(parts) for _, parts in sorted(self.tool_calls.items())),
            logprobs=self.logprobs or None,
        )


def body_of(request: ChatRequest) -> Json:
    """The body of a generation."""
    optional = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": list(request.stop) or None,
        "tools": list(request.tools) or None,
        "tool_choice": request.tool_choice,
        "response_format": _format_of(request),
    }
    told = {key: value for key, value in optional.items() if value is not None}
    return {**request.options, "model": request.model, "messages": messages_of(request), **told}


def prompt_of(request: ChatRequest) -> Json:
    """What of a request its prompt is made of, under the model's template."""
    told: Json = {"messages": messages_of(request)}
    if request.tools:
        told["tools"] = list(request.tools)
    if options := request.options.get(TEMPLATE_OPTIONS):
        told[TEMPLATE_OPTIONS] = options
    return told


def messages_of(request: ChatRequest) -> list[Json]:
    """The messages of a request."""
    return [_message(message) for message in request.messages]


async def chunks_of(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """The JSON chunks of an event stream, up to [DONE] or its end."""
    rest = b""
    async for block in response.content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            if (chunk := _chunk(data)) is not None:
                yield chunk
        if len(rest) > LINE_LIMIT_BYTES:
            raise ModelException("The engine sent a line without an end.", {"limit_bytes": LINE_LIMIT_BYTES})
    if rest.startswith(b"data:") and (chunk := _chunk(rest[5:].strip())) is not None:
        yield chunk


def _chunk(data: bytes) -> Json | None:
    if data == b"[DONE]":
        return None
    try:
        chunk = _parsed(data)
    except ValueError as error:
        raise ModelException("The engine sent a chunk that is not JSON.", {"chunk": repr(data[:80])}) from error
    return cast("Json", chunk) if isinstance(chunk, dict) else None


def _parsed(data: bytes) -> object:
    """The JSON value; one that holds half a character's escape, as a cut emoji may be sent, is read the slow way."""
    try:
        return from_json(data)
    except ValueError:
        return json.loads(data)


def events_of(chunk: Json, gathered: Gathered, *, is_whole: bool = False) -> list[Usage | PromptProgress | Delta]:
    """Take one chunk in, or an answer that `is_whole`, and tell what is new in it.

    Usage counts on whichever chunk brings it, and is told as far as it is known then. Raises ModelException for
    what is not OpenAI's form.
    """
    if "error" in chunk:
        raise refusal(None, json.dumps(chunk), gathered.model, None)
    try:
        return _news(_as_chunk(chunk) if is_whole else chunk, gathered)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _not_openai(chunk, gathered.model) from error


def vectors_of(body: Json, model: str) -> Vectors:
    """The vectors of an answer, in the order of the texts. Raises ModelException for what is not OpenAI's form."""
    try:
        rows = sorted(cast("list[Json]", body.get("data") or []), key=lambda row: int(row.get("index", 0)))
        vectors = [cast("list[float]", row["embedding"]) for row in rows]
        return Vectors(vectors, usage_of(cast("Json", body.get("usage") or {})))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _not_openai(body, model) from error


def _not_openai(told: Json, model: str) -> ModelException:
    context = {"model": model, "status": BAD_GATEWAY, "chunk": repr(told)[:REASON_CHARACTERS]}
    return ModelException("The engine answered in a form that is not OpenAI's.", context)


def _news(chunk: Json, gathered: Gathered) -> list[Usage | PromptProgress | Delta]:
    events: list[Usage | PromptProgress | Delta] = []
    if usage := chunk.get("usage"):
        gathered.usage |= usage
        events.append(usage_of(gathered.usage))
    if timings := chunk.get("timings"):
        gathered.timings |= timings
    if progress := chunk.get("prompt_progress"):
        events.append(PromptProgress(int(progress["processed"]), int(progress["total"])))
        reading_s = seconds_of(progress.get("time_ms"), MS_PER_S)
        if gathered.queue_s is None and reading_s is not None:  # told first when the engine begins with the prompt
            gathered.queue_s = max(0.0, time.perf_counter() - gathered.sent_at - reading_s)
    choices: list[Json] = chunk.get("choices") or []
    for choice in choices:
        if delta := _delta(choice, gathered):
            events.append(delta)
        gathered.finish_reason = choice.get("finish_reason") or gathered.finish_reason
    return events


def _as_chunk(body: Json) -> Json:
    """An unstreamed answer in the shape of a chunk."""
    choices: list[Json] = []
    for choice in cast("list[Json]", body.get("choices") or []):
        message = cast("Json", choice.get("message") or {})
        calls = cast("list[Json]", message.get("tool_calls") or [])
        numbered = [{"index": index, **call} for index, call in enumerate(calls)]
        choices.append({**choice, "delta": {**message, "tool_calls": numbered}})
    return {**body, "choices": choices}


async def json_of(response: aiohttp.ClientResponse) -> Json:
    """The JSON object that an engine answered. Raises ModelException."""
    try:
        body = await response.json(content_type=None)
    except ValueError as error:
        raise ModelException("The engine's answer is not JSON.", {"url": str(response.url)}) from error
    if not isinstance(body, dict):
        raise ModelException("The engine's answer is not a JSON object.", {"url": str(response.url)})
    return cast("Json", body)


def usage_of(usage: Json) -> Usage:
    """Tokens as an engine tells them."""
    input_details = cast("Json", usage.get("prompt_tokens_details") or {})
    output_details = cast("Json", usage.get("completion_tokens_details") or {})
    return Usage(
        input_tokens=count_of(usage.get("prompt_tokens")),
        output_tokens=count_of(usage.get("completion_tokens")),
        cached_tokens=count_of(input_details.get("cached_tokens")),
        reasoning_tokens=count_of(output_details.get("reasoning_tokens")),
    )


def refusal(status: int | None, body: str, model: str, url: str | None) -> TaleBaseException:
    """The engine's own words, as the exception that says whether trying again makes sense."""
    message, details = body[:REASON_CHARACTERS].strip(), cast("Json", {})
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        told: object = cast("Json", parsed).get("error") or cast("Json", parsed).get("message")
        if isinstance(told, dict):
            details = cast("Json", told)
        message = str(details.get("message") or (told if isinstance(told, str) else message))
    context: Json = {key: value for key, value in (("model", model), ("status", status), ("url", url)) if value}
    kind = getattr(exceptions, str(details.get("type")), None)
    if isinstance(kind, type) and issubclass(kind, TaleBaseException):  # another tale's model server
        return kind(message, cast("Json | None", details.get("context")))
    if details.get("type") == "exceed_context_size_error":
        tokens, room = details.get("n_prompt_tokens"), details.get("n_ctx")
        return ValidationException(
            f"The prompt has {tokens} tokens; the model's context holds {room}. Shorten it.",
            {"input_tokens": tokens, "context_tokens": room},
        )
    is_about_the_request = status is None or status < FIRST_SERVER_ERROR
    if is_about_the_request and (details.get("code") == CONTEXT_EXCEEDED or tells_of_length(message)):
        return ValidationException(
            f"The prompt and its answer do not fit the model's context; the engine said: {message}",
            {**context, "param": "messages", "code": CONTEXT_EXCEEDED},
        )
    return ModelException(f"The engine refused: {message or 'no reason given'}.".replace("..", "."), context)


def _message(message: Message) -> Json:
    told: Json = {"role": message.role, "content": list(message.parts) or message.content}
    if message.tool_calls:
        told["content"] = told["content"] or None
        told["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        told["name"] = message.name
    return told


def _format_of(request: ChatRequest) -> Json | None:
    if request.json_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(request.json_schema)}
        return {"type": "json_schema", "json_schema": schema}
    return {"type": "json_object"} if request.json_object else None


def _delta(choice: Json, gathered: Gathered) -> Delta | None:
    told: Json = choice.get("delta") or {}
    text = _text(told.get("content"))
    reasoning = _text(told.get("reasoning_content")) or _text(told.get("reasoning"))  # engines differ in its name
    logprobs: Json | None = choice.get("logprobs")
    calls: list[Json] | None = told.get("tool_calls")
    parts = tuple(_part(call, position) for position, call in enumerate(calls)) if calls else ()
    if not (text or reasoning or parts or logprobs):
        return None
    if text:
        gathered.text.append(text)
    if reasoning:
        gathered.reasoning.append(reasoning)
    for part in parts:
        gathered.tool_calls.setdefault(part.index, []).append(part)
    for name, entries in (logprobs or {}).items():
        if isinstance(entries, list):
            gathered.logprobs.setdefault(name, []).extend(cast("list[Any]", entries))
    return Delta(text, reasoning, parts, logprobs)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _part(call: Json, position: int) -> ToolCallPart:
    function = cast("Json", call.get("function") or {})
    arguments: object = function.get("arguments")
    if isinstance(arguments, Mapping):  # some engines send them parsed
        arguments = json.dumps(arguments, ensure_ascii=False)
    index: object = call.get("index")
    return ToolCallPart(
        index if isinstance(index, int) else position,
        _text(call.get("id")) or None,
        _text(function.get("name")) or None,
        _text(arguments),
    )


def _whole(parts: list[ToolCallPart]) -> ToolCall:
    call_id = next((part.id for part in parts if part.id), f"call_{parts[0].index}")
    name = next((part.name for part in parts if part.name), "")
    return ToolCall(call_id, name, "".join(part.arguments for part in parts))


def _timings_of(timings: Json, queue_s: float | None) -> EngineTimings:
    """llama.cpp's milliseconds as seconds; unknown where an engine tells none."""
    return EngineTimings(
        queue_s=queue_s,
        prefill_s=seconds_of(timings.get("prompt_ms"), MS_PER_S),
        decode_s=seconds_of(timings.get("predicted_ms"), MS_PER_S),
    )
