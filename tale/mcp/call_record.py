"""Turns a served request into the row that is kept of it."""

import time
from collections.abc import Mapping
from typing import Any, Final, Literal, cast

from tale.ids import new_call_id
from tale.mcp.wire import ERROR_META_KEY, Message
from tale.records import McpCall

NAME_LIMIT: Final = 100  # characters kept of a name that the client chose

Failure = tuple[Literal["ok", "tool_error", "error", "cancelled"], str | None, str | None]


def call_record(
    server: str,
    method: str,
    params: Mapping[str, Any] | None,
    *,
    answer: Message | None,
    latency_s: float,
    trace_id: str,
    task_id: str | None,
    key_name: str | None,
) -> McpCall:
    """The row of a request; `answer` None means that it was cancelled."""
    params = params or {}
    arguments: object = params.get("arguments")
    if task_id is None and isinstance(arguments, dict):
        task_id = _text(cast("Message", arguments).get("task_id"))
    outcome, error_class, error = _failure(answer)
    return McpCall(
        id=new_call_id(),
        started_at=time.time() - latency_s,
        server=server,
        method=_text(method) or "",
        latency_s=latency_s,
        outcome=outcome,
        tool=_text(params.get("name")) if method == "tools/call" else None,
        task_id=task_id,
        trace_id=trace_id,
        error_class=error_class,
        error=error,
        key_name=key_name,
    )


def _failure(answer: Message | None) -> Failure:
    if answer is None:
        return "cancelled", "Cancelled", None
    if error := answer.get("error"):
        return "error", f"JSONRPCError{error['code']}", str(error["message"])
    result = cast("Message", answer["result"])
    if not result.get("isError"):
        return "ok", None, None
    described = cast("Message", cast("Message", result.get("_meta") or {}).get(ERROR_META_KEY) or {})
    return "tool_error", described.get("type"), described.get("message")


def _text(value: object) -> str | None:
    """What a client sent, as text that every database can hold."""
    return value[:NAME_LIMIT].encode("utf-8", "replace").decode() if isinstance(value, str) else None
