"""The command that prints what other programs need to use tale: MCP settings and a curl line."""

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tale.cli.invocation import settings_of
from tale.cli.keys import stored_keys

if TYPE_CHECKING:
    from tale.settings import Settings

KEY_PLACEHOLDER = "YOUR_TALE_API_KEY"


class Client(StrEnum):
    """Forms of MCP settings that clients read."""

    COMMON = "common"
    VSCODE = "vscode"
    ZED = "zed"
    CURL = "curl"


WHERE = {
    Client.COMMON: "Most clients (mcpServers; such as Cursor's .cursor/mcp.json)",
    Client.VSCODE: "VS Code (.vscode/mcp.json)",
    Client.ZED: "Zed (settings.json)",
    Client.CURL: "A shell, with curl",
}


def connect(
    context: typer.Context,
    client: Annotated[Client | None, typer.Option("--client", help="Print this form alone.")] = None,
) -> None:
    """Print MCP settings for other programs, and a curl line."""
    settings = settings_of(context)
    needs_key = bool(settings.api_key or stored_keys(settings))
    if client:
        print(form_for(client, settings, needs_key=needs_key))
        return
    for each, where in WHERE.items():
        print(f"# {where}\n{form_for(each, settings, needs_key=needs_key)}\n")


def form_for(client: Client, settings: "Settings", *, needs_key: bool) -> str:
    """The text to paste; a key is named, never printed."""
    url = f"{settings.url_of('gateway')}/mcp"
    headers = {"Authorization": f"Bearer {KEY_PLACEHOLDER}"} if needs_key else {}
    server: dict[str, Any] = {"url": url, **({"headers": headers} if headers else {})}
    match client:
        case Client.CURL:
            return _curl(url, headers)
        case Client.VSCODE:
            form: dict[str, Any] = {"servers": {"tale": {"type": "http", **server}}}
        case Client.ZED:
            form = {"context_servers": {"tale": server}}
        case Client.COMMON:
            form = {"mcpServers": {"tale": {"type": "http", **server}}}
    return json.dumps(form, indent=2)


def _curl(url: str, headers: dict[str, str]) -> str:
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "submit_task", "arguments": {"text": "Write a haiku"}},
    }
    sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}
    options = " ".join(f"-H '{name}: {value}'" for name, value in sent.items())
    return f"curl -s {url} {options} -d '{json.dumps(body)}'"
