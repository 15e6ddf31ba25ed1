"""Whoever sits at a client and answers what a server asks."""

from typing import Any

from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer

CAPABILITIES: dict[str, Any] = {"elicitation": {}, "sampling": {}, "roots": {}}


class Person:
    """Answers what a server asks, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Fill in a form, say something in place of a model, name a folder."""
        self.asked.append((method, params))
        if method == "roots/list":
            return {"roots": [{"uri": "file:///home"}]}
        if method == "sampling/createMessage":
            return {"role": "assistant", "model": "mine", "content": {"type": "text", "text": "Paris"}}
        fields = params["requestedSchema"]["properties"]
        return {"action": "accept", "content": {name: f"my {name}" for name in fields}}


def asking(server: HTTPMCPServer, person: Person, modern: bool, **given: Any) -> HTTPMCPClient:
    """A client at which that person sits."""
    url = f"http://127.0.0.1:{server.port}"
    return HTTPMCPClient(url, on_question=person.answer, modern=modern, **{"capabilities": CAPABILITIES, **given})
