"""What both ends of the wire share: the protocol's names and the form of its messages. Free of the SDK, so light."""

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

SESSION_HEADER: Final = "Mcp-Session-Id"
VERSION_HEADER: Final = "Mcp-Protocol-Version"
LAST_EVENT_HEADER: Final = "Last-Event-ID"
METHOD_HEADER: Final = "Mcp-Method"
NAME_HEADER: Final = "Mcp-Name"
EVENT_STREAM: Final = "text/event-stream"
ERROR_META_KEY: Final = "tale/error"  # in a failed tool's _meta: type, message and context of the exception

Message = dict[str, Any]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def decode(body: bytes) -> object:
    """Read strict JSON in UTF-8. Raises ValueError or RecursionError."""
    return _decoder.decode(body.decode("utf-8"))


def encode(message: Message) -> bytes:
    """Write JSON in UTF-8; what UTF-8 cannot hold becomes "?". Raises ValueError or RecursionError."""
    return _encoder.encode(message).encode("utf-8", "replace")


def as_object(value: object) -> Message:
    """The value if it is a JSON object, else an empty one."""
    return cast("Message", value) if isinstance(value, dict) else {}


def event(message: Message) -> bytes:
    """A message as one server-sent event. Raises as `encode` does."""
    return b"event: message\ndata: " + encode(message) + b"\n\n"


def notification(method: str, params: Mapping[str, Any] | None) -> Message:
    """A JSON-RPC notification."""
    return {"jsonrpc": "2.0", "method": method, **({"params": dict(params)} if params else {})}


def error_message(request_id: str | int | None, code: int, text: str, data: object = None) -> Message:
    """A JSON-RPC error answer."""
    error = {"code": code, "message": text, **({} if data is None else {"data": data})}
    return {"jsonrpc": "2.0", "id": request_id, "error": error}
