"""Prompts from plain async functions: arguments from the signature, texts from the docstring."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.types import (
    INVALID_PARAMS,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    ListPromptsResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
)

from tale.exceptions import TaleBaseException
from tale.mcp.signatures import describe
from tale.mcp.tool_context import InputNeeded, ToolContext

PromptFunction = Callable[..., Awaitable[str | list[PromptMessage]]]
Request = ServerRequestContext[Any]


@dataclass(frozen=True, slots=True)
class RegisteredPrompt:
    """A prompt as it is filled in and as it is listed."""

    function: PromptFunction
    context_parameter: str | None
    listing: Prompt

    @classmethod
    def from_function(cls, function: PromptFunction, title: str | None) -> "RegisteredPrompt":
        """Read an async function whose parameters are strings; raises TypeError for others."""
        described = describe(function)
        arguments: list[PromptArgument] = []
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
            if name == described.context_parameter:
                continue
            if parameter.annotation not in (str, str | None):
                raise TypeError(f"the argument {name} of the prompt {described.name} must be a string")
            is_required = parameter.default is inspect.Parameter.empty
            text = described.parameter_texts.get(name)
            arguments.append(PromptArgument(name=name, description=text, required=is_required))
        listing = Prompt(name=described.name, title=title, description=described.description, arguments=arguments)
        return cls(function, described.context_parameter, listing)

    async def fill(self, arguments: dict[str, str], context: ToolContext) -> GetPromptResult:
        """The messages; a string becomes one of the user's. Raises MCPError for wrong arguments."""
        known = {argument.name: argument.required for argument in self.listing.arguments or []}
        unknown = [name for name in arguments if name not in known]
        missing = [name for name, is_required in known.items() if is_required and name not in arguments]
        if unknown or missing:
            wrong = f"has no argument {unknown[0]!r}" if unknown else f"needs the argument {missing[0]!r}"
            takes = ", ".join(known) or "none"
            raise MCPError(INVALID_PARAMS, f"The prompt {self.listing.name} {wrong}; it takes {takes}.")
        values: dict[str, Any] = dict(arguments)
        if self.context_parameter:
            values[self.context_parameter] = context
        try:
            filled = await self.function(**values)
        except TaleBaseException as error:
            raise MCPError(INVALID_PARAMS, error.message) from error
        if isinstance(filled, str):
            filled = [PromptMessage(role="user", content=TextContent(text=filled))]
        return GetPromptResult(description=self.listing.description, messages=filled)


class Prompts:
    """The prompts of a server."""

    def __init__(self) -> None:
        self._prompts: dict[str, RegisteredPrompt] = {}

    def add(self, function: PromptFunction, title: str | None) -> None:
        """Register a prompt; raises ValueError for a name that is taken."""
        if function.__name__ in self._prompts:
            raise ValueError(f"there is a prompt {function.__name__} already")
        self._prompts[function.__name__] = RegisteredPrompt.from_function(function, title)

    def remove(self, name: str) -> None:
        """Take a prompt back; raises KeyError if there is none of that name."""
        del self._prompts[name]

    def serve(self, kernel: Server[Any]) -> None:
        """Have a kernel serve them."""
        kernel.add_request_handler("prompts/list", PaginatedRequestParams, self._list)
        kernel.add_request_handler("prompts/get", GetPromptRequestParams, self._get)

    async def _list(self, request: Request, params: PaginatedRequestParams) -> ListPromptsResult:
        return ListPromptsResult(prompts=[prompt.listing for prompt in self._prompts.values()])

    async def _get(self, request: Request, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
        prompt = self._prompts.get(params.name)
        if prompt is None:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.name}; prompts/list names those there are")
        try:
            return await prompt.fill(params.arguments or {}, ToolContext.of(request))
        except InputNeeded as needed:
            return needed.result
