"""Suggestions for the arguments of prompts and of resource templates, while a user types."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.types import CompleteRequestParams, CompleteResult, Completion, PromptReference

MOST_VALUES: Final = 100  # the protocol's limit

CompletionFunction = Callable[[str], Awaitable[Sequence[str]]]


class Completions:
    """The suggestions of a server, by the prompt or template and its argument."""

    def __init__(self) -> None:
        self._functions: dict[tuple[str, str], CompletionFunction] = {}

    def add(self, reference: str, argument: str, function: CompletionFunction) -> None:
        """Have `function` suggest values, best first, from what was typed so far."""
        self._functions[reference, argument] = function

    def serve(self, kernel: Server[Any]) -> None:
        """Have a kernel serve them."""
        kernel.add_request_handler("completion/complete", CompleteRequestParams, self._complete)

    async def _complete(self, request: ServerRequestContext[Any], params: CompleteRequestParams) -> CompleteResult:
        """The suggestions; none for what has no function."""
        reference = params.ref.name if isinstance(params.ref, PromptReference) else params.ref.uri
        function = self._functions.get((reference, params.argument.name))
        values = list(await function(params.argument.value)) if function else []
        shown = values[:MOST_VALUES]
        return CompleteResult(completion=Completion(values=shown, total=len(values), has_more=len(values) > len(shown)))
