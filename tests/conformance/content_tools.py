"""Tools of the conformance suite that answer with one kind of content or another, in one way or another."""

import asyncio
import base64
import io
import wave
from typing import Annotated, Any, Final

from mcp.types import AudioContent, ContentBlock, EmbeddedResource, ImageContent, TextContent, TextResourceContents
from pydantic import Field

from tale.exceptions import TaskException
from tale.mcp.base_server import BaseMCPServer, ToolContext

STEP_S: Final = 0.05  # that the suite asks for between two messages
PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
SCHEMA_2020_12: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def image() -> ImageContent:
    """One red pixel."""
    return ImageContent(data=base64.b64encode(PNG).decode(), mime_type="image/png")


def sound() -> AudioContent:
    """A moment of silence."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(b"\0\0" * 8)
    return AudioContent(data=base64.b64encode(buffer.getvalue()).decode(), mime_type="audio/wav")


def embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    """A resource within an answer."""
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


async def test_simple_text() -> TextContent:
    """Answer with a line of text."""
    return TextContent(text="This is a simple text response for testing.")


async def test_image_content() -> ImageContent:
    """Answer with an image."""
    return image()


async def test_audio_content() -> AudioContent:
    """Answer with a sound."""
    return sound()


async def test_embedded_resource() -> EmbeddedResource:
    """Answer with a resource."""
    return embedded("test://embedded-resource", "This is an embedded resource content.")


async def test_multiple_content_types() -> list[ContentBlock]:
    """Answer with several kinds of content."""
    resource = embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
    return [TextContent(text="Multiple content types test:"), image(), resource]


async def test_tool_with_logging(context: ToolContext) -> TextContent:
    """Send three log messages."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.log("info", text)
        await asyncio.sleep(STEP_S)
    return TextContent(text="Three messages were logged.")


async def test_logging_tool(context: ToolContext) -> TextContent:
    """Log something, where the client wants it."""
    await context.log("info", "This is logged.")
    return TextContent(text="Logged.")


async def test_tool_with_progress(context: ToolContext) -> TextContent:
    """Tell the progress three times."""
    for done in (0, 50, 100):
        await context.progress(done, 100)
        await asyncio.sleep(STEP_S)
    return TextContent(text="Done, with progress.")


async def test_error_handling() -> TextContent:
    """Fail on purpose."""
    raise TaskException("This tool intentionally returns an error for testing")


async def test_reconnection(context: ToolContext) -> TextContent:
    """Close the stream, and answer when the client comes back."""
    await context.close_stream()
    await asyncio.sleep(STEP_S)
    return TextContent(text="Answered after the stream was closed.")


async def json_schema_2020_12_tool(
    name: str | None = None,
    address: dict[str, str] | None = None,
    contactMethod: str | None = None,
    phone: str | None = None,
    email: str | None = None,
) -> TextContent:
    """Take arguments that a rich schema describes."""
    return TextContent(text=f"{name}, {address}, {contactMethod}, {phone}, {email}")


async def test_x_mcp_header(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> TextContent:
    """Take an argument that is mirrored in a header."""
    return TextContent(text=f"The region is {region}.")


def add_content_tools(server: BaseMCPServer) -> None:
    """Register them."""
    for tool in (test_simple_text, test_image_content, test_audio_content, test_embedded_resource):
        server.add_tool(tool, read_only=True)
    for tool in (test_multiple_content_types, test_tool_with_logging, test_logging_tool, test_tool_with_progress):
        server.add_tool(tool)
    for tool in (test_error_handling, test_reconnection, test_x_mcp_header):
        server.add_tool(tool)
    server.add_tool(json_schema_2020_12_tool, input_schema=SCHEMA_2020_12)
