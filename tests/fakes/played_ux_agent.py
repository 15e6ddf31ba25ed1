"""A UX agent as `tale chat` sees it: the real MCP server, whose conversation goes as a test has told it to."""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from fakes.gateway import FakeGateway, task

from tale.exceptions import ValidationException
from tale.mcp.base_server import ToolContext
from tale.mcp.http_server import HTTPMCPServer

LOOK_INTERVAL_S = 0.01
TASK_WORD = "write"  # what begins so is handed off
RETRY_WORD = "retry"  # what begins so becomes a task, too, by an order


@dataclass
class Spoken:
    """One conversation: its messages, and the ids of its tasks in the order of their numbers."""

    turns: list[dict[str, Any]] = field(default_factory=list)
    task_ids: list[str] = field(default_factory=list)
    ended_at: float | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, role: str, content: str, kind: str | None, task_id: str | None = None) -> dict[str, Any]:
        """Another message."""
        turn = {"position": len(self.turns), "role": role, "kind": kind, "content": content}
        self.turns.append({**turn, "created_at": time.time(), "task_id": task_id, "rating": None})
        return self.turns[-1]


@dataclass
class PlayedUXAgent(FakeGateway):
    """Both servers in one; `words` stream as the answer, which ends when `finish` is set.

    A message that begins with "write" becomes a task that runs until `complete` is called. `replies` are answers to
    messages that stream nothing.
    """

    spoken: dict[str, Spoken] = field(default_factory=dict)
    replies: dict[str, str] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)  # how a task stands, by its id
    budgets: list[dict[str, Any]] = field(default_factory=list)
    heard: threading.Event = field(default_factory=threading.Event)  # a message is kept, its answer not yet begun
    break_off: Callable[[], None] | None = None  # done in place of an answer, once

    async def conversation(
        self,
        message: str,
        context: ToolContext,
        conversation_id: str | None = None,
        again: bool = False,
        after: int | None = None,
    ) -> dict[str, Any]:
        """Answer in words, hand a task off, or stop."""
        del after
        self.calls.append(("conversation", {"message": message, "conversation_id": conversation_id, "again": again}))
        if self.refusal:
            raise self.refusal
        conversation_id = conversation_id or str(uuid.uuid4())
        spoken = self.spoken.setdefault(conversation_id, Spoken())
        spoken.add("user", message, "chat")
        self.heard.set()
        if self.break_off:
            break_off, self.break_off = self.break_off, None
            break_off()
            await asyncio.Event().wait()
        if message in self.replies:
            return _answer(conversation_id, spoken.add("assistant", self.replies[message], "status"))
        if message.lower().startswith((TASK_WORD, RETRY_WORD)):
            return self._handed_off(conversation_id, spoken, message)
        if message == "stop":
            spoken.stop.set()
            return _answer(conversation_id, spoken.add("assistant", "Stopped.", "control"))
        return await self._said(conversation_id, spoken, context)

    async def follow_conversation(
        self, conversation_id: str, context: ToolContext, after: int = -1, timeout_s: int = 45
    ) -> dict[str, Any]:
        """Wait for messages after a position, and tell meanwhile how the tasks stand."""
        spoken, told = self._spoken(conversation_id), ""
        ends_at = time.monotonic() + timeout_s
        while len(spoken.turns) <= after + 1 and time.monotonic() < ends_at:
            cards = [card for card in self._cards(spoken) if card["ended_at"] is None]
            message = "\n".join(f"{card['number']}. {card['text']}: {card['line']}" for card in cards)
            if message and message != told:
                told = message
                await context.progress(time.monotonic(), message=message)
            await asyncio.sleep(LOOK_INTERVAL_S)
        turns = spoken.turns[after + 1 :]
        return {"conversation_id": conversation_id, "state": "chat", "turns": turns, "tasks": self._cards(spoken)}

    async def get_history(
        self, conversation_id: str | None = None, limit: int = 50, before: int | None = None
    ) -> dict[str, Any]:
        """A conversation, or the latest."""
        wanted = conversation_id or next(reversed(self.spoken), None)
        if wanted is None:
            raise ValidationException("There is no conversation yet; begin one with the conversation tool.")
        spoken = self.spoken.get(wanted, Spoken())
        turns = [turn for turn in spoken.turns if before is None or turn["position"] < before]
        return {
            "conversation_id": wanted,
            "state": "chat",
            "ended_at": spoken.ended_at,
            "turns": turns[-limit:],
            "tasks": self._cards(spoken),
        }

    async def rate_answer(
        self,
        conversation_id: str,
        rating: Literal["good", "bad"],
        position: int | None = None,
        comment: str | None = None,
    ) -> dict[str, Any]:
        """Keep a rating."""
        self.calls.append(("rate_answer", {"rating": rating, "comment": comment}))
        rated = [turn for turn in self._spoken(conversation_id).turns if turn["role"] == "assistant"][-1]
        rated["rating"] = rating
        return {"conversation_id": conversation_id, "position": rated["position"], "rating": rating, "task_id": None}

    async def choose_model(self, conversation_id: str, size: Literal["small", "large"]) -> dict[str, Any]:
        """Choose who answers."""
        self._spoken(conversation_id)
        return {"conversation_id": conversation_id, "model": f"{size}-model"}

    async def get_budgets(self) -> dict[str, Any]:
        """The budgets."""
        return {"budgets": self.budgets, "alerts": []}

    def complete(self, number: int = 1, result: str = "All done.", **known: Any) -> None:
        """End a task of the latest conversation; its result is said there."""
        spoken = next(reversed(self.spoken.values()))
        task_id = spoken.task_ids[number - 1]
        self.tasks[task_id].update({"status": "completed", "result": result, "ended_at": time.time(), **known})
        spoken.add("assistant", result, "result", task_id)

    def server(self, port: int = 0) -> HTTPMCPServer:
        """The server with the tools of both."""
        server = super().server(port)
        for tool in (self.follow_conversation, self.rate_answer, self.choose_model, self.get_budgets):
            server.add_tool(tool)
        return server

    async def _said(self, conversation_id: str, spoken: Spoken, context: ToolContext) -> dict[str, Any]:
        said = ""
        try:
            for number, word in enumerate(self.words):
                said += word
                await context.progress(number + 1, message=word)
            self.waiting.set()
            while not (self.finish.is_set() or spoken.stop.is_set()):
                await asyncio.sleep(LOOK_INTERVAL_S)
        except asyncio.CancelledError:
            spoken.add("assistant", said, "chat")
            self.left.set()
            raise
        stopped = spoken.stop.is_set()
        spoken.stop.clear()
        turn = spoken.add("assistant", said if stopped else self.reply, "chat")
        return {**_answer(conversation_id, turn), "model": "small-model", "finish_reason": "stop"}

    def _handed_off(self, conversation_id: str, spoken: Spoken, text: str) -> dict[str, Any]:
        made = task(text, **({"status": "running", "result": None, "ended_at": None} | self.outcome))
        self.tasks[made["id"]] = made
        spoken.task_ids.append(made["id"])
        reply = f"The large model is on it: task {len(spoken.task_ids)}."
        kind = "control" if text.startswith(RETRY_WORD) else "hand_off"
        return _answer(conversation_id, spoken.add("assistant", reply, kind, made["id"]))

    def _cards(self, spoken: Spoken) -> list[dict[str, Any]]:
        return [
            {
                "number": number,
                **{key: self.tasks[task_id][key] for key in ("id", "text", "status", "created_at", "ended_at")},
                "line": self.lines.get(task_id, self.tasks[task_id]["status"]),
            }
            for number, task_id in enumerate(spoken.task_ids, 1)
        ]

    def _spoken(self, conversation_id: str) -> Spoken:
        if conversation_id not in self.spoken:
            raise ValidationException(f"There is no conversation {conversation_id}.")
        return self.spoken[conversation_id]


def _answer(conversation_id: str, turn: dict[str, Any]) -> dict[str, Any]:
    unknown = dict.fromkeys(
        ("model", "finish_reason", "input_tokens", "output_tokens", "cached_tokens", "time_to_first_token_s")
    )
    return {
        "conversation_id": conversation_id,
        "position": turn["position"],
        "reply": turn["content"],
        "kind": turn["kind"],
        "state": turn["kind"] if turn["kind"] in ("chat", "hand_off") else "chat",
        "label": "chat",
        "confidence": 0.9,
        "reasons": [],
        "task_id": turn["task_id"],
        **unknown,
    }
