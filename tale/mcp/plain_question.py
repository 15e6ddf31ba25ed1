"""Short questions to a server of this machine, without aiohttp: importing it takes longer than most answers."""

import http.client
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

from tale.mcp import envelopes, failures
from tale.mcp.places import LOOPBACK_NAMES
from tale.mcp.wire import EVENT_STREAM, Message, as_object, decode, encode

OK: Final = 200
REQUEST_ID: Final = 1
LONGEST_ANSWER_BYTES: Final = 16 * 1024 * 1024


def health_at(url: str, *, timeout_s: float) -> Message | None:
    """What GET /health answers; None where only HTTPMCPClient can tell.

    Raises NetworkException for a server that cannot be reached or falls silent for `timeout_s`.
    """
    return _object_from(url, "GET", "/health", b"", {}, timeout_s)


def tool_result(
    url: str, name: str, arguments: Mapping[str, Any], *, api_key: str | None, timeout_s: float
) -> Message | None:
    """The structured result of a tool that answers at once; None where only HTTPMCPClient can tell what happened.

    Raises NetworkException for a server that cannot be reached or falls silent for `timeout_s`.
    """
    params: Message = {"name": name, "arguments": dict(arguments)}
    envelope = envelopes.modern("tools/call", params, REQUEST_ID, capabilities={}, wants_progress=False)
    headers = {"Content-Type": "application/json", "Accept": f"application/json, {EVENT_STREAM}", **envelope.headers}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    answer = _object_from(url, "POST", "/mcp", encode(envelope.body), headers, timeout_s)
    result = as_object((answer or {}).get("result"))
    structured = result.get("structuredContent")
    return cast("Message", structured) if isinstance(structured, dict) and not result.get("isError") else None


def _object_from(
    url: str, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> Message | None:
    """The JSON object that answers one request; None for any other answer, and for addresses elsewhere or under TLS."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in LOOPBACK_NAMES:
        return None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request(method, parts.path + path, body, dict(headers))
        response = connection.getresponse()
        if response.status != OK or response.headers.get_content_type() != "application/json":
            return None
        answer = decode(response.read(LONGEST_ANSWER_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise failures.unreachable(url, error) from error
    except (ValueError, RecursionError):
        return None
    finally:
        connection.close()
    return cast("Message", answer) if isinstance(answer, dict) else None
