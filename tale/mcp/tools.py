"""Tools from plain typed async functions: schemas from the signature, texts from the docstring, errors for people."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from mcp import MCPError
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata, func_metadata
from mcp.shared.inbound import X_MCP_HEADER_KEY
from mcp.types import CallToolResult, ContentBlock, TextContent, Tool, ToolAnnotations
from pydantic import TypeAdapter, ValidationError

from tale.exceptions import TaleBaseException
from tale.mcp.long_calls import BecameTask
from tale.mcp.signatures import Described, describe
from tale.mcp.tool_context import CallOrigin, InputNeeded
from tale.mcp.wire import ERROR_META_KEY

INTERNAL_ERROR_TEXT: Final = "Internal error: the server's log has the details; try again or report it."

ToolFunction = Callable[..., Awaitable[Any]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a function's signature and docstring give; the same for each server that offers it."""

    described: Described
    metadata: FuncMetadata
    input_schema: Mapping[str, Any]


_readings: Final[WeakKeyDictionary[Any, _Reading]] = WeakKeyDictionary()  # of methods: to read one takes some 10 ms


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    """A tool as it is called and as it is listed."""

    function: ToolFunction
    metadata: FuncMetadata
    context_parameter: str | None
    listing: Tool
    takes_headers: bool  # some parameters are to be sent as headers too
    converses: bool  # its context is the way back to the client

    @classmethod
    def from_function(
        cls,
        function: ToolFunction,
        title: str | None,
        annotations: ToolAnnotations,
        input_schema: Mapping[str, Any] | None = None,
    ) -> "RegisteredTool":
        """Read a typed async function; raises TypeError for one that is not async or whose answer has no schema.

        An answer that is content (text, images, resources) needs none. `input_schema` is listed in place of the one
        that the signature gives.
        """
        reading = _read(function)
        described, metadata = reading.described, reading.metadata
        listing = Tool(
            name=described.name,
            title=title,
            description=described.description,
            input_schema=dict(reading.input_schema if input_schema is None else input_schema),
            output_schema=metadata.output_schema,
            annotations=annotations,
        )
        takes_headers = X_MCP_HEADER_KEY in json.dumps(listing.input_schema)
        return cls(function, metadata, described.context_parameter, listing, takes_headers, described.converses)

    @property
    def is_plain(self) -> bool:
        """Whether it tells the client nothing before its answer, which is data that has a schema."""
        return not self.converses and self.listing.output_schema is not None

    async def called(self, arguments: dict[str, Any], context: CallOrigin) -> CallToolResult:
        """As `call`, at the edge of a request: whatever the function does wrong becomes an answer, and is logged.

        Raises MCPError, and InputNeeded and BecameTask, which end a call in another way.
        """
        try:
            return await self.call(arguments, context)
        except (MCPError, InputNeeded, BecameTask):
            raise
        except Exception:  # what a tool did wrong must not reach the client as it is
            logger.exception("The tool %s broke off.", self.listing.name)
            return _failure("ServerException", INTERNAL_ERROR_TEXT)

    async def call(self, arguments: dict[str, Any], context: CallOrigin) -> CallToolResult:
        """Validate, run, convert. Failures that are tale's own become a result that says what to do."""
        known = self.listing.input_schema["properties"]
        if unknown := [name for name in arguments if name not in known]:
            return _failure(
                "ValidationException",
                f"{self.listing.name} has no parameter {unknown[0]!r}; it takes {', '.join(known) or 'none'}.",
            )
        try:
            values = self.metadata.validate_arguments(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return _failure("ValidationException", f"{self.listing.name}: {where}: {first['msg']}.")
        if self.context_parameter:
            values[self.context_parameter] = context
        try:
            result = await self.function(**values)
        except TaleBaseException as error:
            return _failure(type(error).__name__, error.message, error.context)
        return self.result(result)

    def result(self, answer: object) -> CallToolResult:
        """What the function returned, as the protocol's result."""
        converted = self.metadata.convert_result(answer)
        if not isinstance(converted, CallToolResult):
            raise TypeError(f"the tool {self.listing.name} returned {type(answer).__name__}")
        return converted


def _read(function: ToolFunction) -> _Reading:
    method = getattr(function, "__func__", None)
    if method in _readings:
        return _readings[method]
    described = describe(function)
    skipped = [described.context_parameter] if described.context_parameter else []
    metadata = _with_adapter(func_metadata(function, skip_names=skipped))
    if metadata.output_schema is None and not _is_content(get_type_hints(function).get("return")):
        raise TypeError(
            f"the tool {described.name} needs an answer with a JSON schema, as of a dataclass without slots"
        )
    schema = metadata.arg_model.model_json_schema(by_alias=True)
    for name, text in described.parameter_texts.items():
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = text
    reading = _Reading(described, metadata, {**schema, "additionalProperties": False})
    if method is not None:
        _readings[method] = reading
    return reading


def _with_adapter(metadata: FuncMetadata) -> FuncMetadata:
    """The same, with the adapter of its answers at hand: found by pydantic's way at each call it costs 11 us."""
    if metadata.output_model is not None:
        adapter = metadata._output_adapter(metadata.output_model)  # pyright: ignore[reportPrivateUsage]  - as said

        def kept(_model: object) -> TypeAdapter[Any]:
            return adapter

        object.__setattr__(metadata, "_output_adapter", kept)
    return metadata


def _is_content(annotation: object) -> bool:
    """Whether a function's answer is made of the protocol's content, which is shown to the model as it is."""
    if get_origin(annotation) in (list, tuple, Union, UnionType):
        return all(_is_content(part) for part in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, (*get_args(ContentBlock), CallToolResult))


def _failure(kind: str, message: str, context: Mapping[str, object] | None = None) -> CallToolResult:
    plain = json.loads(json.dumps(dict(context or {}), default=str))
    return CallToolResult.model_validate(
        {
            "content": [TextContent(type="text", text=message)],
            "isError": True,
            "_meta": {ERROR_META_KEY: {"type": kind, "message": message, "context": plain}},
        }
    )
