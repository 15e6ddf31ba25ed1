"""A call that goes around the SDK's kernel is answered as the kernel would; unusual calls are left to the kernel."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes.mcp_workshop import HANDSHAKE, META, MODERN, Answer, Caller, Workshop, calling, initialize, request
from mcp.types import JSONRPCRequest

from tale.mcp.quick_calls import QuickCalls
from tale.mcp.tool_context import CallOrigin, ToolContext
from tale.mcp.tools import RegisteredTool, ToolAnnotations

UNUSUAL = {"example.org/unusual": 1}  # in a request's _meta, has the kernel look at it
CLIENT = {"name": "test", "version": "1"}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("echo", {"text": "hi"}),
    ("echo", {"text": "\u2028 ü \x00"}),
    ("echo", {}),
    ("echo", {"text": 5}),
    ("echo", {"text": "a", "volume": 11}),
    ("repeat", {"text": "a", "times": 3, "loud": True}),
    ("repeat", {"text": "a", "times": "many"}),
    ("refuse", {"task_id": "none"}),
    ("crash", {}),
    ("surrogate", {}),
    ("infinite", {}),
    ("nowhere", {}),
]


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling(Workshop().server()) as caller:
        yield caller


async def in_session(caller: Caller, version: str, params: dict[str, Any]) -> Answer:
    """The answer to a call in a new session of that version."""
    opened = await caller.post(initialize(version))
    headers = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"], "Mcp-Protocol-Version": version}
    await caller.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, headers)
    return await caller.post(request("tools/call", params, "id-7"), headers)


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", HANDSHAKE])
@pytest.mark.parametrize(("tool", "arguments"), CALLS)
async def test_in_a_session_both_ways_give_one_answer(
    caller: Caller, version: str, tool: str, arguments: dict[str, Any]
) -> None:
    params = {"name": tool, "arguments": arguments}
    quick = await in_session(caller, version, params)
    slow = await in_session(caller, version, {**params, "_meta": UNUSUAL})
    assert (quick.status, quick.messages) == (slow.status, slow.messages)


@pytest.mark.parametrize("info", [{}, {f"{META}/clientInfo": CLIENT}])
@pytest.mark.parametrize(("tool", "arguments"), CALLS)
async def test_in_the_modern_era_both_ways_give_one_answer(
    caller: Caller, info: dict[str, Any], tool: str, arguments: dict[str, Any]
) -> None:
    params = {"name": tool, "arguments": arguments}
    quick = await caller.modern("tools/call", {**params, "_meta": info})
    slow = await caller.modern("tools/call", {**params, "_meta": {**info, **UNUSUAL}})
    assert (quick.status, quick.messages) == (slow.status, slow.messages)


async def plain(text: str) -> str:
    """Say the same."""
    return text


async def talking(text: str, context: ToolContext) -> str:
    """Say the same and more."""
    return text


async def knowing(text: str, origin: CallOrigin) -> str:
    """Say the same to one that is known."""
    return text


TOOLS = {
    tool.__name__: RegisteredTool.from_function(tool, None, ToolAnnotations()) for tool in (plain, talking, knowing)
}
ENVELOPE: dict[str, Any] = {f"{META}/protocolVersion": MODERN, f"{META}/clientCapabilities": {"roots": {}}}


def is_quick(params: dict[str, Any] | None, *, method: str = "tools/call", version: str = MODERN) -> bool:
    message = JSONRPCRequest(jsonrpc="2.0", id=1, method=method, params=params)
    calls = QuickCalls(TOOLS, server_info=CLIENT)
    return calls.tool_of(message, version) is not None


def test_a_usual_call_of_a_plain_tool_is_quick() -> None:
    assert is_quick({"name": "plain", "arguments": {"text": "a"}, "_meta": ENVELOPE})
    assert is_quick({"name": "plain", "_meta": {**ENVELOPE, "progressToken": 3, f"{META}/clientInfo": CLIENT}})
    assert is_quick({"name": "plain", "arguments": {}}, version=HANDSHAKE)
    assert is_quick({"name": "knowing", "_meta": ENVELOPE})


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"name": "talking", "_meta": ENVELOPE},
        {"name": "unknown", "_meta": ENVELOPE},
        {"name": ["plain"], "_meta": ENVELOPE},
        {"name": "plain"},
        {"name": "plain", "_meta": None},
        {"name": "plain", "arguments": None, "_meta": ENVELOPE},
        {"name": "plain", "arguments": [], "_meta": ENVELOPE},
        {"name": "plain", "requestState": "sealed", "_meta": ENVELOPE},
        {"name": "plain", "task": {}, "_meta": ENVELOPE},
        {"name": "plain", "_meta": {**ENVELOPE, "progressToken": True}},
        {"name": "plain", "_meta": {**ENVELOPE, "progressToken": 1.5}},
        {"name": "plain", "_meta": {**ENVELOPE, f"{META}/clientInfo": {"name": "test"}}},
        {"name": "plain", "_meta": {**ENVELOPE, f"{META}/clientInfo": {"name": "test", "version": 1}}},
        {"name": "plain", "_meta": {**ENVELOPE, f"{META}/clientInfo": "test"}},
        {"name": "plain", "_meta": {**ENVELOPE, f"{META}/clientCapabilities": {"roots": 1}}},
        {"name": "plain", "_meta": {**ENVELOPE, f"{META}/clientCapabilities": []}},
        {"name": "plain", "_meta": {**ENVELOPE, **UNUSUAL}},
    ],
)
def test_an_unusual_call_is_left_to_the_kernel(params: dict[str, Any] | None) -> None:
    assert not is_quick(params)


def test_other_methods_and_old_versions_are_left_to_the_kernel() -> None:
    assert not is_quick({"name": "plain", "_meta": ENVELOPE}, method="tools/list")
    assert not is_quick({"name": "plain"}, version="2025-03-26")
    assert not is_quick({"name": "plain", "_meta": ENVELOPE}, version=HANDSHAKE)
