"""Answers in OpenAI's form: whole ones, chunks of streams, figures, and failures."""

import base64
import json
import struct
from collections.abc import Sequence
from typing import Any, Final, Literal

from tale.records import Delta, Reply, ToolCall, ToolCallPart, Usage, Vectors

MS: Final = 1000
DONE: Final = b"data: [DONE]\n\n"
PING: Final = b": ping\n\n"

Json = dict[str, Any]


def event(chunk: Json) -> bytes:
    """A chunk as one server-sent event; json escapes what UTF-8 cannot hold."""
    return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n".encode()


def delta_of(part: Delta) -> Json:
    """What is new, as the `delta` of a chunk."""
    told: Json = {}
    if part.text:
        told["content"] = part.text
    if part.reasoning:
        told["reasoning_content"] = part.reasoning
    if part.tool_calls:
        told["tool_calls"] = [_call_part(call) for call in part.tool_calls]
    return told


def message_of(reply: Reply) -> Json:
    """The assistant's message of a whole answer."""
    told: Json = {"role": "assistant", "content": reply.text or (None if reply.tool_calls else "")}
    if reply.reasoning is not None:
        told["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        told["tool_calls"] = [_call(call) for call in reply.tool_calls]
    return told


def finish_reason_of(reply: Reply) -> str:
    """Why it ended, in OpenAI's words; engines that ask for tools say `stop` as well."""
    reason = reply.finish_reason or "stop"
    return "tool_calls" if reply.tool_calls and reason == "stop" else reason


def choice_of(reply: Reply) -> Json:
    """The one choice of a whole answer."""
    choice = {"index": 0, "message": message_of(reply), "finish_reason": finish_reason_of(reply)}
    return choice if reply.logprobs is None else {**choice, "logprobs": reply.logprobs}


def usage_of(usage: Usage) -> Json | None:
    """The tokens; None where the engine told none."""
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    told: Json = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": (usage.input_tokens or 0) + (usage.output_tokens or 0),
    }
    if usage.cached_tokens is not None:
        told["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        told["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return told


def timings_of(reply: Reply) -> Json:
    """What the engine measured, in llama.cpp's words."""
    return {"prompt_ms": _ms(reply.timings.prefill_s), "predicted_ms": _ms(reply.timings.decode_s)}


def embeddings_of(vectors: Vectors, model: str, encoding: Literal["float", "base64"]) -> Json:
    """The answer to a request for vectors."""
    rows = [
        {"object": "embedding", "index": index, "embedding": _packed(row) if encoding == "base64" else row}
        for index, row in enumerate(vectors.rows)
    ]
    tokens = vectors.usage.input_tokens
    usage = None if tokens is None else {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": rows, "model": model, "usage": usage}


def _packed(row: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode("ascii")


def _call(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _call_part(part: ToolCallPart) -> Json:
    function: Json = {"arguments": part.arguments}
    if part.name is not None:
        function["name"] = part.name
    told: Json = {"index": part.index, "function": function}
    return told if part.id is None else {**told, "id": part.id, "type": "function"}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * MS
