"""The transport-free half of a server: its name, its tools, and the SDK's protocol kernel that dispatches to them."""

import logging
from abc import ABC, abstractmethod
from typing import Any, cast

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    ToolAnnotations,
)

from tale.mcp.tools import RegisteredTool, ToolContext, ToolFunction, internal_failure

__all__ = ["BaseMCPServer", "ToolContext"]

logger = logging.getLogger(__name__)


class BaseMCPServer(ABC):
    """A named set of tools. Subclasses give it a transport."""

    def __init__(self, name: str, *, version: str, instructions: str | None = None) -> None:
        self.name = name
        self.version = version
        self._tools: dict[str, RegisteredTool] = {}
        self._kernel: Server[Any] = Server(
            name,
            version=version,
            instructions=instructions,
            get_tool_input_schema=self._input_schema,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
        )

    def add_tool(
        self,
        function: ToolFunction,
        *,
        title: str | None = None,
        read_only: bool = False,
        destructive: bool = False,
        idempotent: bool = False,
    ) -> None:
        """Offer a typed async function as a tool of its own name.

        Its docstring's first part describes the tool, its Args section (Google style) the parameters. Raises ValueError
        for a name that is taken.
        """
        if function.__name__ in self._tools:
            raise ValueError(f"there is a tool {function.__name__} already")
        annotations = ToolAnnotations(
            title=title,
            read_only_hint=read_only,
            destructive_hint=destructive,
            idempotent_hint=idempotent or read_only,
            open_world_hint=False,
        )
        self._tools[function.__name__] = RegisteredTool.from_function(function, title, annotations)

    @abstractmethod
    async def start(self) -> None:
        """Begin to serve."""

    @abstractmethod
    async def stop(self, grace_s: float = 0.0) -> None:
        """Stop serving; requests in flight get `grace_s` seconds to end."""

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        tool = self._tools.get(name)
        return tool.listing.input_schema if tool else None

    async def _list_tools(
        self, context: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=[tool.listing for tool in self._tools.values()])

    async def _call_tool(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}; tools/list names those there are")
        try:
            return await tool.call(params.arguments or {}, cast("ToolContext", context.request))
        except MCPError:
            raise
        except Exception:  # the edge of a request: whatever a tool did wrong must not reach the client as it is
            logger.exception("The tool %s broke off.", params.name)
            return internal_failure()
