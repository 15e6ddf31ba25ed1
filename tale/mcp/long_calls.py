"""The protocol's tasks extension (SEP-2663): a call that takes long becomes a task that its client asks after.

The protocol calls it a task; here it is a long call, since tale's own tasks are something else.
"""

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol, TypeVar

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
    ErrorData,
    InputRequest,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel

from tale.exceptions import TaleBaseException
from tale.mcp.wire import Message

EXTENSION: Final = "io.modelcontextprotocol/tasks"
MS: Final = 1000
COMPLETE: Final[Message] = {"resultType": "complete"}

Request = ServerRequestContext[Any]
Answer = TypeVar("Answer")
Status = Literal["working", "input_required", "completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LongCall:
    """How a long call stands; times in Unix seconds. `kept_s` None: for good."""

    task_id: str
    status: Status
    created_at: float
    updated_at: float
    message: str | None = None
    result: CallToolResult | None = None  # of a completed one, be it good or a tool's error
    error: ErrorData | None = None  # of a failed one
    questions: Mapping[str, InputRequest] = field(default_factory=dict[str, InputRequest])  # of one that needs input
    kept_s: float | None = None
    poll_interval_s: float = 1.0


class LongCalls(Protocol):
    """Where a server keeps its long calls. Each method raises TaleBaseException for an id that is unknown."""

    async def get(self, task_id: str) -> LongCall:
        """How it stands."""
        ...

    async def cancel(self, task_id: str) -> None:
        """End it; nothing happens to one that has ended."""
        ...

    async def answer(self, task_id: str, answers: Mapping[str, Any]) -> None:
        """Take the client's answers to its questions; those to no open question are ignored."""
        ...


class BecameTask(Exception):
    """Ends a call that goes on as a task."""

    def __init__(self, call: LongCall) -> None:
        super().__init__(call.task_id)
        self.result: Message = {"resultType": "task", **_base(call)}


def takes_tasks(request: Request) -> bool:
    """Whether the client of a request declared the extension."""
    declared = request.session.client_capabilities
    is_modern = request.protocol_version in MODERN_PROTOCOL_VERSIONS
    return is_modern and declared is not None and EXTENSION in (declared.extensions or {})


class _TaskParams(RequestParams):
    task_id: str


class _UpdateParams(_TaskParams):
    input_responses: dict[str, Any]


class LongCallMethods:
    """Serves the extension's methods from `calls`."""

    def __init__(self, calls: LongCalls) -> None:
        self._calls = calls

    def serve(self, kernel: Server[Any]) -> None:
        """Have a kernel serve them, and declare the extension."""
        kernel.extensions[EXTENSION] = {}
        kernel.add_request_handler("tasks/get", _TaskParams, self._get)
        kernel.add_request_handler("tasks/update", _UpdateParams, self._update)
        kernel.add_request_handler("tasks/cancel", _TaskParams, self._cancel)

    async def _get(self, request: Request, params: _TaskParams) -> Message:
        require_tasks(request)
        return {**COMPLETE, **_detailed(await _known(self._calls.get(params.task_id), params.task_id))}

    async def _update(self, request: Request, params: _UpdateParams) -> Message:
        require_tasks(request)
        await _known(self._calls.answer(params.task_id, params.input_responses), params.task_id)
        return dict(COMPLETE)

    async def _cancel(self, request: Request, params: _TaskParams) -> Message:
        require_tasks(request)
        await _known(self._calls.cancel(params.task_id), params.task_id)
        return dict(COMPLETE)


def require_tasks(request: Request) -> None:
    """Refuse a request of a client that does not take tasks."""
    if request.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(METHOD_NOT_FOUND, "Method not found", request.method)
    if not takes_tasks(request):
        needed: Message = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, f"The client has to declare {EXTENSION}", needed)


async def _known(answer: Awaitable[Answer], task_id: str) -> Answer:
    try:
        return await answer
    except TaleBaseException as error:
        raise MCPError(INVALID_PARAMS, error.message, {"taskId": task_id}) from error


def _base(call: LongCall) -> Message:
    return {
        "taskId": call.task_id,
        "status": call.status,
        **({} if call.message is None else {"statusMessage": call.message}),
        "createdAt": _timestamp(call.created_at),
        "lastUpdatedAt": _timestamp(call.updated_at),
        "ttlMs": None if call.kept_s is None else round(call.kept_s * MS),
        "pollIntervalMs": round(call.poll_interval_s * MS),
    }


def _detailed(call: LongCall) -> Message:
    detailed = _base(call)
    if call.status == "completed" and call.result is not None:
        detailed["result"] = _dumped(call.result)
    elif call.status == "failed" and call.error is not None:
        detailed["error"] = _dumped(call.error)
    elif call.status == "input_required":
        detailed["inputRequests"] = {key: _dumped(question) for key, question in call.questions.items()}
    return detailed


def _dumped(value: BaseModel) -> Message:
    return value.model_dump(by_alias=True, mode="json", exclude_none=True)


def _timestamp(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
