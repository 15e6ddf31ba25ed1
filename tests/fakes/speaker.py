"""Somebody who talks with the UX agent, and what messages are taken for that begin in certain ways."""

import asyncio
from typing import Any, Final

from fakes.scripted_backend import ScriptedBackend

from tale.mcp.http_client import HTTPMCPClient
from tale.records import Intent

INTENTS: Final[dict[str, Intent]] = {
    "Write": "task",
    "Make": "task",
    "What was my last": "status",
    "Check": "status",
    "How": "status",
    "Why": "status",
    "stop": "control",
    "cancel": "control",
    "pause": "control",
    "resume": "control",
    "again": "control",
    "put": "control",
    "use": "control",
    "start over": "control",
    "answer": "control",
    "forget": "control",
    "report.pdf": "ambiguous",
    "that file": "ambiguous",
}


class Speaker:
    """Somebody who talks in one conversation."""

    def __init__(self, client: HTTPMCPClient, conversation_id: str | None = None) -> None:
        self.client = client
        self.id = conversation_id
        self.last = -1

    async def say(self, message: str, *, again: bool = False, after: int | None = None) -> dict[str, Any]:
        given = {"message": message, "conversation_id": self.id, "again": again, "after": after}
        answer = await self.client.call_tool("conversation", given)
        self.id, self.last = answer["conversation_id"], answer["position"]
        return answer

    async def hear(self, *, timeout_s: int = 30, on_progress: Any = None) -> list[dict[str, Any]]:
        """What has been said since."""
        given = {"conversation_id": self.id, "after": self.last, "timeout_s": timeout_s}
        news = await self.client.call_tool("follow_conversation", given, on_progress=on_progress)
        self.last = max([self.last, *(turn["position"] for turn in news["turns"])])
        return news["turns"]

    async def history(self) -> dict[str, Any]:
        return await self.client.call_tool("get_history", {"conversation_id": self.id, "limit": 200})


def held(backend: ScriptedBackend) -> asyncio.Event:
    """From now on the model stops after its first word, until that is set."""
    backend.started.clear()
    backend.word_gate = asyncio.Event()
    return backend.word_gate
