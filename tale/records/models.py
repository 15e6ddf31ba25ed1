"""What passes between tale and its models: requests, pieces of answers, replies, and what models there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["ux", "task"]


class Priority:
    """Who goes first when several want a model; a smaller number is served earlier."""

    CHAT = 0
    TASK = 10
    BACKGROUND = 20


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool as a model asks for it; `arguments` is JSON as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A piece of a tool call as it streams: `index` tells which call, id and name come once, arguments bit by bit."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat as an engine reads it."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    parts: Sequence[Mapping[str, Any]] = ()  # in OpenAI's form, in place of `content` where that is not only text
    tool_calls: Sequence[ToolCall] = ()  # what the assistant asked for
    tool_call_id: str | None = None  # which of them a tool's message answers
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a backend is asked to generate. Tools, tool_choice and options are in OpenAI's form."""

    model: str
    messages: Sequence[Message]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    json_schema: Mapping[str, Any] | None = None
    json_object: bool = False  # JSON is wanted, of whatever schema
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # further ones, for engines that know them
    trace_id: str | None = None  # sent along, so that an engine's own traces belong to ours


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text as the engine produced it; or of its reasoning, or of the tool calls it asks for."""

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()
    logprobs: Mapping[str, Any] | None = None  # in OpenAI's form


@dataclass(frozen=True, slots=True)
class Dispatched:
    """The pool's first event: the model that serves the call is ready and the engine starts on it now."""

    model: str
    role: Role
    route_reason: str | None = None


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How much of the prompt the engine has read, while no text flows yet."""

    processed_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the engine counted them; cached tokens are part of the input tokens."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EngineTimings:
    """Seconds as the engine measured them; `queue_s` ends when it begins with the prompt, the way there included."""

    queue_s: float | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a generation: the whole text and what the engine says of it."""

    text: str
    model: str
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    timings: EngineTimings = field(default_factory=EngineTimings)
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """One vector a text, in the order of the texts, and what reading them took."""

    rows: list[list[float]]
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model as a backend knows it."""

    name: str
    size_bytes: int | None = None  # of the file
    memory_bytes: int | None = None  # while loaded
    context_tokens: int | None = None
    loaded: bool = False
    available: bool = True  # its files are there
    licence: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far the download of a model has come."""

    model: str
    done_bytes: int
    total_bytes: int | None
    source: str


@dataclass(frozen=True, slots=True)
class CallContext:
    """Why a model is called and by whom: everything of a call's row that the caller knows."""

    role: Role
    operation: str  # chat, execute, acknowledge, summarize, embed, …
    priority: int = Priority.TASK
    task_id: str | None = None
    attempt: int | None = None
    conversation_id: str | None = None
    trace_id: str | None = None
    route_reason: str | None = None
    key_name: str | None = None  # whose key asked for it
