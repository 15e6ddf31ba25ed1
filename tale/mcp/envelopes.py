"""How a request is put on the wire in either era of the protocol: its body and the headers that go with it."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tale import __version__
from tale.mcp.wire import METHOD_HEADER, NAME_HEADER, SESSION_HEADER, VERSION_HEADER, Message

MODERN_VERSION: Final = "2026-07-28"
HANDSHAKE_VERSION: Final = "2025-11-25"
HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", HANDSHAKE_VERSION)
CLIENT_INFO: Final = {"name": "tale", "version": __version__}
META: Final = "io.modelcontextprotocol"
NAMED_BY: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
PLAIN_HEADER: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
BASE64_FORM: Final = re.compile(r"=\?base64\?.*\?=")


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message ready to be posted."""

    body: Message
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class ClientSession:
    """What a handshake agreed on; a server may do without ids."""

    session_id: str | None
    version: str

    @property
    def headers(self) -> dict[str, str]:
        """What names the session and its version of the protocol."""
        named = {} if self.session_id is None else {SESSION_HEADER: self.session_id}
        return {VERSION_HEADER: self.version, **named}


def modern(
    method: str, params: Message, request_id: int, *, capabilities: Mapping[str, Any], wants_progress: bool
) -> Envelope:
    """A request of the modern era, which says all about its client."""
    meta: Message = {
        f"{META}/protocolVersion": MODERN_VERSION,
        f"{META}/clientInfo": CLIENT_INFO,
        f"{META}/clientCapabilities": dict(capabilities),
    }
    headers = {VERSION_HEADER: MODERN_VERSION, METHOD_HEADER: method}
    if name := params.get(NAMED_BY.get(method, "")):
        headers[NAME_HEADER] = header_value(str(name))
    return Envelope(_request(method, params, request_id, _with_token(meta, request_id, wants_progress)), headers)


def in_session(
    session: ClientSession, method: str, params: Message, request_id: int, *, wants_progress: bool
) -> Envelope:
    """A request of a session."""
    return Envelope(
        _request(method, params, request_id, _with_token({}, request_id, wants_progress)), dict(session.headers)
    )


def initialize(request_id: int, *, capabilities: Mapping[str, Any]) -> Envelope:
    """The request that opens a session."""
    params = {"protocolVersion": HANDSHAKE_VERSION, "capabilities": dict(capabilities), "clientInfo": CLIENT_INFO}
    return Envelope(_request("initialize", params, request_id, {}), {})


def header_value(text: str) -> str:
    """Text as it survives in a header: in base64 where it has to."""
    if PLAIN_HEADER.fullmatch(text) and not BASE64_FORM.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def _with_token(meta: Message, request_id: int, wants_progress: bool) -> Message:
    return {**meta, "progressToken": request_id} if wants_progress else meta


def _request(method: str, params: Message, request_id: int, meta: Message) -> Message:
    if meta:
        params = {**params, "_meta": {**params.get("_meta", {}), **meta}}
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
