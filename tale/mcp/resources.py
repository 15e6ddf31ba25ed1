"""Resources from plain async functions: one per URI, or one for all URIs of a template."""

import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.uri_template import UriTemplate
from mcp.types import (
    INVALID_PARAMS,
    BlobResourceContents,
    EmptyResult,
    InputRequiredResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    SubscribeRequestParams,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic_core import to_json

from tale.exceptions import TaleBaseException
from tale.mcp.signatures import describe
from tale.mcp.tool_context import InputNeeded, ToolContext, exchange_of
from tale.mcp.wire import ERROR_META_KEY

JSON_TYPE: Final = "application/json"
MOST_URI_CHARACTERS: Final = 2048

ResourceFunction = Callable[..., Awaitable[object]]
Request = ServerRequestContext[Any]


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads a resource: its function, how it takes the call's context, and the type of what it returns."""

    function: ResourceFunction
    context_parameter: str | None
    mime_type: str

    async def read(self, uri: str, variables: dict[str, Any], context: ToolContext) -> ReadResourceResult:
        """The contents: text and bytes as they are, anything else as JSON."""
        if self.context_parameter:
            variables = {**variables, self.context_parameter: context}
        content = await self.function(**variables)
        if isinstance(content, bytes):
            blob = base64.b64encode(content).decode()
            return ReadResourceResult(contents=[BlobResourceContents(uri=uri, mime_type=self.mime_type, blob=blob)])
        text = content if isinstance(content, str) else to_json(content).decode()
        return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=self.mime_type, text=text)])


class Resources:
    """The resources of a server."""

    def __init__(self) -> None:
        self._fixed: dict[str, tuple[Resource, Reader]] = {}
        self._templates: dict[str, tuple[ResourceTemplate, UriTemplate, Reader]] = {}

    def add(self, uri: str, function: ResourceFunction, *, title: str | None, mime_type: str) -> None:
        """Register a resource under a URI, or under a template of URIs whose variables are the function's parameters.

        Raises ValueError for a URI that is taken.
        """
        if uri in self._fixed or uri in self._templates:
            raise ValueError(f"there is a resource {uri} already")
        described = describe(function)
        reader = Reader(function, described.context_parameter, mime_type)
        texts: dict[str, Any] = {"title": title, "description": described.description, "mime_type": mime_type}
        if UriTemplate.is_template(uri):
            template = ResourceTemplate(name=described.name, uri_template=uri, **texts)
            self._templates[uri] = (template, UriTemplate.parse(uri), reader)
        else:
            self._fixed[uri] = (Resource(name=described.name, uri=uri, **texts), reader)

    def remove(self, uri: str) -> None:
        """Take a resource or template back; raises KeyError if there is none."""
        del (self._fixed if uri in self._fixed else self._templates)[uri]

    def serve(self, kernel: Server[Any]) -> None:
        """Have a kernel serve them."""
        kernel.add_request_handler("resources/list", PaginatedRequestParams, self._list)
        kernel.add_request_handler("resources/templates/list", PaginatedRequestParams, self._list_templates)
        kernel.add_request_handler("resources/read", ReadResourceRequestParams, self._read)
        kernel.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        kernel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)

    async def _list(self, request: Request, params: PaginatedRequestParams) -> ListResourcesResult:
        return ListResourcesResult(resources=[listing for listing, _ in self._fixed.values()])

    async def _list_templates(self, request: Request, params: PaginatedRequestParams) -> ListResourceTemplatesResult:
        return ListResourceTemplatesResult(resource_templates=[each for each, _, _ in self._templates.values()])

    async def _read(
        self, request: Request, params: ReadResourceRequestParams
    ) -> ReadResourceResult | InputRequiredResult:
        reader, variables = self._require(params.uri)
        try:
            return await reader.read(params.uri, variables, ToolContext.of(request))
        except InputNeeded as needed:
            return needed.result
        except TaleBaseException as error:
            told = {"type": type(error).__name__, "message": error.message}
            raise MCPError(INVALID_PARAMS, error.message, {"uri": params.uri, ERROR_META_KEY: told}) from error

    async def _subscribe(self, request: Request, params: SubscribeRequestParams) -> EmptyResult:
        self._require(params.uri)
        exchange_of(request).subscribe(params.uri)
        return EmptyResult()

    async def _unsubscribe(self, request: Request, params: UnsubscribeRequestParams) -> EmptyResult:
        exchange_of(request).unsubscribe(params.uri)
        return EmptyResult()

    def _require(self, uri: str) -> tuple[Reader, dict[str, Any]]:
        """What reads the resource, and with which variables."""
        if uri in self._fixed:
            return self._fixed[uri][1], {}
        for _, template, reader in self._templates.values():
            variables = template.match(uri, max_uri_length=MOST_URI_CHARACTERS)
            if variables is not None:
                return reader, dict(variables)
        raise MCPError(INVALID_PARAMS, f"Resource not found: {uri[:MOST_URI_CHARACTERS]}", {"uri": uri})
