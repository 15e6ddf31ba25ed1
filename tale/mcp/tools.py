"""Tools from plain typed async functions: schemas from the signature, texts from the docstring, errors for people."""

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, get_type_hints

import docstring_parser
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata, func_metadata
from mcp.types import CallToolResult, TextContent, Tool, ToolAnnotations
from pydantic import ValidationError

from tale.exceptions import TaleBaseException
from tale.mcp.wire import ERROR_META_KEY

INTERNAL_ERROR_TEXT: Final = "Internal error: the server's log has the details; try again or report it."

ToolFunction = Callable[..., Awaitable[Any]]

logger = logging.getLogger(__name__)


class ToolContext(Protocol):
    """What a tool may know of the call it serves; handed to a parameter annotated with this class."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the HTTP request."""
        ...

    @property
    def trace_id(self) -> str:
        """Trace the call belongs to, 32 hexadecimal digits: the caller's (W3C traceparent) or a new one."""
        ...

    def concerns(self, task_id: str) -> None:
        """Note which task the call turned out to be about, for the record; an argument `task_id` is noted anyway."""
        ...

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Tell the client how far the call has come; nothing is sent where it did not ask for that."""
        ...


@dataclass(frozen=True, slots=True)
class RegisteredTool:
    """A tool as it is called and as it is listed."""

    function: ToolFunction
    metadata: FuncMetadata
    context_parameter: str | None
    listing: Tool

    @classmethod
    def from_function(cls, function: ToolFunction, title: str | None, annotations: ToolAnnotations) -> "RegisteredTool":
        """Read a typed async function; raises TypeError for one that is not async or whose answer has no schema."""
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"the tool {function.__name__} must be an async function")
        hints = get_type_hints(function)
        context_parameter = next((name for name, hint in hints.items() if hint is ToolContext), None)
        metadata = func_metadata(function, skip_names=[context_parameter] if context_parameter else [])
        if metadata.output_schema is None:
            raise TypeError(
                f"the tool {function.__name__} needs an answer with a JSON schema, as of a dataclass without slots"
            )
        described = docstring_parser.parse(inspect.getdoc(function) or "")
        schema = metadata.arg_model.model_json_schema(by_alias=True)
        for parameter in described.params:
            if parameter.arg_name in schema.get("properties", {}) and parameter.description:
                schema["properties"][parameter.arg_name]["description"] = parameter.description
        description = "\n\n".join(filter(None, (described.short_description, described.long_description)))
        listing = Tool(
            name=function.__name__,
            title=title,
            description=description,
            input_schema={**schema, "additionalProperties": False},
            output_schema=metadata.output_schema,
            annotations=annotations,
        )
        return cls(function, metadata, context_parameter, listing)

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> CallToolResult:
        """Validate, run, convert. Every failure but a cancellation becomes a result that says what to do."""
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
        converted = self.metadata.convert_result(result)
        if not isinstance(converted, CallToolResult):
            raise TypeError(f"the tool {self.listing.name} returned {type(result).__name__}")
        return converted


def internal_failure() -> CallToolResult:
    """What a client is told of an error that is ours; the details stay in the log."""
    return _failure("ServerException", INTERNAL_ERROR_TEXT)


def _failure(kind: str, message: str, context: Mapping[str, object] | None = None) -> CallToolResult:
    plain = json.loads(json.dumps(dict(context or {}), default=str))
    return CallToolResult.model_validate(
        {
            "content": [TextContent(type="text", text=message)],
            "isError": True,
            "_meta": {ERROR_META_KEY: {"type": kind, "message": message, "context": plain}},
        }
    )
