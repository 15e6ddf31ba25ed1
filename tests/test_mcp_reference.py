"""docs/mcp-tools.md says of the servers what they say of themselves."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tale.mcp.http_client import HTTPMCPClient

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mcp_reference", ROOT / "scripts/mcp_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_reference_is_what_the_script_writes(reference: ModuleType) -> None:
    assert (ROOT / "docs/mcp-tools.md").read_text(encoding="utf-8") == await reference.render()


async def test_every_tool_of_ours_has_a_title_texts_hints_and_schemas(reference: ModuleType) -> None:
    for server, _ in reference.servers():
        await server.start()
        async with HTTPMCPClient(f"http://127.0.0.1:{server.port}") as client:
            tools = await client.list_tools()
        await server.stop()
        assert tools
        for tool in tools:
            assert tool["title"] and tool["description"] and tool["outputSchema"]["type"] == "object", tool["name"]
            assert set(tool["annotations"]) >= {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}
            assert all(each["description"] for each in tool["inputSchema"]["properties"].values()), tool["name"]
