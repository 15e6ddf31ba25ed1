"""A typed async function becomes a tool: its schemas, its texts, its validation, its failures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from mcp.types import TextContent, ToolAnnotations

from tale.exceptions import ModelException
from tale.mcp.tool_context import ToolContext
from tale.mcp.tools import INTERNAL_ERROR_TEXT, RegisteredTool
from tale.mcp.wire import ERROR_META_KEY


@dataclass(frozen=True)
class Reading:
    """A value with its unit."""

    value: float
    unit: str | None


class Context:
    """A call without a connection."""

    headers: Mapping[str, str] = {"X-Test": "yes"}
    trace_id = "0" * 32

    def concerns(self, task_id: str) -> None:
        """Nothing is kept."""

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Nobody is told."""


async def measure(
    context: ToolContext, place: str, unit: Literal["C", "F"] = "C", depth_m: float | None = None
) -> Reading:
    """Measure the temperature.

    It takes a moment.

    Args:
        place: Where to measure.
        unit: Degrees Celsius or Fahrenheit.
        nonsense: There is no such parameter.
    """
    if place == "nowhere":
        raise ModelException("There is no such place; name another.", {"place": place, "odd": object})
    return Reading(20.5 + (depth_m or 0), unit + context.headers["X-Test"])


def registered(function: Any, title: str | None = None) -> RegisteredTool:
    return RegisteredTool.from_function(function, title, ToolAnnotations(read_only_hint=True))


async def run(arguments: dict[str, Any]) -> Any:
    return await registered(measure).call(arguments, Context())


def text_of(result: Any) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


class Station:
    """Its readings are its own."""

    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    async def read_off(self, unit: str = "C") -> Reading:
        """Read the temperature off."""
        return Reading(self.degrees, unit)


async def test_a_method_is_read_once_and_called_of_each_server_that_offers_it() -> None:
    first, second = registered(Station(1.5).read_off, "First"), registered(Station(2.5).read_off, "Second")
    assert first.metadata is second.metadata
    assert (first.listing.title, second.listing.title) == ("First", "Second")
    assert first.listing.model_copy(update={"title": "Second"}) == second.listing
    answers = [await tool.call({}, Context()) for tool in (first, second)]
    assert [answer.structured_content["value"] for answer in answers] == [1.5, 2.5]


def test_the_signature_and_the_docstring_describe_the_tool() -> None:
    tool = registered(measure, "Thermometer").listing
    assert (tool.name, tool.title) == ("measure", "Thermometer")
    assert tool.description == "Measure the temperature.\n\nIt takes a moment."
    properties = tool.input_schema["properties"]
    assert list(properties) == ["place", "unit", "depth_m"]
    assert properties["place"]["description"] == "Where to measure."
    assert properties["unit"]["enum"] == ["C", "F"]
    assert "description" not in properties["depth_m"]
    assert tool.input_schema["required"] == ["place"]
    assert tool.output_schema is not None
    assert set(tool.output_schema["properties"]) == {"value", "unit"}


async def test_a_call_is_answered_in_text_and_in_structure() -> None:
    result = await run({"place": "here", "unit": "F", "depth_m": 2})
    assert result.structured_content == {"value": 22.5, "unit": "Fyes"}
    assert json.loads(text_of(result)) == {"value": 22.5, "unit": "Fyes"}
    assert not result.is_error


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "measure: place: Field required."),
        ({"place": "here", "unit": "K"}, "measure: unit: Input should be 'C' or 'F'."),
        ({"place": "here", "depth": 1}, "measure has no parameter 'depth'; it takes place, unit, depth_m."),
        ({"place": "here", "context": {}}, "measure has no parameter 'context'; it takes place, unit, depth_m."),
    ],
)
async def test_wrong_arguments_are_answered_with_what_would_be_right(arguments: dict[str, Any], text: str) -> None:
    result = await run(arguments)
    assert result.is_error
    assert text_of(result) == text
    assert result.meta[ERROR_META_KEY]["type"] == "ValidationException"


async def test_an_exception_of_tale_is_told_with_its_context() -> None:
    result = await run({"place": "nowhere"})
    assert result.is_error
    assert text_of(result) == "There is no such place; name another."
    assert result.meta[ERROR_META_KEY] == {
        "type": "ModelException",
        "message": "There is no such place; name another.",
        "context": {"place": "nowhere", "odd": "<class 'object'>"},
    }


async def test_other_exceptions_stay_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> str:
        """Break."""
        raise KeyError("secret")

    with pytest.raises(KeyError):
        await registered(broken).call({}, Context())
    assert text_of(await registered(broken).called({}, Context())) == INTERNAL_ERROR_TEXT
    assert "The tool broken broke off." in caplog.text


def test_a_tool_must_be_async() -> None:
    def plain() -> str:
        """Not async."""
        return ""

    with pytest.raises(TypeError, match="plain must be an async function"):
        registered(plain)


def test_an_answer_must_have_a_schema() -> None:
    async def vague() -> Any:
        """Answer with anything."""

    with pytest.raises(TypeError, match="vague needs an answer with a JSON schema"):
        registered(vague)


async def test_a_tool_without_a_docstring_has_an_empty_description() -> None:
    async def silent() -> int:
        return 5

    tool = registered(silent)
    assert tool.listing.description == ""
    assert (await tool.call({}, Context())).structured_content == {"result": 5}
