"""Answers calls of plain tools without the SDK's kernel, whose layers cost more than all the rest of such a call.

A tool is plain when it takes no ToolContext, a CallOrigin at most: it neither asks the client anything nor becomes a
task. What is answered is what the kernel would answer, which a test compares; whatever is unusual about a call is left
to the kernel.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
    CallToolResult,
    JSONRPCRequest,
    TextContent,
)
from mcp_types.methods import serialize_server_result
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tale.mcp.tool_context import CallOrigin
from tale.mcp.tools import RegisteredTool
from tale.mcp.wire import Message

METHOD: Final = "tools/call"
SINCE: Final = "2025-06-18"  # the first version whose results may be structured
PARAMETERS: Final = frozenset({"name", "arguments", "_meta"})
ENVELOPE: Final = frozenset({PROTOCOL_VERSION_META_KEY, CLIENT_CAPABILITIES_META_KEY})
PROGRESS_TOKEN: Final = "progressToken"  # noqa: S105 - a name in the protocol, no secret
NAMED: Final = frozenset({"name", "version"})
DESCRIBED: Final = NAMED | {"title"}

Json = dict[str, Any]


class QuickCalls:
    """Calls of the tools in `tools`, which may change. `server_info` stamps the results of the modern era."""

    def __init__(self, tools: Mapping[str, RegisteredTool], *, server_info: Json) -> None:
        self._tools = tools
        self._server_info = server_info

    def tool_of(self, message: JSONRPCRequest, version: str) -> RegisteredTool | None:
        """The plain tool that a request calls in the usual way; None where the kernel has to look at it."""
        params = message.params
        if message.method != METHOD or params is None or not PARAMETERS.issuperset(params):
            return None
        if version < SINCE or not isinstance(params.get("arguments", {}), dict):
            return None
        name: object = params.get("name")
        tool = self._tools.get(name) if isinstance(name, str) else None
        if tool is None or not tool.is_plain:
            return None
        is_usual = _is_usual(params.get("_meta", {}), modern=version in MODERN_PROTOCOL_VERSIONS)
        return tool if is_usual else None

    async def answer(
        self, tool: RegisteredTool, params: Mapping[str, Any] | None, version: str, origin: CallOrigin
    ) -> Message:
        """The result of a call as it goes over the wire; raises MCPError as the tool does."""
        result = await tool.called((params or {}).get("arguments", {}), origin)
        return self._on_the_wire(result, version)

    def _on_the_wire(self, result: CallToolResult, version: str) -> Message:
        content = [_text(block) for block in result.content]
        if None in content:
            dumped = result.model_dump(by_alias=True, mode="json", exclude_none=True)
            answer = serialize_server_result(METHOD, version, dumped)
        else:
            answer: Message = {"content": content, "isError": result.is_error}
            if result.structured_content is not None:
                answer["structuredContent"] = result.structured_content
            if result.meta is not None:
                answer["_meta"] = dict(result.meta)
        if version in MODERN_PROTOCOL_VERSIONS:
            meta = cast("Message", answer.get("_meta") or {})
            answer |= {"resultType": "complete", "_meta": {**meta, SERVER_INFO_META_KEY: self._server_info}}
        return answer


def _text(block: object) -> Json | None:
    if not isinstance(block, TextContent) or block.annotations is not None or block.meta is not None:
        return None
    return {"type": "text", "text": block.text}


def _is_usual(meta: object, *, modern: bool) -> bool:
    """Whether nothing in a request's _meta needs a closer look."""
    if not isinstance(meta, dict):
        return False
    given = cast("Json", meta)
    token: object = given.get(PROGRESS_TOKEN, "")
    if not isinstance(token, str | int) or isinstance(token, bool):
        return False
    rest = frozenset(given) - {PROGRESS_TOKEN}
    if not modern:
        return not rest
    if rest - {CLIENT_INFO_META_KEY} != ENVELOPE or not _is_nested(given[CLIENT_CAPABILITIES_META_KEY]):
        return False
    return CLIENT_INFO_META_KEY not in rest or _is_info(given[CLIENT_INFO_META_KEY])


def _is_info(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    info = cast("Json", value)
    is_known = NAMED.issubset(info) and DESCRIBED.issuperset(info)
    return is_known and all(isinstance(part, str) for part in info.values())


def _is_nested(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(part, dict) for part in cast("Json", value).values())
