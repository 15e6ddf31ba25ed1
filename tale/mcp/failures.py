"""Turns what a server says has failed into tale's exceptions."""

from collections.abc import Mapping
from typing import Any, Final, cast

from tale import exceptions
from tale.exceptions import NetworkException, ServerException, TaleBaseException, ValidationException
from tale.mcp.wire import ERROR_META_KEY, Message, as_object

INVALID_PARAMS_CODE: Final = -32602
UNSUPPORTED_VERSION_CODE: Final = -32022
QUOTED_CHARACTERS: Final = 200
UNAUTHORIZED, FORBIDDEN, TOO_MANY, UNAVAILABLE = 401, 403, 429, 503


class Busy(Exception):
    """The server takes nothing more for `retry_after_s` seconds; the request was not run."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"busy for {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


def refuse_unserved(status: int, headers: Mapping[str, str], url: str) -> None:
    """Raise for a status that says that the request was not looked at."""
    if status == UNAUTHORIZED:
        raise ServerException(
            "The server asks for a key; give it in TALE_API_KEY (`tale keys create NAME` on its machine makes one).",
            {"url": url},
        )
    retry_after = headers.get("Retry-After", "")
    if status in (TOO_MANY, UNAVAILABLE) and retry_after.isascii() and retry_after.isdigit():
        raise Busy(float(retry_after))


def unreachable(url: str, error: Exception) -> NetworkException:
    """For a server that cannot be reached, or that broke off."""
    return NetworkException(f"{url} does not answer.", {"url": url, "cause": str(error) or type(error).__name__})


def foreign(url: str, status: int, text: str) -> NetworkException:
    """For an answer that is no MCP message."""
    said = text[:QUOTED_CHARACTERS].strip()
    return NetworkException(
        f"The server answered {status} {said!r}, which is no MCP message.", {"url": url, "status": status}
    )


def of_tool(result: Message) -> TaleBaseException:
    """For a tool that refused: the server's own exception where the server is tale's."""
    described = as_object(as_object(result.get("_meta")).get(ERROR_META_KEY))
    if described:
        kind = getattr(exceptions, str(described.get("type")), None)
        if isinstance(kind, type) and issubclass(kind, TaleBaseException):
            context: object = described.get("context")
            return kind(str(described.get("message")), cast("Message", context) if isinstance(context, dict) else None)
    return ServerException(text_of(result) or "The tool failed and did not say why.")


def of_protocol(error: Message, url: str) -> TaleBaseException:
    """For a JSON-RPC error."""
    kind = ValidationException if error.get("code") == INVALID_PARAMS_CODE else ServerException
    text = str(error.get("message") or "The server refused and did not say why").rstrip(".")
    return kind(f"{text}.", {"url": url, "code": error.get("code")})


def means_handshake_only(error: Message, version: str) -> bool:
    """Whether an error on a request of the modern era comes from a server that knows only the handshake.

    Such servers ask for a session or an initialization, or name the versions that they know, in words of their own.
    """
    supported: object = as_object(error.get("data")).get("supported")
    if error.get("code") == UNSUPPORTED_VERSION_CODE:
        return not (isinstance(supported, list) and version in supported)
    text = str(error.get("message", "")).lower()
    return any(word in text for word in ("protocol version", "session", "not initialized"))


def text_of(result: Message) -> str:
    """The text in a tool's answer."""
    content: object = result.get("content")
    blocks = cast("list[Any]", content) if isinstance(content, list) else []
    texts = [cast("Message", block) for block in blocks if isinstance(block, dict)]
    return "\n".join(str(block.get("text")) for block in texts if block.get("type") == "text")
