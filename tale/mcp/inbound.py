"""Reads a POST: whether it is one JSON-RPC message, of which kind, and which era of the protocol it belongs to."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast

from aiohttp import web
from mcp.server.lowlevel import Server
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    InboundModernRoute,
    classify_inbound_request,
    decode_header_value,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from mcp.types import (
    HEADER_MISMATCH,
    INVALID_REQUEST,
    PARSE_ERROR,
    PROTOCOL_VERSION_META_KEY,
    JSONRPCNotification,
    JSONRPCRequest,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError

from tale.mcp.wire import (
    EVENT_STREAM,
    METHOD_HEADER,
    NAME_HEADER,
    VERSION_HEADER,
    Message,
    decode,
    encode,
    error_message,
)

TASK_METHODS: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})  # of the tasks extension
KEPT: Final = 256  # Accept headers read; those of a server's clients are few, and come with every request
ROUTING_HEADERS: Final = (VERSION_HEADER, METHOD_HEADER, NAME_HEADER)
JSON_TYPE: Final = "application/json"
LOOPBACK_PEERS: Final = frozenset({"127.0.0.1", "::1"})
BAD_REQUEST, NOT_ACCEPTABLE, TOO_LARGE, WRONG_TYPE = 400, 406, 413, 415


class Refusal(Exception):
    """A POST that is not served: becomes a JSON-RPC error under an HTTP status."""

    def __init__(
        self,
        text: str,
        *,
        code: int = INVALID_REQUEST,
        status: int | None = None,
        request_id: str | int | None = None,
        data: object = None,
    ) -> None:
        super().__init__(text)
        self._message = error_message(request_id, code, text, data)
        self._status = status or ERROR_CODE_HTTP_STATUS.get(code, BAD_REQUEST)

    def response(self) -> web.Response:
        """The answer to send."""
        return web.Response(body=encode(self._message), status=self._status, content_type=JSON_TYPE)


async def read_message(request: web.Request) -> Message:
    """The body as a JSON object of JSON-RPC 2.0; raises Refusal for anything else.

    What people type by hand for tools/list is completed: on loopback and without an Origin, a missing jsonrpc, id or
    content type is forgiven for that method alone.
    """
    if not accepts(request, JSON_TYPE):
        raise Refusal(f"The answer is {JSON_TYPE}; accept it", status=NOT_ACCEPTABLE)
    try:
        body = decode(await request.read())
    except web.HTTPRequestEntityTooLarge as error:
        raise Refusal("The body is too large", status=TOO_LARGE) from error
    except web.RequestPayloadError as error:
        raise Refusal("The body cannot be read as its headers describe it", code=PARSE_ERROR) from error
    except (ValueError, RecursionError) as error:
        raise Refusal("The body is not JSON in UTF-8", code=PARSE_ERROR) from error
    message = cast("Message", body) if isinstance(body, dict) else {}
    if _is_typed_by_hand(request, message):
        return {"jsonrpc": "2.0", "id": 1, **message}
    if request.content_type != JSON_TYPE:
        raise Refusal(f"Send the header Content-Type: {JSON_TYPE}", status=WRONG_TYPE)
    return message


def parse(message: Message) -> JSONRPCRequest | JSONRPCNotification | None:
    """The message as a request or notification; None if it answers a request of the server's. Raises Refusal."""
    try:
        if "method" not in message and "id" in message and ("result" in message or "error" in message):
            return None
        return (JSONRPCRequest if "id" in message else JSONRPCNotification).model_validate(message)
    except ValidationError as error:
        raise Refusal("The body must be one JSON-RPC 2.0 message") from error


def accepts(request: web.Request, content_type: str) -> bool:
    """Whether the client takes an answer of this type; one that does not say takes all."""
    return _covers(request.headers.get("Accept", "*/*"), content_type)


@lru_cache(maxsize=KEPT)
def _covers(accepted: str, content_type: str) -> bool:
    kind = content_type.split("/")[0]
    return any(wanted in accepted.lower() for wanted in (content_type, f"{kind}/*", "*/*"))


def accepts_stream(request: web.Request) -> bool:
    """Whether the client takes an event stream."""
    return accepts(request, EVENT_STREAM)


def is_modern(version: str | None, message: Message) -> bool:
    """Whether a message belongs to the modern era, by its version header or, without one, by its envelope."""
    if version is not None:
        return version not in HANDSHAKE_PROTOCOL_VERSIONS
    params: object = message.get("params")
    meta: object = cast("Message", params).get("_meta") if isinstance(params, dict) else None
    return isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta


def require_modern_version(version: str | None) -> None:
    """Raise Refusal for a version of the modern era that is not served."""
    if rejection := unsupported_protocol_version_rejection(version or ""):
        raise _refusal_of(rejection, None)


def modern_route(
    kernel: Server[Any], request: web.Request, message: Message, parsed: JSONRPCRequest
) -> InboundModernRoute:
    """Check the envelope of a modern request and its headers against its body; raises Refusal."""
    if repeated := next((name for name in ROUTING_HEADERS if len(request.headers.getall(name, ())) > 1), None):
        raise Refusal(f"{repeated} header appears more than once", code=HEADER_MISMATCH, request_id=parsed.id)
    route = classify_inbound_request(message, headers=request.headers)
    if isinstance(route, InboundLadderRejection):
        raise _refusal_of(route, parsed.id)
    if rejection := _parameter_headers_rejection(kernel, parsed, request.headers):
        raise _refusal_of(rejection, parsed.id)
    if parsed.method in TASK_METHODS:
        named = decode_header_value(request.headers.get(NAME_HEADER))
        if named != (parsed.params or {}).get("taskId"):
            text = f"{NAME_HEADER} header does not match params.taskId"
            raise Refusal(text, code=HEADER_MISMATCH, request_id=parsed.id)
    return route


def _parameter_headers_rejection(
    kernel: Server[Any], parsed: JSONRPCRequest, headers: Mapping[str, str]
) -> InboundLadderRejection | None:
    if parsed.method != "tools/call" or kernel.get_tool_input_schema is None:
        return None
    params = parsed.params or {}
    arguments: object = params.get("arguments") or {}
    schema = kernel.get_tool_input_schema(str(params.get("name")))
    if schema is None or not isinstance(arguments, dict):
        return None
    return validate_mcp_param_headers(schema, cast("Message", arguments), headers)


def _is_typed_by_hand(request: web.Request, message: Message) -> bool:
    is_local = request.remote in LOOPBACK_PEERS and "Origin" not in request.headers
    return is_local and message.get("method") == "tools/list" and VERSION_HEADER not in request.headers


def _refusal_of(rejection: InboundLadderRejection, request_id: str | int | None) -> Refusal:
    return Refusal(rejection.message, code=rejection.code, request_id=request_id, data=rejection.data)
