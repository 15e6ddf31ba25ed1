"""The client that the conformance suite runs: `python -m conformance.client URL`, the scenario in the environment."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from tale.exceptions import TaleBaseException
from tale.mcp.http_client import HTTPMCPClient

MODERN: Final = "2026-07-28"
CAPABILITIES: Final[dict[str, Any]] = {"elicitation": {}, "sampling": {}, "roots": {}}
FOCAL_TOOL, ECHO_TOOL = "json_schema_2020_12_tool", "json_schema_echo"

Act = Callable[[HTTPMCPClient, Mapping[str, Any]], Awaitable[None]]


async def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Accept a form with its defaults, and say something in place of a model."""
    if method == "elicitation/create":
        fields: dict[str, Any] = params.get("requestedSchema", {}).get("properties", {})
        filled = {name: field["default"] for name, field in fields.items() if "default" in field}
        return {"action": "accept", "content": filled}
    if method == "roots/list":
        return {"roots": []}
    return {"role": "assistant", "model": "none", "content": {"type": "text", "text": "Yes."}}


def example(schema: Mapping[str, Any]) -> Any:
    """A value that fits a schema of one field."""
    values = {"number": 1, "integer": 1, "boolean": True, "array": [], "object": {}}
    return schema["enum"][0] if "enum" in schema else values.get(str(schema.get("type")), "x")


def arguments_for(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the parameters that a tool requires."""
    schema = tool["inputSchema"]
    return {name: example(schema["properties"][name]) for name in schema.get("required", [])}


async def list_tools(client: HTTPMCPClient, context: Mapping[str, Any]) -> None:
    """Look at the tools."""
    await client.list_tools()


async def call_every_tool(client: HTTPMCPClient, context: Mapping[str, Any]) -> None:
    """Call each tool that the client lists."""
    for tool in await client.list_tools():
        await client.call_tool(tool["name"], arguments_for(tool))


async def call_tools_given(client: HTTPMCPClient, context: Mapping[str, Any]) -> None:
    """Make the calls that the scenario hands over, null arguments included."""
    await client.list_tools()
    for call in context["toolCalls"]:
        await client.call_tool(call["name"], call["arguments"])


async def visit_everything(client: HTTPMCPClient, context: Mapping[str, Any]) -> None:
    """Use tools, resources and prompts, each at least once."""
    await call_every_tool(client, context)
    for resource in (await client.request("resources/list"))["resources"]:
        await client.request("resources/read", {"uri": resource["uri"]})
    for prompt in (await client.request("prompts/list"))["prompts"]:
        await client.request("prompts/get", {"name": prompt["name"]})


async def echo_schema(client: HTTPMCPClient, context: Mapping[str, Any]) -> None:
    """Send a tool's schema back as it came."""
    schemas = {tool["name"]: tool["inputSchema"] for tool in await client.list_tools()}
    await client.call_tool(ECHO_TOOL, {"schema": schemas[FOCAL_TOOL]})


SCENARIOS: Final[dict[str, Act]] = {
    "initialize": list_tools,
    "json-schema-ref-no-deref": list_tools,
    "json-schema-2020-12-preservation": echo_schema,
    "http-custom-headers": call_tools_given,
    "http-standard-headers": visit_everything,
}


async def main() -> int:
    """Act as the scenario wants it; 1 when it could not."""
    version = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", MODERN)
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    act = SCENARIOS.get(os.environ["MCP_CONFORMANCE_SCENARIO"], call_every_tool)
    modern = version == MODERN
    async with HTTPMCPClient(sys.argv[1], on_question=answer, capabilities=CAPABILITIES, modern=modern) as client:
        try:
            await act(client, context)
        except TaleBaseException as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
