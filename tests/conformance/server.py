"""The server that the conformance suite is run against: `python -m conformance.server PORT`, from the folder tests."""

import asyncio
import sys
from typing import Any

from mcp.types import PromptMessage, TextContent

from conformance.asking_tools import add_asking_tools
from conformance.content_tools import PNG, add_content_tools, embedded, image
from conformance.task_tools import add_task_tools
from tale.mcp.base_server import BaseMCPServer
from tale.mcp.http_server import HTTPMCPServer

TEMPLATE = "test://template/{id}/data"


async def static_text() -> str:
    """A text that does not change."""
    return "This is the content of the static text resource."


async def static_binary() -> bytes:
    """An image that does not change."""
    return PNG


async def watched_resource() -> str:
    """A text that clients subscribe to."""
    return "This is watched."


async def template_data(id: str) -> dict[str, Any]:
    """Data by its id."""
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


async def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


async def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with two arguments.

    Args:
        arg1: First test argument.
        arg2: Second test argument.
    """
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


async def test_prompt_with_embedded_resource(resourceUri: str) -> list[PromptMessage]:
    """A prompt that holds a resource.

    Args:
        resourceUri: URI of the resource to embed.
    """
    resource = embedded(resourceUri, "Embedded resource content for testing.")
    question = TextContent(text="Please process the embedded resource above.")
    return [PromptMessage(role="user", content=resource), PromptMessage(role="user", content=question)]


async def test_prompt_with_image() -> list[PromptMessage]:
    """A prompt that holds an image."""
    question = TextContent(text="Please analyze the image above.")
    return [PromptMessage(role="user", content=image()), PromptMessage(role="user", content=question)]


async def suggestions(typed: str) -> list[str]:
    """Words that begin with what was typed."""
    return [word for word in ("paris", "park", "party") if word.startswith(typed)]


def add_changing_tools(server: BaseMCPServer) -> None:
    """Tools that change what the server offers."""

    async def passing() -> str:
        """Come and go."""
        return "gone"

    async def test_trigger_tool_change() -> TextContent:
        """Add a tool and take it away."""
        server.add_tool(passing)
        server.remove_tool(passing.__name__)
        return TextContent(text="The tools changed.")

    async def test_trigger_prompt_change() -> TextContent:
        """Add a prompt and take it away."""
        server.add_prompt(passing)
        server.remove_prompt(passing.__name__)
        return TextContent(text="The prompts changed.")

    server.add_tool(test_trigger_tool_change)
    server.add_tool(test_trigger_prompt_change)


def build(port: int = 0) -> HTTPMCPServer:
    """The server with all fixtures."""

    async def health() -> dict[str, Any]:
        return {"status": "ok"}

    server = HTTPMCPServer("tale-conformance", version="1.0.0", port=port, health=health)
    add_content_tools(server)
    add_asking_tools(server)
    add_changing_tools(server)
    add_task_tools(server)
    server.add_resource("test://static-text", static_text, mime_type="text/plain")
    server.add_resource("test://static-binary", static_binary, mime_type="image/png")
    server.add_resource("test://watched-resource", watched_resource, mime_type="text/plain")
    server.add_resource(TEMPLATE, template_data)
    for prompt in (test_simple_prompt, test_prompt_with_arguments):
        server.add_prompt(prompt)
    for prompt in (test_prompt_with_embedded_resource, test_prompt_with_image):
        server.add_prompt(prompt)
    server.add_completion(test_prompt_with_arguments.__name__, "arg1", suggestions)
    server.add_completion(TEMPLATE, "id", suggestions)
    server.add_logging()
    return server


async def main() -> None:
    """Serve until the process is ended."""
    server = build(int(sys.argv[1]))
    await server.start()
    print(f"http://localhost:{server.port}/mcp", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
