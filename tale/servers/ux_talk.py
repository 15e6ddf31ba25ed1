"""One message in a conversation, from what it means to what is said and done about it."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from tale.conversation import wording
from tale.conversation.context import shortened
from tale.conversation.exchanges import Exchange, said_before
from tale.conversation.hand_off import hand_off_of
from tale.conversation.kinds import CHAT, CLARIFY, HAND_OFF, STATUS
from tale.conversation.orders import order_told
from tale.conversation.state import (
    Decision,
    Learned,
    State,
    decide,
    intent_of,
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

ANSWERED: Final = "it was answered before"
READ_BYTES: Final = 2_000  # of an order or a question about work; what it means stands at its beginning or its end
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


@dataclass(frozen=True, slots=True)
class _Heard:
    """A message, what it was taken for, and where and by whom it was said; `kept` is its row if it has one already."""

    text: str
    decision: Decision
    detection: Detection
    view: ConversationView
    caller: UXCaller
    kept: ConversationTurn | None


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

    async def say(
        self,
        text: str,
        conversation_id: str,
        caller: UXCaller,
        on_words: OnWords,
        *,
        again: bool = False,
        after: int | None = None,
    ) -> Said:
        """Answer a message. It is kept before anything is done about it: a crash then loses no message.

        With `again` it is one that may have been kept before, by a server that died over its answer: behind the
        position `after`, if that is known.
        """
        self._idle.give_way()
        view = await self.view(conversation_id)
        before = said_before(text, view.turns, view.tasks, after=after) if again else None
        if before and before.answer:
            return _as_kept(before, before.answer, view)
        return await self._answer(text, _until(view, before), caller, on_words, kept=before.asked if before else None)

    async def _answer(
        self,
        text: str,
        view: ConversationView,
        caller: UXCaller,
        on_words: OnWords,
        *,
        kept: ConversationTurn | None,
    ) -> Said:
        decision = settled_by_words(text, view.turns, view.tasks)
        if decision is not None:
            detection = Detection(decision.label, 1.0, (CONFIRMED,), "rule")
        else:
            detection = await self._learning.detect(text)
            decision = decide(text, detection, view.turns)
        if decision.learned:
            await self._learn(decision.learned, view, caller)
        if decision.withdraws:
            await self._withdraw(decision.withdraws, caller)
        heard = _Heard(text, decision, detection, view, caller, kept)
        if decision.act == "chat":
            return await self._chat(heard, on_words)
        if decision.act == "hand_off":
            return await self._hand_off(heard)
        if decision.act == "control":
            return await self._control(heard)
        await self._keep(heard, decision.kind)
        if decision.act == "status":
            return await self._told(await self._status.answer(shortened(text, READ_BYTES), view), STATUS, heard)
        return await self._told(wording.question(decision.question or "what_to_do", text), CLARIFY, heard)

    async def _chat(self, heard: "_Heard", on_words: OnWords) -> Said:
        conversation_id, decision = heard.view.conversation.id, heard.decision
        async with self._answers.turn_in(conversation_id):
            # Others may have spoken, and a task may have been withdrawn.
            view = _without(await self.view(conversation_id), heard.kept)
            asked = await self._keep(heard, decision.kind)
            answer = await self._answers.answer(
                decision.text, view, caller=heard.caller, on_words=on_words, asked=asked
            )
        turn = answer.turn or replace(asked, role="assistant", content="")
        self._board.tell(conversation_id)
        self._idle.has_grown(conversation_id)
        state = state_of((*view.turns, turn), view.tasks)
        return Said(turn, CHAT, state, heard.detection, None, answer.reply, answer.time_to_first_token_s)

    async def _hand_off(self, heard: "_Heard") -> Said:
        decision, view = heard.decision, heard.view
        asked = await self._keep(heard, decision.kind)
        given = hand_off_of(
            decision.text, material=decision.material, turns=view.turns, numbered=view.numbered, wishes=view.wishes
        )
        number, task = await self._desk.hand_in(given, asked, heard.caller)
        told = wording.begun(number, task, waits=bool(given.after), paused=await self._desk.is_paused())
        said = await self._told(told, HAND_OFF, heard, task=task)
        self._desk.follow(task)
        return said

    async def _control(self, heard: "_Heard") -> Said:
        asked = await self._keep(heard, heard.decision.kind)
        text = shortened(heard.decision.text, READ_BYTES)
        order = order_told(text, heard.detection)
        done = await self._controls.carry_out(order, text, heard.view, heard.caller, asked)
        said = await self._told(done.told, done.kind, heard, task=done.task)
        if done.task:
            self._desk.follow(done.task)
        return said

    async def _told(self, told: str, kind: str, heard: "_Heard", *, task: Task | None = None) -> Said:
        """Say what no model has to be asked for."""
        conversation_id = heard.view.conversation.id
        turn = await self._conversations.append(
            conversation_id,
            "assistant",
            told,
            now=self._clock(),
            kind=kind,
            task_id=task.id if task else None,
        )
        self._board.tell(conversation_id)
        tasks = (*heard.view.tasks, task) if task else heard.view.tasks
        return Said(turn, kind, state_of((turn,), tasks), heard.detection, task)

    async def _keep(self, heard: "_Heard", kind: str) -> ConversationTurn:
        if heard.kept:
            return heard.kept
        return await self._conversations.append(
            heard.view.conversation.id, "user", heard.text, now=self._clock(), kind=kind
        )

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


def _as_kept(exchange: Exchange, answer: ConversationTurn, view: ConversationView) -> Said:
    """What was said to a message before."""
    task = next((each for each in view.tasks if each.id == answer.task_id), None)
    detection = Detection(intent_of(exchange.asked.kind), 1.0, (ANSWERED,), "rule")
    return Said(answer, answer.kind or CHAT, state_of(view.turns, view.tasks), detection, task)


def _until(view: ConversationView, exchange: Exchange | None) -> ConversationView:
    """A conversation as it was when a message was said: what it means is read off what stood before it."""
    if exchange is None:
        return view
    return replace(view, turns=tuple(each for each in view.turns if each.position < exchange.asked.position))


def _without(view: ConversationView, turn: ConversationTurn | None) -> ConversationView:
    return replace(view, turns=tuple(each for each in view.turns if each != turn)) if turn else view
