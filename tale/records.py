"""Values that cross modules. Unknown is None, never 0; names carry their units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from tale.credentials import Scope

Role = Literal["ux", "task"]
ACKNOWLEDGE: Final = "acknowledge"  # the operation by which the small model says what a task is about, beside the work


class TaskStatus(StrEnum):
    """Where a task stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the task will never change again."""
        return self in (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


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
    """Seconds as the engine measured them."""

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


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One row per model call; seconds, tokens, and a wall-clock start in Unix seconds."""

    id: str
    started_at: float
    role: str
    operation: str
    model: str
    provider: str
    priority: int | None = None
    task_id: str | None = None
    attempt: int | None = None
    conversation_id: str | None = None
    trace_id: str | None = None
    requested_model: str | None = None  # differs from `model` when another had to answer
    route_reason: str | None = None
    budget_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    queue_s: float | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    other_s: float | None = None
    time_to_first_token_s: float | None = None
    total_s: float | None = None
    ended_at: float | None = None  # None while the call runs
    finish_reason: str | None = None
    error_class: str | None = None
    error: str | None = None
    key_name: str | None = None  # whose key asked for it
    engine: str | None = None  # the address of the engine that served it last; None where it has none
    owner: str | None = None  # host and home of the process that makes it


@dataclass(frozen=True, slots=True)
class McpCall:
    """One row per MCP request a server answered."""

    id: str
    started_at: float
    server: str
    method: str
    latency_s: float
    outcome: Literal["ok", "tool_error", "error", "cancelled"]
    tool: str | None = None
    task_id: str | None = None
    trace_id: str | None = None
    error_class: str | None = None
    error: str | None = None
    key_name: str | None = None  # whose key asked; None where nobody has to show one


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key that clients may send; of the key itself only the digest is known. Times are Unix seconds."""

    id: str
    name: str
    scope: Scope
    digest: str
    created_at: float
    revoked_at: float | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task as its row tells it; times are Unix seconds."""

    id: str
    text: str
    status: TaskStatus
    created_at: float
    priority: int = 0  # larger is more urgent
    timeout_s: int = 0
    max_output_tokens: int | None = None
    attempt: int = 0  # of the claim in force; fences late completions
    failures: int = 0  # attempts that failed or died
    conversation_id: str | None = None
    idempotency_key: str | None = None
    trace_id: str | None = None
    started_at: float | None = None  # of the latest attempt
    ended_at: float | None = None
    cancel_requested_at: float | None = None
    model: str | None = None
    role: str | None = None
    route_reason: str | None = None
    result: str | None = None  # whole when completed, partial otherwise
    finish_reason: str | None = None
    error_class: str | None = None
    error: str | None = None
    expect: str | None = None  # JSON: what the answer is checked against
    deadline_at: float | None = None
    open_dependencies: int = 0  # tasks it waits for that have not completed
    with_results: bool = False  # the results of those tasks are part of its prompt
    attached_files: int = 0
    key_name: str | None = None  # whose key handed it in


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of text that comes with a task."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task that is to be stored, the ids of those it waits for, and the files that come with it."""

    task: Task
    after: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a task."""

    task_id: str
    number: int
    started_at: float
    ended_at: float | None = None
    outcome: str | None = None  # completed, failed, cancelled, handed_back, lost; None while it runs
    model: str | None = None
    error_class: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TokenTotals:
    """Sums over the model calls of one task, conversation or day; None where nothing was reported.

    Tokens are those of all calls; times leave out acknowledgements, which run beside the work.
    """

    calls: int
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    queue_s: float | None = None
    load_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    time_to_first_token_s: float | None = None  # of the first call


@dataclass(frozen=True, slots=True)
class ConversationTurn:
    """One message of a kept conversation."""

    conversation_id: str
    position: int
    role: Literal["system", "user", "assistant"]
    content: str
    created_at: float
    model_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened for one task or one request, each kind in the order of the starts."""

    id: str | None
    task: Task | None
    requests: tuple[McpCall, ...]
    calls: tuple[ModelCall, ...]
