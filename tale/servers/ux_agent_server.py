"""The UX agent: talks to the user at once, knows a task when it hears one, and never loses the thread."""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from tale.exceptions import ValidationException
from tale.mcp.base_server import BaseMCPServer, CallOrigin, ToolContext
from tale.records import Role, Task
from tale.servers.ux_callers import UXCaller
from tale.servers.ux_control import Controls
from tale.servers.ux_talk import Detect, Talk
from tale.servers.ux_tasks import ConversationBoard, Ears, TaskDesk
from tale.servers.ux_views import (
    Answer,
    ChosenModel,
    Conversations,
    DetectionView,
    Ended,
    History,
    News,
    Rated,
    answer_view,
    cards,
    item,
    progress_line,
    state_in,
    turn_view,
)
from tale.storage.conversation_store import ConversationStore, ConversationView
from tale.storage.task_store import TaskStore
from tale.validation import validate_task_id, validate_task_text, validate_timeout_seconds

INSTRUCTIONS: Final = (
    "Talks with the user. Call conversation with each message and the last answer's conversation_id. When the answer's "
    "kind is hand_off a task was begun: follow_conversation tells how it goes and returns its result."
)
MAX_TURNS: Final = 200
DEFAULT_FOLLOW_S: Final = 45
PROGRESS_INTERVAL_S: Final = 2.0  # between two lines about tasks under way
NO_CONVERSATION: Final = "There is no conversation yet; begin one with the conversation tool."
Rating = Literal["good", "bad"]
Size = Literal["small", "large"]


