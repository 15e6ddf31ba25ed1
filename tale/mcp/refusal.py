"""Answers to requests that are not served, in the one form that MCP clients read. Free of the SDK."""

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from tale.mcp.wire import encode, error_message

INVALID_REQUEST_CODE: Final = -32600


class Refusal(web.Response):
    """A JSON-RPC error under an HTTP status; `text_told` is for who answers in another form."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        body = encode(error_message(None, INVALID_REQUEST_CODE, text))
        super().__init__(status=status, body=body, content_type="application/json", headers=headers)
        self.text_told = text


def refusal(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON-RPC error under an HTTP status."""
    return Refusal(status, text, headers)
