"""The transport-free half of a server: its tools, resources and prompts, and the SDK's kernel that serves them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    EmptyResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
    SetLevelRequestParams,
    ToolAnnotations,
)

from tale.credentials import Scope
from tale.mcp.access import Access
from tale.mcp.changes import Changes, PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged
from tale.mcp.completions import CompletionFunction, Completions
from tale.mcp.kernel import Kernel
from tale.mcp.long_calls import BecameTask, LongCallMethods, LongCalls
from tale.mcp.prompts import PromptFunction, Prompts
from tale.mcp.quick_calls import QuickCalls
from tale.mcp.resources import JSON_TYPE, ResourceFunction, Resources
from tale.mcp.tool_context import CallOrigin, InputNeeded, ToolContext, exchange_of
from tale.mcp.tools import RegisteredTool, ToolFunction
from tale.mcp.wire import Message

__all__ = ["BaseMCPServer", "CallOrigin", "ToolContext"]

Request = ServerRequestContext[Any]


class BaseMCPServer(ABC):
    """A named set of tools, resources and prompts. Subclasses give it a transport.

    What is added or removed while the server runs is told to the clients that asked to be told.
    """

    def __init__(self, name: str, *, version: str, instructions: str | None = None) -> None:
        self.name = name
        self.version = version
        self.changes: Final = Changes()
        self.access: Final = Access()
        self._tools: dict[str, RegisteredTool] = {}
        self._prompts = Prompts()
        self._resources = Resources()
        self._completions = Completions()
        self._kernel = Kernel(
            name,
            self.changes,
            version=version,
            instructions=instructions,
            get_tool_input_schema=self._input_schema,
            on_list_tools=self._list_tools,
        )
        self._kernel.add_request_handler("tools/call", CallToolRequestParams, self._call_tool)
        self._quick_calls = QuickCalls(self._tools, server_info=self._kernel.server_info_stamp)

    def add_tool(
        self,
        function: ToolFunction,
        *,
        title: str | None = None,
        read_only: bool = False,
        destructive: bool = False,
        idempotent: bool = False,
        scope: Scope | None = None,
        input_schema: Mapping[str, Any] | None = None,
    ) -> None:
        """Offer a typed async function as a tool of its own name.

        Its docstring's first part describes the tool, its Args section (Google style) the parameters. `input_schema`
        is listed in place of what the signature gives. `scope` is what a caller's key has to be good for: by default to
        read for a tool that only reads, to submit for others. Raises ValueError for a name that is taken.
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
        self._tools[function.__name__] = RegisteredTool.from_function(function, title, annotations, input_schema)
        self.access.set(function.__name__, scope or (Scope.READ if read_only else Scope.SUBMIT))
        self.changes.tell(ToolsListChanged())

    def remove_tool(self, name: str) -> None:
        """Take a tool back; raises KeyError if there is none of that name."""
        del self._tools[name]
        self.changes.tell(ToolsListChanged())

    def add_resource(
        self, uri: str, function: ResourceFunction, *, title: str | None = None, mime_type: str = JSON_TYPE
    ) -> None:
        """Offer what an async function returns under a URI; text and bytes are sent as they are, the rest as JSON.

        `uri` may be a template as in RFC 6570 ("tale://tasks/{task_id}"), whose variables are the function's
        parameters. The function's name and docstring describe the resource. Raises ValueError for a URI that is taken.
        """
        self._resources.add(uri, function, title=title, mime_type=mime_type)
        self._resources.serve(self._kernel)
        self.changes.tell(ResourcesListChanged())

    def remove_resource(self, uri: str) -> None:
        """Take a resource or a template back; raises KeyError if there is none."""
        self._resources.remove(uri)
        self.changes.tell(ResourcesListChanged())

    def resource_updated(self, uri: str) -> None:
        """Tell the clients that subscribed to a resource that it changed."""
        self.changes.tell(ResourceUpdated(uri))

    def add_prompt(self, function: PromptFunction, *, title: str | None = None) -> None:
        """Offer an async function of strings, which returns a string or messages, as a prompt of its own name.

        Raises ValueError for a name that is taken.
        """
        self._prompts.add(function, title)
        self._prompts.serve(self._kernel)
        self.changes.tell(PromptsListChanged())

    def remove_prompt(self, name: str) -> None:
        """Take a prompt back; raises KeyError if there is none of that name."""
        self._prompts.remove(name)
        self.changes.tell(PromptsListChanged())

    def add_completion(self, reference: str, argument: str, function: CompletionFunction) -> None:
        """Suggest values for an argument of a prompt (by name) or of a resource template (by URI)."""
        self._completions.add(reference, argument, function)
        self._completions.serve(self._kernel)

    def add_logging(self) -> None:
        """Let clients of the handshake era say which log messages they want; ToolContext.log sends them."""
        self._kernel.add_request_handler("logging/setLevel", SetLevelRequestParams, self._set_log_level)

    def add_tasks(self, calls: LongCalls) -> None:
        """Let clients of the protocol's tasks extension ask after the calls that became tasks."""
        LongCallMethods(calls).serve(self._kernel)

    def tool_result(self, name: str, answer: object) -> CallToolResult:
        """An answer as the tool of that name would give it; for a call that became a task."""
        return self._tools[name].result(answer)

    @abstractmethod
    async def start(self) -> None:
        """Begin to serve."""

    @abstractmethod
    async def stop(self, grace_s: float = 0.0) -> None:
        """Stop serving; requests in flight get `grace_s` seconds to end."""

    def _input_schema(self, name: str) -> dict[str, Any] | None:
        """The schema of a tool that has parameters sent as headers too, which are to be compared."""
        tool = self._tools.get(name)
        return tool.listing.input_schema if tool and tool.takes_headers else None

    async def _list_tools(self, request: Request, params: PaginatedRequestParams | None) -> ListToolsResult:
        scope = exchange_of(request).caller.scope  # a tool that the caller may not call is of no use to it
        return ListToolsResult(
            tools=[tool.listing for name, tool in self._tools.items() if scope.allows(self.access.of_tool(name))]
        )

    async def _call_tool(
        self, request: Request, params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult | Message:
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}; tools/list names those there are")
        try:
            return await tool.called(params.arguments or {}, ToolContext.of(request))
        except (InputNeeded, BecameTask) as end:
            return end.result

    async def _set_log_level(self, request: Request, params: SetLevelRequestParams) -> EmptyResult:
        exchange_of(request).set_log_level(params.level)
        return EmptyResult()
