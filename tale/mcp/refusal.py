"""Answers to requests that are not served, in the one form that MCP clients read. Free of the SDK."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from tale.mcp.wire import encode, error_message

INVALID_REQUEST_CODE: Final = -32600


def refusal(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON-RPC error under an HTTP status."""
    body = encode(error_message(None, INVALID_REQUEST_CODE, text))
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