class UXAgentTools:
    """The tools of the UX agent."""

    def __init__(
        self,
        conversations: ConversationStore,
        tasks: TaskStore,
        talk: Talk,
        *,
        desk: TaskDesk,
        controls: Controls,
        board: ConversationBoard,
        detect: Detect,
        clock: Callable[[], float],
    ) -> None:
        self._conversations = conversations
        self._tasks = tasks
        self._talk = talk
        self._desk = desk
        self._controls = controls
        self._board = board
        self._detect = detect
        self._clock = clock

    async def conversation(
        self,
        message: str,
        context: ToolContext,
        conversation_id: str | None = None,
        again: bool = False,
        after: int | None = None,
    ) -> Answer:
        """Say something and get an answer; the model's words stream as the messages of progress notifications.

        A task is handed on and goes on by itself: the answer says so at once, follow_conversation tells the rest.
        Questions about tasks, and words such as "stop", are answered while another answer is still being written.

        Args:
            message: What the user says; 1 to 10,000 characters.
            conversation_id: Conversation to go on with; without it a new one begins.
            again: True for a message that was sent before, and whose answer was lost with the connection or the server:
                it is kept only once then, and no second task becomes of it.
            after: With again: position of the last message that was known when it was sent first, -1 for none. An
                answer that has been kept since is told then; without it, an answered message counts as said anew.
        """
        text = validate_task_text(message)
        wanted = _id(conversation_id) if conversation_id else str(uuid.uuid4())

        async def on_words(count: int, piece: str) -> None:
            await context.progress(count, message=piece)

        said = await self._talk.say(text, wanted, UXCaller.of(context), on_words, again=again, after=after)
        if said.task:
            context.concerns(said.task.id)
        return answer_view(said)

    async def follow_conversation(
        self, conversation_id: str, context: ToolContext, after: int = -1, timeout_s: int = DEFAULT_FOLLOW_S
    ) -> News:
        """Wait for new messages, results of tasks among them, or the end of a task of which nothing is said.

        Progress tells in plain words how the tasks go, at most every two seconds.

        Args:
            conversation_id: The conversation.
            after: Position of the last message that is known; -1 for none.
            timeout_s: Seconds to wait at most, 1 to 3600.
        """
        wanted, limit_s = _id(conversation_id), validate_timeout_seconds(timeout_s)
        with self._board.listen(wanted) as ears:  # first listen, then look: so that nothing is missed
            await self._known(wanted)
            with suppress(TimeoutError):  # then the caller is told how things stand, and may ask again
                async with asyncio.timeout(limit_s):
                    await self._until_said(wanted, after, ears, context)
        view = await self._known(wanted)
        turns = await self._conversations.turns(wanted, limit=MAX_TURNS, after=after)
        told = cards(view, self._desk.words, now=self._clock())
        return News(wanted, state_in(view), [turn_view(turn) for turn in turns], told)

    async def task_detected(self, text: str) -> DetectionView:
        """Tell what a message asks for, without doing anything about it: chat, task, status, control or ambiguous.

        Args:
            text: The message, as a user would type it.
        """
        found = await self._detect(text)
        reasons, probabilities = list(found.reasons), dict(found.probabilities)
        return DetectionView(found.label, round(found.confidence, 4), reasons, found.source, probabilities)

    async def get_history(
        self, conversation_id: str | None = None, limit: int = 50, before: int | None = None
    ) -> History:
        """Return the last messages of a conversation, oldest first, and its tasks.

        Args:
            conversation_id: The conversation; without it the latest one.
            limit: How many messages at most, 1 to 200.
            before: Only messages before this position, to read on backwards.
        """
        _check_limit(limit)
        wanted = _id(conversation_id) if conversation_id else await self._conversations.latest()
        if wanted is None:
            raise ValidationException(NO_CONVERSATION)
        view = await self._conversations.view(wanted)
        if view is None:
            return History(wanted, "chat", None, [], [])
        turns = await self._conversations.turns(wanted, limit=limit, before=before)
        told = cards(view, self._desk.words, now=self._clock())
        return History(wanted, state_in(view), view.conversation.ended_at, [turn_view(turn) for turn in turns], told)

    async def list_conversations(self, limit: int = 20) -> Conversations:
        """List the conversations, the last used first.

        Args:
            limit: How many at most, 1 to 200.
        """
        _check_limit(limit)
        return Conversations([item(line) for line in await self._conversations.list(limit=limit)])

    async def end_conversation(self, conversation_id: str, context: CallOrigin, cancel_tasks: bool = False) -> Ended:
        """End a conversation: it can still be read, but not gone on with.

        Args:
            conversation_id: The conversation.
            cancel_tasks: Whether its tasks that are under way end, too.
        """
        wanted = _id(conversation_id)
        view = await self._known(wanted)
        unfinished: list[Task] = [task for task in view.tasks if not task.status.is_final] if cancel_tasks else []
        await asyncio.gather(*(self._desk.cancel(task, UXCaller.of(context)) for task in unfinished))
        ended_at = await self._conversations.end(wanted, now=self._clock())
        return Ended(wanted, ended_at or self._clock(), [task.id for task in unfinished])

    async def rate_answer(
        self,
        conversation_id: str,
        rating: Rating,
        context: CallOrigin,
        position: int | None = None,
        comment: str | None = None,
    ) -> Rated:
        """Keep what the user thinks of an answer; of one about a task that the caller may rate it counts for that, too.

        Args:
            conversation_id: The conversation.
            rating: good or bad.
            position: Position of the answer; without it the last one.
            comment: A remark in the user's own words.
        """
        wanted = _id(conversation_id)
        turn = await self._conversations.rate(wanted, rating, position=position, comment=comment)
        if turn is None:
            raise ValidationException("There is no such answer in that conversation; get_history tells the positions.")
        counts = turn.task_id is not None and await self._rate_task(turn.task_id, rating, comment, context)
        return Rated(wanted, turn.position, rating, turn.task_id if counts else None)

    async def choose_model(self, conversation_id: str, size: Size) -> ChosenModel:
        """Choose whose words a conversation gets from now on: the small model's, which is quick, or the larger one's.

        Args:
            conversation_id: The conversation.
            size: small or large.
        """
        role: Role = "ux" if size == "small" else "task"
        view = await self._known(_id(conversation_id))
        return ChosenModel(view.conversation.id, await self._controls.choose_model(view, role))

    async def _rate_task(self, task_id: str, rating: Rating, comment: str | None, context: CallOrigin) -> bool:
        """Keep the word about a task, too, where the caller has a say about it; returns whether that is so."""
        task = await self._tasks.get(task_id)
        if task is None or not context.speaks_for(task.key_name):
            return False
        return await self._tasks.add_feedback(task_id, rating, comment, self._clock(), key_name=context.key_name)

    async def _known(self, conversation_id: str) -> ConversationView:
        view = await self._conversations.view(conversation_id)
        if view is None:
            raise ValidationException(f"There is no conversation {conversation_id}; list_conversations tells them.")
        return view

    async def _until_said(self, conversation_id: str, after: int, ears: Ears, context: ToolContext) -> None:
        """Return when there are messages after that position, or a task has ended; tell meanwhile how the tasks go."""
        told, count, before = "", 0, 0
        while True:
            ears.clear()
            if await self._conversations.turns(conversation_id, limit=1, after=after):
                return
            view = await self._known(conversation_id)
            unfinished = sum(not task.status.is_final for task in view.tasks)
            if unfinished < before:  # one has ended of which nothing is said
                return
            before = unfinished
            line = progress_line(view, self._desk.words, now=self._clock())
            if line and line != told:
                told, count = line, count + 1
                await context.progress(count, message=line)
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROGRESS_INTERVAL_S):
                        await ears.said.wait()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(PROGRESS_INTERVAL_S if line else None):
                    await ears.news.wait()


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_TURNS:
        raise ValidationException(f"The limit {limit} is out of range; use 1 to {MAX_TURNS}.")


def _id(given: str) -> str:
    try:
        return validate_task_id(given)
    except ValidationException as error:
        raise ValidationException(
            f"{given[:80]!r} is not the id of a conversation (a UUID of version 4); leave it out to begin a new one."
        ) from error


def add_ux_agent_tools(server: BaseMCPServer, tools: UXAgentTools) -> None:
    """Register the UX agent's tools."""
    server.add_tool(tools.conversation, title="Talk")
    server.add_tool(tools.follow_conversation, title="Follow a conversation", read_only=True)
    server.add_tool(tools.task_detected, title="What a message asks for", read_only=True)
    server.add_tool(tools.get_history, title="History of a conversation", read_only=True)
    server.add_tool(tools.list_conversations, title="List conversations", read_only=True)
    server.add_tool(tools.end_conversation, title="End a conversation", idempotent=True)
    server.add_tool(tools.rate_answer, title="Rate an answer", idempotent=True)
    server.add_tool(tools.choose_model, title="Choose who answers", idempotent=True)


if __name__ == "__main__":
    import sys

    from tale.servers.bootstrap import run_role

    sys.exit(run_role("ux_agent"))
