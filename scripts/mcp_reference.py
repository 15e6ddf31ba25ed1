"""Writes docs/mcp-tools.md from the servers themselves, as a client sees them.

python scripts/mcp_reference.py          writes the file
python scripts/mcp_reference.py --check  fails when the file is not what it would write
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any, cast

from tale import __version__
from tale.constants import EXECUTION_PORT, GATEWAY_PORT
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer
from tale.servers import execution_server, gateway_server, ux_agent_server
from tale.servers.budget_tools import BudgetTools, add_budget_tools
from tale.servers.gateway_resources import GatewayResources, add_gateway_resources
from tale.servers.prediction_tools import PredictionTools, add_prediction_tools
from tale.servers.usage_tools import UsageTools, add_usage_tools
from tale.settings import Settings

WIDTH = 120
PAGE = Path(__file__).parent.parent / "docs/mcp-tools.md"
ABSENT = cast("Any", None)  # what lies behind the tools is not called when they are listed
HEAD = """\
# MCP: tools, resources and prompts

Written by `python scripts/mcp_reference.py` from the servers themselves; a test holds it against them.

Each of these servers speaks the Model Context Protocol on `http://127.0.0.1:PORT/mcp`, in the versions up to 2025-11-25
(with a handshake) and in 2026-07-28 (without). So does the learning server, whose tools are for the other servers' own
use; the model server does not. Plain curl will do, too:

```
curl -s localhost:8080/mcp -H 'content-type: application/json' -d '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
curl -s localhost:8080/mcp -d '{"method":"tools/list"}'
```

Long work: `submit_task` returns at once, `wait_for_task` tells the progress and may be called again as often as needed:
a client that gave up on it loses nothing. Clients of the protocol's tasks extension (`io.modelcontextprotocol/tasks`)
get a task of the protocol from `wait_for_task`; its id is the task's own, so it outlives every connection and restart.

