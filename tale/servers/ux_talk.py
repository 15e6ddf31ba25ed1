"""One message in a conversation, from what it means to what is said and done about it."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from tale.conversation import wording
from tale.conversation.hand_off import hand_off_of
from tale.conversation.state import (
    CHAT,
    CLARIFY,
    HAND_OFF,
    STATUS,
    Decision,
    Learned,
    State,
    decide,
    settled_by_words,
    state_of,
)
from tale.exceptions import TaleBaseException, ValidationException
from tale.ids import new_call_id
from tale.records import Conversation, ConversationTurn, Correction, Detection, Reply, Task
from tale.servers.ux_answers import ModelAnswers, OnWords
from tale.servers.ux_callers import UXCaller
from tale.servers.ux_control import Controls
from tale.servers.ux_idle import IdleWork
from tale.servers.ux_status import StatusAnswers
from tale.servers.ux_tasks import ConversationBoard, TaskDesk
from tale.storage.content import is_erased
from tale.storage.conversation_store import ConversationStore, ConversationView
from tale.storage.correction_store import CorrectionStore

Detect = Callable[[str], Awaitable[Detection]]

CONFIRMED: Final = "it answers what was asked, or goes back on what was done"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Said:
    """What was said to a message, and how it was taken; `reply` only where the model spoke."""

    turn: ConversationTurn
    kind: str
    state: State
    detection: Detection
    task: Task | None = None
    reply: Reply | None = None
    time_to_first_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class Learning:
    """What the UX agent needs of the learning server: its detector, and where to leave what users put right."""

    detect: Detect
    corrections: CorrectionStore | None  # None where no words are kept
    corrected: Callable[[], Awaitable[None]]


class Talk:
    """Takes messages in, one at a time in each conversation where the model is asked."""

    def __init__(
        self,
        conversations: ConversationStore,
        learning: Learning,
        *,
        answers: ModelAnswers,
        desk: TaskDesk,
        controls: Controls,
        status: StatusAnswers,
        board: ConversationBoard,
        idle: IdleWork,
        clock: Callable[[], float],
    ) -> None:
        self._conversations = conversations
        self._learning = learning
        self._answers = answers
        self._desk = desk
        self._controls = controls
        self._status = status
        self._board = board
        self._idle = idle
        self._clock = clock

    async def view(self, conversation_id: str) -> ConversationView:
        """What is known of a conversation, a new one included; raises ValidationException for one that was ended."""
        now = self._clock()
        view = await self._conversations.view(conversation_id)
        if view is None:
            return ConversationView(Conversation(conversation_id, now, now))
        if view.conversation.ended_at is not None:
            raise ValidationException(
                "That conversation has been ended; leave out its id to begin a new one.",
                {"conversation_id": conversation_id},
            )
        return replace(
            view,
            turns=tuple(turn for turn in view.turns if not is_erased(turn.content)),
            wishes=tuple(wish for wish in view.wishes if not is_erased(wish)),
        )

    async def say(self, text: str, conversation_id: str, caller: UXCaller, on_words: OnWords) -> Said:
        """Answer a message. It is kept before anything is done about it: a crash then loses no message."""
        self._idle.give_way()
        view = await self.view(conversation_id)
        decision = settled_by_words(text, view.turns)
        if decision is not None:
            detection = Detection("task" if decision.act == "hand_off" else "chat", 1.0, (CONFIRMED,), "rule")
        else:
            detection = await self._learning.detect(text)
            decision = decide(text, detection, view.turns)
        if decision.learned:
            await self._learn(decision.learned, view, caller)
        if decision.withdraws:
            await self._withdraw(decision.withdraws, caller)
        if decision.act == "chat":
            return await self._chat(text, decision, detection, view, caller, on_words)
        if decision.act == "hand_off":
            return await self._hand_off(text, decision, detection, view, caller)
        if decision.act == "control":
            return await self._control(text, detection, view, caller)
        if decision.act == "status":
            told, kind = await self._status.answer(text, view), STATUS
        else:
            told, kind = wording.question(decision.question or "what_to_do", text), CLARIFY
        await self._keep_message(text, decision.kind, view)
        return await self._told(told, kind, detection, view)

    async def _chat(
        self,
        text: str,
        decision: Decision,
        detection: Detection,
        view: ConversationView,
        caller: UXCaller,
        on_words: OnWords,
    ) -> Said:
        conversation_id = view.conversation.id
        async with self._answers.turn_in(conversation_id):
            view = await self.view(conversation_id)  # others may have spoken, and a task may have been withdrawn
            asked = await self._keep_message(text, decision.kind, view)
            answer = await self._answers.answer(decision.text, view, caller=caller, on_words=on_words, asked=asked)
        turn = answer.turn or replace(asked, role="assistant", content="")
        self._board.tell(conversation_id)
        self._idle.has_grown(conversation_id)
        state = state_of((*view.turns, turn), view.tasks)
        return Said(turn, CHAT, state, detection, None, answer.reply, answer.time_to_first_token_s)

    async def _hand_off(
        self, text: str, decision: Decision, detection: Detection, view: ConversationView, caller: UXCaller
    ) -> Said:
        await self._keep_message(text, decision.kind, view)
        given = hand_off_of(
            decision.text, material=decision.material, turns=view.turns, numbered=view.numbered, wishes=view.wishes
        )
        number, task = await self._desk.hand_in(given, view, caller)
        told = wording.begun(number, task, waits=bool(given.after), paused=await self._desk.is_paused())
        said = await self._told(told, HAND_OFF, detection, view, task=task)
        self._desk.follow(task)
        return said

    async def _control(self, text: str, detection: Detection, view: ConversationView, caller: UXCaller) -> Said:
        done = await self._controls.carry_out(text, view, caller)
        await self._keep_message(text, done.kind_of_order, view)
        said = await self._told(done.told, done.kind, detection, view, task=done.task)
        if done.task:
            self._desk.follow(done.task)
        if done.starts_afresh:
            await self._conversations.sum_up(view.conversation.id, None, until=said.turn.position + 1)
        return said

    async def _told(
        self, told: str, kind: str, detection: Detection, view: ConversationView, *, task: Task | None = None
    ) -> Said:
        """Say what no model has to be asked for."""
        turn = await self._conversations.append(
            view.conversation.id,
            "assistant",
            told,
            now=self._clock(),
            kind=kind,
            task_id=task.id if task else None,
        )
        self._board.tell(view.conversation.id)
        tasks = (*view.tasks, task) if task else view.tasks
        return Said(turn, kind, state_of((turn,), tasks), detection, task)

    async def _keep_message(self, text: str, kind: str, view: ConversationView) -> ConversationTurn:
        return await self._conversations.append(view.conversation.id, "user", text, now=self._clock(), kind=kind)

    async def _learn(self, learned: Learned, view: ConversationView, caller: UXCaller) -> None:
        if self._learning.corrections is None:
            return
        correction = Correction(
            new_call_id(),
            self._clock(),
            learned.text,
            learned.label,
            learned.detected,
            view.conversation.id,
            caller.key_name,
        )
        await self._learning.corrections.add(correction)
        await self._learning.corrected()

    async def _withdraw(self, task_id: str, caller: UXCaller) -> None:
        """Cancel a task that was never meant to be one; that it has ended meanwhile does no harm."""
        try:
            await self._desk.cancel(await self._desk.known(task_id), caller)
        except TaleBaseException as error:
            logger.warning("Task %s, which was not meant, could not be cancelled: %s", task_id, error)
