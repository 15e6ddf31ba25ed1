"""What is written down of calls, and of those who may make them."""

from dataclasses import dataclass
from typing import Final, Literal

from tale.credentials import Scope
from tale.records.tasks import Task

CHAT: Final = "chat"  # the operation of an answer in a chat, of ours or of a client of the OpenAI-compatible address
ACKNOWLEDGE: Final = "acknowledge"  # the operation by which the small model says what a task is about, beside the work


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
    """One row per MCP or HTTP request a server answered; of which there is none, `servers.http_calls` says."""

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
class Trace:
    """What happened for one task or one request, each kind in the order of the starts."""

    id: str | None
    task: Task | None
    requests: tuple[McpCall, ...]
    calls: tuple[ModelCall, ...]
