"""Reads what a plain async function says of itself: its texts, and whether it wants the context of the call."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import docstring_parser

from tale.mcp.tool_context import CallOrigin, ToolContext


@dataclass(frozen=True, slots=True)
class Described:
    """A function's texts, from a docstring in Google's style, and the name of its parameter for the context.

    It `converses` when it is given the way back to the client, and not just where the call comes from.
    """

    name: str
    description: str
    parameter_texts: Mapping[str, str]
    context_parameter: str | None
    converses: bool


def describe(function: Callable[..., Any]) -> Described:
    """Read a function; raises TypeError for one that is not async."""
    name = function.__name__
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{name} must be an async function")
    parsed = docstring_parser.parse(inspect.getdoc(function) or "", style=docstring_parser.DocstringStyle.GOOGLE)
    contexts = {name: hint for name, hint in get_type_hints(function).items() if hint in (CallOrigin, ToolContext)}
    return Described(
        name=name,
        description="\n\n".join(filter(None, (parsed.short_description, parsed.long_description))),
        parameter_texts={each.arg_name: each.description for each in parsed.params if each.description},
        context_parameter=next(iter(contexts), None),
        converses=ToolContext in contexts.values(),
    )
