"""Failures in OpenAI's form: {"error": {message, type, param, code}} under the status that says what to do."""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from tale.exceptions import (
    BudgetException,
    DatabaseException,
    ModelException,
    NetworkException,
    ServerException,
    TaleBaseException,
    ValidationException,
)
from tale.mcp.refusal import Refusal
from tale.models.prompt_size import CONTEXT_EXCEEDED

PREFIX: Final = "/v1/"
OK, BAD, NOT_FOUND, TOO_MANY = 200, 400, 404, 429
STATUS, PARAM, CODE = "status", "param", "code"  # in the context of an exception
FAILED, BAD_GATEWAY, UNAVAILABLE = 500, 502, 503
UNKNOWN_MODEL: Final = "model_not_found"
USED_UP: Final = "insufficient_quota"
OURS_TO_MEND: Final = frozenset({401, 403, 404, 407})  # what the engine has against us, not against the client
TYPES: Final[Mapping[int, tuple[str, str | None]]] = {  # of a status: type and code
    400: ("invalid_request_error", None),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_permissions"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_supported"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
KEPT_HEADERS: Final = ("Retry-After", "WWW-Authenticate", "Allow")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client is told."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None

    def body(self) -> dict[str, Any]:
        """The body of the answer, or the chunk of a stream."""
        kind, code = TYPES.get(self.status, ("server_error", None))
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code or code},
        }

    def response(self, headers: Mapping[str, str] | None = None) -> web.Response:
        """The answer."""
        text = json.dumps(self.body())
        sent = dict(headers or {})
        if self.retry_after_s is not None:
            sent["Retry-After"] = str(self.retry_after_s)
        return web.Response(status=self.status, text=text, content_type="application/json", headers=sent)


STOPPED: Final = Failure(UNAVAILABLE, "The server is stopping; ask again.")


def told_of(error: BaseException, request: web.Request) -> Failure | None:
    """What a client is told of what ended its request; None where it left by itself."""
    if isinstance(error, TaleBaseException):
        return failure_of(error)
    is_there = request.transport is not None and not request.transport.is_closing()
    return STOPPED if is_there and isinstance(error, asyncio.CancelledError) else None


def failure_of(error: TaleBaseException) -> Failure:
    """What a client is told of an exception."""
    context = error.context
    param, code, retry_after_s = context.get(PARAM), context.get(CODE), None
    if isinstance(error, BudgetException):
        code, retry_after_s = USED_UP, context.get("retry_after_s")
    if isinstance(error, ValidationException) and "context_tokens" in context:
        param, code = "messages", CONTEXT_EXCEEDED
    return Failure(
        _status_of(error),
        error.message,
        param if isinstance(param, str) else None,
        code if isinstance(code, str) else None,
        retry_after_s if isinstance(retry_after_s, int) else None,
    )


def _status_of(error: TaleBaseException) -> int:
    match error:
        case ValidationException(context={"code": "model_not_found"}):
            return NOT_FOUND
        case ValidationException():
            return BAD
        case BudgetException():
            return TOO_MANY
        case ModelException(context={"status": int(status)}):
            is_theirs = BAD <= status < FAILED and status not in OURS_TO_MEND
            return status if is_theirs else BAD_GATEWAY
        case NetworkException() | ServerException() | DatabaseException() | ModelException():
            return UNAVAILABLE
        case _:
            return FAILED


@web.middleware
async def in_openai_form(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Have whatever is refused below /v1/ told in OpenAI's form."""
    if not request.path.startswith(PREFIX):
        return await handler(request)
    try:
        response = await handler(request)
    except web.HTTPException as error:
        message = f"There is no {request.method} {request.path} here."
        return Failure(error.status, message).response(_kept(error.headers))
    except ConnectionError:  # the client left
        raise
    except Exception:
        logger.exception("A request for %s failed.", request.path)
        return Failure(FAILED, "The server failed; its log says why.").response()
    if isinstance(response, Refusal):
        return Failure(response.status, f"{response.text_told}.").response(_kept(response.headers))
    return response


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in KEPT_HEADERS if name in headers}
