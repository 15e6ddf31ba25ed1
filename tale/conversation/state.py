"""Where a conversation stands, and what is to be done about a message; pure.

Nothing of this is stored: it is read off the messages and the tasks, so that it survives whatever dies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tale.conversation.exchanges import Exchange, exchanges
from tale.conversation.kinds import AMBIGUOUS, CHAT, CLARIFY, CONTROL, HAND_OFF, RESULT, TASK, WHICH, WISH
from tale.conversation.phrases import bare, says
from tale.conversation.references import CLAUSE, joined_lists, names_only, tasks_meant
from tale.records import ConversationTurn, Detection, Intent, Task, TaskStatus

State = Literal["chat", "clarify", "hand_off", "progress", "result"]
Act = Literal["chat", "clarify", "hand_off", "status", "control"]

LOOKED_BACK: Final = 40  # turns, among which is what a message replies to
SURE_TASK: Final = 0.6  # a task that was not meant costs more than a question
DOUBTED_CHAT: Final = 0.35  # of a task, beside the label chat
SURE_CONTROL: Final = 0.5
MOST_PARTS: Final = 10  # of a reply that names tasks

Question = Literal["task_or_chat", "what_to_do", "which_task"]


@dataclass(frozen=True, slots=True)
class Learned:
    """What a user put right, or confirmed: the message, and what it was and is taken for."""

    text: str
    label: Intent
    detected: Intent


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done about a message.

    `text` is what the user wants done or answered: the message itself, or the earlier one that it confirms. `material`
    is an earlier message that it is about.
    """

    act: Act
    text: str
    kind: str  # under which the message is kept
    material: str | None = None
    question: Question | None = None
    learned: Learned | None = None
    withdraws: str | None = None  # a task that the user never meant

    @property
    def label(self) -> Intent:
        """What the message was taken for."""
        return TASK if self.act == HAND_OFF else AMBIGUOUS if self.act == CLARIFY else self.act


def state_of(turns: Sequence[ConversationTurn], tasks: Sequence[Task]) -> State:
    """Where a conversation stands, by its last messages and its tasks, both oldest first."""
    last = next((turn.kind for turn in reversed(turns) if turn.role == "assistant"), None)
    if last in (CLARIFY, WHICH):
        return "clarify"
    unfinished = [task for task in tasks if not task.status.is_final]
    if unfinished:
        return "progress" if any(task.status is TaskStatus.RUNNING for task in unfinished) else "hand_off"
    return "result" if last == RESULT else "chat"


def settled_by_words(text: str, turns: Sequence[ConversationTurn], tasks: Sequence[Task] = ()) -> Decision | None:
    """What a short reply means after a question, a hand-off or an answer of tale's: "do it", "no, just chat"."""
    settled = (_settled(text, each, tasks) for each in _replied_to(turns, tasks))
    return next((decision for decision in settled if decision), None)


def _settled(text: str, exchange: Exchange, tasks: Sequence[Task]) -> Decision | None:
    """What a reply means if it is one to that."""
    asked, answer = exchange.asked, exchange.answer
    if answer is None:
        return None
    to_do = Decision("hand_off", asked.content, TASK, learned=Learned(asked.content, "task", intent_of(asked.kind)))
    to_say = Decision("chat", asked.content, CHAT, learned=Learned(asked.content, "chat", intent_of(asked.kind)))
    if answer.kind == WHICH:
        return _told_which(text, asked, tasks)
    if answer.kind == CLARIFY:
        if says("do_it", text) or says("yes", text):
            return to_do
        if says("just_chat", text) or says("no", text):
            return to_say
    elif answer.kind == HAND_OFF and says("just_chat", text):
        return replace(to_say, withdraws=answer.task_id)
    elif answer.kind == CHAT and says("do_it", text):
        return to_do
    return None


def _told_which(text: str, asked: ConversationTurn, tasks: Sequence[Task]) -> Decision | None:
    """What a short reply to "Which one shall I stop?" means; nothing is learned of it."""
    if says("none_of_them", text) or says("no", text):
        return Decision("status", text, CONTROL)
    if says("yes", text):
        return Decision("control", asked.content, CONTROL)  # which is asked once more
    if not names_only(text, tasks, beside=("stop",)):
        return None
    parts = [bare(part) for part in CLAUSE.split(joined_lists(text), maxsplit=MOST_PARTS)]
    named = [part for part in parts if tasks_meant(part, tasks).how != "none"]  # not "yes", "please"
    return Decision("control", f"stop {', '.join(named)}", CONTROL) if named else None


def decide(text: str, detection: Detection, turns: Sequence[ConversationTurn]) -> Decision:
    """What to do about a message that stands for itself; at most one question is asked about a request."""
    label = detection.label
    asked = next((each.asked for each in _replied_to(turns) if each.answer and each.answer.kind == CLARIFY), None)
    if label == TASK and asked is not None and asked.kind == AMBIGUOUS:
        return Decision("hand_off", text, TASK, material=asked.content)  # it came first, now what to do with it
    if question := None if asked is not None else _question(detection):
        return Decision("clarify", text, label, question=question)
    act: Act = CHAT if label == AMBIGUOUS else HAND_OFF if label == TASK else label
    return Decision(act, text, label)


def _question(detection: Detection) -> Question | None:
    if detection.label == AMBIGUOUS:
        return "what_to_do"
    if detection.label == TASK and detection.confidence < SURE_TASK:
        return "task_or_chat"
    if detection.label == CHAT and detection.source == "fallback":  # it is not meant to be sure of that
        return None
    if detection.label == CHAT and detection.probabilities.get(TASK, 0.0) >= DOUBTED_CHAT:
        return "task_or_chat"
    if detection.label == CONTROL and detection.confidence < SURE_CONTROL:
        return "what_to_do"
    return None


def _replied_to(turns: Sequence[ConversationTurn], tasks: Sequence[Task] = ()) -> list[Exchange]:
    """What a message may be a reply to, likeliest first; nothing where the user spoke since.

    That is the message that was said last, and the one that was answered last: the answer of a model may end after
    those to later messages. A result may come in between: that is no answer, and asks nothing.
    """
    said = [turn for turn in turns[-LOOKED_BACK:] if turn.kind != RESULT]
    if not said or said[-1].role != "assistant":
        return []
    pairs = exchanges(said, tasks)
    return [*pairs[-1:], *(each for each in pairs[:-1] if each.answer is said[-1])]


def intent_of(kind: str | None) -> Intent:
    """What a message was taken for that is kept under this kind."""
    return kind if kind in ("chat", "task", "status", "control", "ambiguous") else "control" if kind == WISH else "chat"
