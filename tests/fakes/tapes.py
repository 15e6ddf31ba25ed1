"""What a played engine sends in one call, line by line, and what a client is right to make of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tale.records import Usage

Ending = Literal["well", "quiet", "cut", "cut in a line", "error", "garbage", "stall", "refused", "lost"]
FINISH = "stop"
TOOL, ARGUMENTS = "look_up", '{"word": "Grüße"}'
ESCAPED_BY_GO = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029"})  # in which Ollama is written
BOOM = "The engine has run out of memory"


@dataclass(frozen=True)
class Story:
    """One call as its engine plays it; `usage` holds what OpenAI's API has names for, by its own or Ollama's names.

    It ends as `ending` says after `lines` lines; "well" and "lost" play them all, "lost" only at the second try.
    """

    words: tuple[str, ...] = ("Hello",)
    reasoning: str = ""
    calls_tool: bool = False
    usage: tuple[tuple[str, int], ...] = ()
    usage_at: Literal["last", "own line", "every", "first", "spread"] = "own line"
    timings_ms: tuple[float, float] | None = None  # prefill, decode
    ending: Ending = "well"
    lines: int = 0
    newline: str = "\n"
    says_done: bool = True
    piece_bytes: int | None = None  # written at a time, so that characters and lines are split


@dataclass(frozen=True)
class Line:
    """A line, and what it adds."""

    data: bytes
    text: str = ""
    usage: tuple[tuple[str, int], ...] = ()
    ends: bool = False


def openai_tape(story: Story) -> list[Line]:
    """The lines of an OpenAI-compatible engine."""
    deltas: list[tuple[dict[str, Any], str]] = []
    if story.reasoning:
        deltas.append(({"reasoning_content": story.reasoning}, ""))
    deltas += [({"content": word}, word) for word in story.words]
    if story.calls_tool:
        function = {"name": TOOL, "arguments": ARGUMENTS[:7]}
        deltas.append(({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}, ""))
        deltas.append(({"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[7:]}}]}, ""))
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta, _ in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": FINISH}]})
    if story.timings_ms:
        chunks[-1]["timings"] = dict(zip(("prompt_ms", "predicted_ms"), story.timings_ms, strict=True))
    if story.usage and story.usage_at == "own line":
        chunks.append({"choices": []})
    told = _usage_by_chunk(story, len(chunks))
    for chunk, usage in zip(chunks, told, strict=True):
        if usage:
            chunk["usage"] = _openai_usage(dict(usage))
    texts = [*(text for _, text in deltas), *("" for _ in chunks[len(deltas) :])]
    end = story.newline * 2
    lines = [
        Line(f"data: {json.dumps(chunk, ensure_ascii=False)}{end}".encode(), text, usage, ends=number >= len(deltas))
        for number, (chunk, text, usage) in enumerate(zip(chunks, texts, told, strict=True))
    ]
    return [*lines, Line(f"data: [DONE]{end}".encode(), ends=True)] if story.says_done else lines


def ollama_tape(story: Story, model: str) -> list[Line]:
    """The lines of Ollama, whose last one alone tells figures."""
    said: list[tuple[dict[str, Any], str]] = [({"content": "", "thinking": story.reasoning}, "")] * bool(
        story.reasoning
    )
    said += [({"content": word}, word) for word in story.words]
    if story.calls_tool:
        function = {"name": TOOL, "arguments": json.loads(ARGUMENTS)}
        said.append(({"content": "", "tool_calls": [{"function": function}]}, ""))
    last: dict[str, Any] = {"done": True, "done_reason": FINISH}
    names = {"input": "prompt_eval_count", "output": "eval_count"}
    usage = tuple((name, value) for name, value in story.usage if name in names)
    last |= {names[name]: value for name, value in usage}
    if story.timings_ms:
        durations = dict(zip(("prompt_eval_duration", "eval_duration"), story.timings_ms, strict=True))
        last |= {name: int(value * 1e6) for name, value in durations.items()} | {"load_duration": 0}
    said.append(({"content": "", **last}, ""))
    lines: list[Line] = []
    for number, (message, text) in enumerate(said):
        at_end = number == len(said) - 1
        figures = {key: message.pop(key) for key in list(message) if key in last} if at_end else {"done": False}
        value = {"model": model, "message": {"role": "assistant", **message}, **figures}
        told = json.dumps(value, ensure_ascii=False).translate(ESCAPED_BY_GO)
        data = told.encode() + b"\n"
        lines.append(Line(data, text, usage if at_end else (), ends=at_end))
    return lines


def usage_of(lines: Sequence[Line]) -> Usage:
    """What lines report together."""
    told: dict[str, int] = {}
    for line in lines:
        told |= dict(line.usage)
    return Usage(**{f"{name}_tokens": value for name, value in told.items()})


def _usage_by_chunk(story: Story, chunks: int) -> list[tuple[tuple[str, int], ...]]:
    """Which chunk brings which figures; on every chunk, the output counts up."""
    told: list[tuple[tuple[str, int], ...]] = [()] * chunks
    if story.usage_at in ("last", "own line"):
        told[-1] = story.usage
    elif story.usage_at == "first":
        told[0] = story.usage
    elif story.usage_at == "spread":
        for number, figure in enumerate(story.usage):
            told[number % chunks] += (figure,)
    else:
        for number in range(chunks):
            share = (number + 1) / chunks
            told[number] = tuple((n, int(v * share) if n == "output" else v) for n, v in story.usage)
    return told


def _openai_usage(usage: Mapping[str, int]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if "input" in usage:
        told["prompt_tokens"] = usage["input"]
    if "output" in usage:
        told["completion_tokens"] = usage["output"]
    if "cached" in usage:
        told["prompt_tokens_details"] = {"cached_tokens": usage["cached"]}
    if "reasoning" in usage:
        told["completion_tokens_details"] = {"reasoning_tokens": usage["reasoning"]}
    return told