A tool that refuses says in one sentence what was wrong and what to do; `_meta["tale/error"]` holds the same as data:
`type`, `message` and `context`. Times are Unix seconds, names with `_s` are seconds, what is unknown is null.
"""


def servers() -> list[tuple[HTTPMCPServer, str]]:
    """Our MCP servers with what they offer, each with a word on where it listens."""
    settings = Settings()
    gateway = _server("tale-gateway", gateway_server.INSTRUCTIONS)
    behind = dict.fromkeys(("tasks", "calls", "gate", "clock", "server_info"), ABSENT)
    tools = gateway_server.GatewayTools(ABSENT, **behind)
    gateway_server.add_gateway_tools(gateway, tools)
    add_usage_tools(gateway, UsageTools(ABSENT, clock=ABSENT))
    add_budget_tools(gateway, BudgetTools(ABSENT, ABSENT, clock=ABSENT))
    stores = dict.fromkeys(("pool", "tasks", "predictions", "learning"), ABSENT)
    add_prediction_tools(gateway, PredictionTools(settings, ABSENT, **stores))
    parts = dict.fromkeys(("tasks", "calls", "evidence", "targets", "clock"), ABSENT)
    add_gateway_resources(gateway, GatewayResources(ABSENT, **parts))
    execution = _server("tale-execution", execution_server.INSTRUCTIONS)
    execution_server.add_execution_tools(execution, execution_server.ExecutionTools(ABSENT, ABSENT, clock=ABSENT))
    agent = _server("tale-ux-agent", ux_agent_server.INSTRUCTIONS)
    parts = dict.fromkeys(("desk", "controls", "board", "detect", "clock"), ABSENT)
    ux_agent_server.add_ux_agent_tools(agent, ux_agent_server.UXAgentTools(ABSENT, ABSENT, ABSENT, **parts))
    return [
        (gateway, f"port {GATEWAY_PORT}"),
        (agent, f"port {settings.ux_agent_port}"),
        (execution, f"port {EXECUTION_PORT}, for the gateway's own use"),
    ]


def _server(name: str, instructions: str) -> HTTPMCPServer:
    return HTTPMCPServer(name, version=__version__, health=ABSENT, instructions=instructions)


async def render() -> str:
    """The whole page."""
    parts, shapes = [HEAD], Shapes()
    for server, place in servers():
        await server.start()
        try:
            async with HTTPMCPClient(f"http://127.0.0.1:{server.port}") as client:
                parts.append(await _described(client, server.name, place, shapes))
        finally:
            await server.stop()
    return "\n".join([*parts, "## What the tools answer with", "", *shapes.lines()])


class Shapes:
    """The named objects among the answers, each described once."""

    def __init__(self) -> None:
        self._fields: dict[str, Mapping[str, Any]] = {}

    def name_of(self, schema: Mapping[str, Any]) -> str:
        """An answer in words; its objects are remembered by name."""
        fields = schema.get("properties", {})
        self._fields |= {name: each["properties"] for name, each in schema.get("$defs", {}).items()}
        if list(fields) == ["result"]:  # what is no object stands under this name
            return f"{_type(fields['result'])}, under `result`"
        if fields:
            self._fields[schema["title"]] = fields
        return schema["title"] if fields else "an object"

    def lines(self) -> list[str]:
        """Each object with its fields."""
        return [
            f"- **{name}**: " + ", ".join(f"`{field}` {_type(each)}" for field, each in fields.items())
            for name, fields in sorted(self._fields.items())
        ] + [""]


async def _described(client: HTTPMCPClient, name: str, place: str, shapes: Shapes) -> str:
    found = await client.request("server/discover")
    lines = [f"## {name}, {place}", "", *fill(found["instructions"], WIDTH).splitlines(), ""]
    for tool in await client.list_tools():
        lines += [*_tool(tool), f"Answers with {shapes.name_of(tool['outputSchema'])}.", ""]
    if "resources" in found["capabilities"]:
        lines += ["### Resources", "", "| URI | what | |", "|---|---|---|"]
        listed = (await client.request("resources/list"))["resources"]
        for each in listed + (await client.request("resources/templates/list"))["resourceTemplates"]:
            uri = each.get("uri") or each["uriTemplate"]
            lines.append(f"| `{uri}` | {each['title']} ({each['mimeType']}) | {_flat(each['description'])} |")
        lines.append("")
    if "prompts" in found["capabilities"]:
        lines += ["### Prompts", ""]
        for prompt in (await client.request("prompts/list"))["prompts"]:
            lines += [f"**{prompt['name']}**: {_flat(prompt['description'])}", ""]
            lines += [f"- `{each['name']}`: {_flat(each['description'])}" for each in prompt["arguments"]] + [""]
    return "\n".join(lines)


def _tool(tool: Mapping[str, Any]) -> list[str]:
    hints = _hints(tool["annotations"])
    lines = [f"### {tool['name']}", "", f"{tool['title']} ({hints}). {tool['description']}", ""]
    schema = tool["inputSchema"]
    if schema["properties"]:
        lines += ["| parameter | type | default | |", "|---|---|---|---|"]
        for name, each in schema["properties"].items():
            default = "required" if name in schema.get("required", ()) else f"`{json.dumps(each.get('default'))}`"
            lines.append(f"| `{name}` | {_type(each)} | {default} | {_flat(each['description'])} |")
        lines.append("")
    return lines


def _hints(annotations: Mapping[str, Any]) -> str:
    if annotations["readOnlyHint"]:
        return "reads only"
    told = ["ends something" if annotations["destructiveHint"] else "changes something"]
    return ", ".join([*told, "may be repeated"] if annotations["idempotentHint"] else told)


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{each}`" for each in schema["enum"])
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2]
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return str(schema.get("type", "any"))


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Write the page, or say that it is out of date."""
    page = asyncio.run(render())
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page:
        print(f"{PAGE.name} is out of date; run python scripts/mcp_reference.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
