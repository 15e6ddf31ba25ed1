"""Answers that the model gives in a conversation: streamed, one at a time in each, and stopped at a word."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from tale.conversation.context import Memory, messages_for
from tale.conversation.kinds import CHAT
from tale.exceptions import ModelException, TaleBaseException
from tale.models.pool import Pool
from tale.records import (
    CallContext,
    ChatRequest,
    ConversationTurn,
    Delta,
    Dispatched,
    Message,
    Priority,
    Reply,
    Role,
)
from tale.servers.ux_callers import UXCaller
from tale.settings import Settings
from tale.storage.content import is_erased
from tale.storage.conversation_store import ConversationStore, ConversationView

ANSWER_TOKENS: Final = 512
STOPPED: Final = "stopped"

OnWords = Callable[[int, str], Awaitable[None]]
"""Is told each piece of an answer: how many there have been, and the piece."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What the model said, and the message it became; None where it was stopped before its first word."""

    reply: Reply
    turn: ConversationTurn | None
    time_to_first_token_s: float | None


@dataclass(slots=True)
class _Heard:
    """What has come of an answer: its text, the model that writes it, and when its first words came."""

    on_words: OnWords
    text: str = ""
    model: str = ""
    pieces: int = 0
    first_at: float | None = None

    async def piece(self, text: str) -> None:
        """Another piece of it."""
        if self.first_at is None:
            self.first_at = time.perf_counter()
        self.text += text
        self.pieces += 1
        await self.on_words(self.pieces, text)


class ModelAnswers:
    """The answers of the model in all conversations of this process."""

    def __init__(
        self, settings: Settings, conversations: ConversationStore, pool: Pool, *, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._conversations = conversations
        self._pool = pool
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._writing: dict[str, asyncio.Timeout] = {}
        self._counts: set[asyncio.Task[None]] = set()

    @property
    def are_written(self) -> bool:
        """Whether the model is answering anybody."""
        return bool(self._writing)

    @asynccontextmanager
    async def turn_in(self, conversation_id: str) -> AsyncGenerator[None]:
        """Hold the word in a conversation: of two clients that talk in it one is answered after the other."""
        lock = self._turns.setdefault(conversation_id, asyncio.Lock())
        async with lock:
            yield

    def is_written(self, conversation_id: str) -> bool:
        """Whether the model is answering in a conversation."""
        return conversation_id in self._writing

    def stop(self, conversation_id: str) -> bool:
        """Break off the answer that is being written in a conversation; False when there is none."""
        limit = self._writing.get(conversation_id)
        if limit is None:
            return False
        if not limit.expired():  # else it is being broken off
            limit.reschedule(asyncio.get_running_loop().time())
        return True

    async def close(self) -> None:
        """Leave no count under way."""
        for task in self._counts:
            task.cancel()
        await asyncio.gather(*self._counts, return_exceptions=True)

    async def answer(
        self, text: str, view: ConversationView, *, caller: UXCaller, on_words: OnWords, asked: ConversationTurn
    ) -> ModelAnswer:
        """Have the model answer `text`, which was kept as `asked`; what was said is kept even when it is broken off."""
        conversation, began = view.conversation, time.perf_counter()
        request = ChatRequest(model="", messages=self._messages(text, view), max_tokens=ANSWER_TOKENS)
        call = CallContext(
            conversation.answers,
            "chat",
            Priority.CHAT,
            conversation_id=conversation.id,
            trace_id=caller.trace_id,
            key_name=caller.key_name,
        )
        heard = _Heard(on_words)
        try:
            reply = await self._streamed(request, call, heard)
        except (asyncio.CancelledError, TaleBaseException):  # what was heard is kept for whoever comes back
            await asyncio.shield(self._keep(conversation.id, heard.text, None))
            raise
        reply = reply or Reply(heard.text, heard.model, STOPPED)
        turn = await self._keep(conversation.id, reply.text, reply.usage.output_tokens)
        self._count_soon(asked, conversation.answers)
        return ModelAnswer(reply, turn, None if heard.first_at is None else heard.first_at - began)

    async def _streamed(self, request: ChatRequest, call: CallContext, heard: "_Heard") -> Reply | None:
        """The whole answer; None when it was stopped."""
        conversation_id = str(call.conversation_id)
        stream = self._pool.chat(request, call)
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._writing[conversation_id] = limit
                async for event in stream:
                    if isinstance(event, Dispatched):
                        heard.model = event.model
                    elif isinstance(event, Delta):
                        await heard.piece(event.text)
                    elif isinstance(event, Reply):
                        return event
        except TimeoutError:
            if limit.expired():
                return None
            raise
        finally:
            self._writing.pop(conversation_id, None)
            await stream.aclose()
        raise ModelException("The answer broke off before its end; say it again.")

    def _messages(self, text: str, view: ConversationView) -> tuple[Message, ...]:
        settings, conversation = self._settings, view.conversation
        large = conversation.answers == "task"
        context_tokens = settings.task_context_tokens if large else settings.ux_context_tokens
        room_tokens = context_tokens - ANSWER_TOKENS
        return messages_for(text, view.turns, memory=memory_of(view), tasks=view.tasks, room_tokens=room_tokens)

    async def _keep(self, conversation_id: str, text: str, tokens: int | None) -> ConversationTurn | None:
        if not text:
            return None
        return await self._conversations.append(
            conversation_id, "assistant", text, now=self._clock(), kind=CHAT, tokens=tokens
        )

    def _count_soon(self, turn: ConversationTurn, role: Role) -> None:
        """Have the model count the words of a message, after the answer to it: that may wait, the user may not."""
        task = asyncio.create_task(self._count(turn, role), name="message-count")
        self._counts.add(task)
        task.add_done_callback(self._counts.discard)

    async def _count(self, turn: ConversationTurn, role: Role) -> None:
        request = ChatRequest(model="", messages=(Message("user", turn.content),))
        try:
            tokens = await self._pool.count_tokens(request, CallContext(role, "count"))
            if tokens is not None:
                await self._conversations.count(turn, tokens)
        except TaleBaseException as error:
            logger.info("A message could not be counted, and goes by its bytes: %s", error)


def memory_of(view: ConversationView) -> Memory:
    """What is kept of a conversation beside its turns."""
    wishes = [wish for wish in view.wishes if not is_erased(wish)]
    summary = view.conversation.summary
    return Memory(wishes, None if summary is None or is_erased(summary) else summary, view.conversation.summarized)
