"""The UX agent: talks to the user at once, with the small model, and keeps the conversation."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tale.exceptions import ModelException, ValidationException
from tale.mcp.base_server import BaseMCPServer, ToolContext
from tale.models.pool import Pool
from tale.records import CallContext, ChatRequest, Delta, Message, Priority, Reply
from tale.settings import Settings
from tale.storage.content import is_erased
from tale.storage.conversation_store import ConversationStore
from tale.validation import validate_task_id, validate_task_text

INSTRUCTIONS: Final = "Talks with the user. Call conversation with each message and the last answer's conversation_id."
CHAT_INSTRUCTIONS: Final = "You are tale, a helpful assistant on the user's machine. Answer briefly, in plain words."
ANSWER_TOKENS: Final = 512
MAX_TURNS: Final = 200


@dataclass(frozen=True)
class Answer:
    """One answer of a conversation; tokens and seconds are null where the engine does not report them."""

    conversation_id: str
    reply: str
    model: str
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None


@dataclass(frozen=True)
class Turn:
    """One message of a conversation; `created_at` in Unix seconds."""

    role: str
    content: str
    created_at: float


@dataclass(frozen=True)
class History:
    """The messages of a conversation, oldest first."""

    conversation_id: str
    turns: list[Turn]


class UXAgentTools:
    """The tools of the UX agent."""

    def __init__(
        self, settings: Settings, conversations: ConversationStore, pool: Pool, *, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._conversations = conversations
        self._pool = pool
        self._clock = clock

    async def conversation(self, message: str, context: ToolContext, conversation_id: str | None = None) -> Answer:
        """Say something and get an answer; its words stream as the messages of progress notifications.

        Args:
            message: What the user says; 1 to 10,000 characters.
            conversation_id: Conversation to go on with; without it a new one begins.
        """
        text = validate_task_text(message)
        conversation = _conversation(conversation_id) if conversation_id else str(uuid.uuid4())
        turns = await self._conversations.turns(conversation, limit=MAX_TURNS)
        earlier = [Message(turn.role, turn.content) for turn in turns if not is_erased(turn.content)]
        # The user's words are kept before the model answers: a crash then loses no message.
        await self._conversations.append(conversation, "user", text, now=self._clock())
        messages = (Message("system", CHAT_INSTRUCTIONS), *self._fitting(earlier, text), Message("user", text))
        reply = await self._stream(messages, conversation, context)
        await self._conversations.append(conversation, "assistant", reply.text, now=self._clock())
        usage = reply.usage
        return Answer(
            conversation,
            reply.text,
            reply.model,
            reply.finish_reason,
            usage.input_tokens,
            usage.output_tokens,
            usage.cached_tokens,
        )

    async def get_history(self, conversation_id: str | None = None, limit: int = 50) -> History:
        """Return the last messages of a conversation, oldest first.

        Args:
            conversation_id: The conversation; without it the latest one.
            limit: How many messages at most, 1 to 200.
        """
        if not 1 <= limit <= MAX_TURNS:
            raise ValidationException(f"The limit {limit} is out of range; use 1 to {MAX_TURNS}.")
        wanted = _conversation(conversation_id) if conversation_id else await self._conversations.latest()
        if wanted is None:
            raise ValidationException("There is no conversation yet; begin one with the conversation tool.")
        turns = await self._conversations.turns(wanted, limit=limit)
        return History(wanted, [Turn(turn.role, turn.content, turn.created_at) for turn in turns])

    async def _stream(self, messages: tuple[Message, ...], conversation: str, context: ToolContext) -> Reply:
        request = ChatRequest(model="", messages=messages, max_tokens=ANSWER_TOKENS)
        call = CallContext(
            "ux",
            "chat",
            Priority.CHAT,
            conversation_id=conversation,
            trace_id=context.trace_id,
            key_name=context.key_name,
        )
        pieces = 0
        stream = self._pool.chat(request, call)
        try:
            async for event in stream:
                if isinstance(event, Delta):
                    pieces += 1
                    await context.progress(pieces, message=event.text)
                elif isinstance(event, Reply):
                    return event
        finally:
            await stream.aclose()
        raise ModelException("The answer broke off before its end; say it again.")

    def _fitting(self, earlier: list[Message], text: str) -> list[Message]:
        """The latest exchanges that fit the small model's context beside an answer; a token is at least one byte.

        Questions without an answer are left out: the templates of many models refuse two of them in a row.
        """
        room = self._settings.ux_context_tokens - ANSWER_TOKENS - len(CHAT_INSTRUCTIONS) - len(text.encode())
        kept: list[Message] = []
        for question, answer in reversed(list(pairwise(earlier))):
            if (question.role, answer.role) != ("user", "assistant"):
                continue
            room -= len(question.content.encode()) + len(answer.content.encode())
            if room < 0:
                break
            kept = [question, answer, *kept]
        return kept


def _conversation(given: str) -> str:
    try:
        return validate_task_id(given)
    except ValidationException as error:
        raise ValidationException(
            f"{given[:80]!r} is not the id of a conversation (a UUID of version 4); leave it out to begin a new one."
        ) from error


def add_ux_agent_tools(server: BaseMCPServer, tools: UXAgentTools) -> None:
    """Register the UX agent's tools."""
    server.add_tool(tools.conversation, title="Talk")
    server.add_tool(tools.get_history, title="History of a conversation", read_only=True)


if __name__ == "__main__":
    import sys

    from tale.servers.bootstrap import run_role

    sys.exit(run_role("ux_agent"))
