"""What the UX agent does in quiet moments: it warms the model up, and sums up what was said long ago."""

import asyncio
import logging
from typing import Final

from tale.conversation.context import Memory, shortened, summary_messages, system_text, to_summarize
from tale.exceptions import TaleBaseException
from tale.models.pool import Pool
from tale.models.quiet import in_quiet_moments
from tale.records import CallContext, ChatRequest, Message, Priority, Task
from tale.servers.ux_answers import ANSWER_TOKENS, ModelAnswers, memory_of
from tale.settings import Settings
from tale.storage.content import is_erased
from tale.storage.conversation_store import ConversationStore

QUIET_S: Final = 3.0  # between two looks at whether there is nothing else to do
LONGEST_PAUSE_S: Final = 30.0  # while it is never quiet
SUMMARY_TOKENS: Final = 200
RESULT_BYTES: Final = 3_000  # of a long result, from its beginning and end
RESULT_TOKENS: Final = 100
RESULT_LIMIT_S: Final = 30.0
RESULT_INSTRUCTIONS: Final = (
    "Say in at most three sentences what the text below contains, in its language. Write only these sentences."
)
WARMING: Final = (Message("system", system_text(Memory())), Message("user", "Hello"))

logger = logging.getLogger(__name__)


class IdleWork:
    """Speculative work of the small model. It begins only when no model is at work, and gives way to any message."""

    def __init__(
        self,
        settings: Settings,
        conversations: ConversationStore,
        pool: Pool,
        answers: ModelAnswers,
        *,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._settings = settings
        self._conversations = conversations
        self._pool = pool
        self._answers = answers
        self._quiet_s = quiet_s
        self._wanted: dict[str, None] = {}  # conversations that have grown, in the order in which they did
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._call: asyncio.Task[str] | None = None
        self._is_warm = not settings.prewarm

    async def start(self) -> None:
        """Begin to look for quiet moments."""
        if not self._is_warm:
            self._arrived.set()
        self._worker = asyncio.create_task(
            in_quiet_moments(self._arrived, self._take_a_step, quiet_s=self._quiet_s, longest_s=LONGEST_PAUSE_S),
            name="idle-work",
        )

    async def stop(self) -> None:
        """Leave the rest undone."""
        if self._worker:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    def give_way(self) -> None:
        """Somebody says something: break off what is under way; it is begun anew later."""
        if self._call:
            self._call.cancel()

    def has_grown(self, conversation_id: str) -> None:
        """A conversation has grown; it is seen in a quiet moment whether it needs a summary."""
        self._wanted[conversation_id] = None
        self._arrived.set()

    async def sum_up_result(self, task: Task) -> str | None:
        """A long result in a few sentences; None when the model does not manage in time."""
        told = shortened(task.result or "", RESULT_BYTES)
        messages = (Message("system", RESULT_INSTRUCTIONS), Message("user", told))
        request = ChatRequest(model="", messages=messages, max_tokens=RESULT_TOKENS, temperature=0.0)
        call = CallContext(
            "ux", "summarize", Priority.BACKGROUND, task_id=task.id, conversation_id=task.conversation_id
        )
        try:
            async with asyncio.timeout(RESULT_LIMIT_S):
                return (await self._pool.complete(request, call)).text.strip() or None
        except (TaleBaseException, TimeoutError) as error:
            logger.info("The result of task %s is told by its beginning: %s", task.id, str(error) or "no time")
            return None

    async def _take_a_step(self) -> bool:
        if not await self._is_quiet():
            return False
        if not self._is_warm:
            warmed = await self._written(WARMING, CallContext("ux", "warm", Priority.BACKGROUND))
            self._is_warm = warmed is not None
        elif self._wanted:
            await self._see(next(iter(self._wanted)))
        if self._is_warm and not self._wanted:
            self._arrived.clear()
        return True

    async def _see(self, conversation_id: str) -> None:
        """Sum up a conversation; one that grows meanwhile, or could not be, is seen again."""
        del self._wanted[conversation_id]
        is_done = False
        try:
            is_done = await self._sum_up(conversation_id)
        finally:
            if not is_done:
                self._wanted[conversation_id] = None

    async def _is_quiet(self) -> bool:
        if self._answers.are_written:
            return False
        models = (await self._pool.status()).models
        small = next((model for model in models if model.role == "ux"), None)
        return small is not None and small.state == "ready" and not any(m.running or m.waiting for m in models)

    async def _sum_up(self, conversation_id: str) -> bool:
        """Sum up the old turns of a conversation, if they are many; False when that has to be done again."""
        view = await self._conversations.view(conversation_id)
        if view is None:
            return True
        turns = [turn for turn in view.turns if not is_erased(turn.content)]
        room_tokens = self._settings.ux_context_tokens - ANSWER_TOKENS
        block = to_summarize(turns, memory=memory_of(view), room_tokens=room_tokens)
        if not block:
            return True
        messages = summary_messages(memory_of(view), block, room_tokens=room_tokens)
        call = CallContext("ux", "summarize", Priority.BACKGROUND, conversation_id=conversation_id)
        summary = await self._written(messages, call, max_tokens=SUMMARY_TOKENS)
        if summary is None:
            return False
        await self._conversations.sum_up(conversation_id, summary or None, until=block[-1].position + 1)
        return True

    async def _written(self, messages: tuple[Message, ...], call: CallContext, *, max_tokens: int = 1) -> str | None:
        """What the model writes; None when it had to give way."""
        request = ChatRequest(model="", messages=messages, max_tokens=max_tokens, temperature=0.0)

        async def complete() -> str:
            return (await self._pool.complete(request, call)).text.strip()

        call_of_model = self._call = asyncio.create_task(complete(), name=f"idle-{call.operation}")
        try:
            await asyncio.wait({call_of_model})
            return None if call_of_model.cancelled() else call_of_model.result()
        finally:
            call_of_model.cancel()
            self._call = None
