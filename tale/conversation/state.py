"""Where a conversation stands, and what is to be done about a message; pure.

Nothing of this is stored: it is read off the messages and the tasks, so that it survives whatever dies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tale.conversation.phrases import says
from tale.conversation.references import names_only, tasks_meant
from tale.records import ConversationTurn, Detection, Intent, Task, TaskStatus

State = Literal["chat", "clarify", "hand_off", "progress", "result"]
Act = Literal["chat", "clarify", "hand_off", "status", "control"]

# Kinds of tale's own messages; those of the user bear the label they were taken for.
CHAT: Final = "chat"
CLARIFY: Final = "clarify"
WHICH: Final = "which"  # a question, too: which of several tasks an order means
HAND_OFF: Final = "hand_off"
STATUS: Final = "status"
CONTROL: Final = "control"
RESULT: Final = "result"
WISH: Final = "wish"  # of a user's message: holds for all answers from then on
TASK: Final = "task"
AMBIGUOUS: Final = "ambiguous"

SURE_TASK: Final = 0.6  # a task that was not meant costs more than a question
DOUBTED_CHAT: Final = 0.35  # of a task, beside the label chat
SURE_CONTROL: Final = 0.5

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
    answer, asked = _last_exchange(turns)
    if answer is None or asked is None:
        return None
    detected = intent_of(asked.kind)
    if answer.kind == WHICH:
        return _told_which(text, asked, tasks)
    if answer.kind == CLARIFY:
        if says("do_it", text) or says("yes", text):
            return Decision("hand_off", asked.content, TASK, learned=Learned(asked.content, "task", detected))
        if says("just_chat", text) or says("no", text):
            return Decision("chat", asked.content, CHAT, learned=Learned(asked.content, "chat", detected))
    elif answer.kind == HAND_OFF and says("just_chat", text):
        learned = Learned(asked.content, "chat", detected)
        return Decision("chat", asked.content, CHAT, learned=learned, withdraws=answer.task_id)
    elif answer.kind == CHAT and says("do_it", text):
        return Decision("hand_off", asked.content, TASK, learned=Learned(asked.content, "task", detected))
    return None


def _told_which(text: str, asked: ConversationTurn, tasks: Sequence[Task]) -> Decision | None:
    """What a short reply to "Which one shall I stop?" means; nothing is learned of it."""
    if says("none_of_them", text) or says("no", text):
        return Decision("status", text, CONTROL)
    if says("yes", text):
        return Decision("control", asked.content, CONTROL)  # which is asked once more
    if names_only(text, tasks, beside=("stop",)) and tasks_meant(text, tasks).how != "none":
        return Decision("control", f"stop {text}", CONTROL)
    return None


def decide(text: str, detection: Detection, turns: Sequence[ConversationTurn]) -> Decision:
    """What to do about a message that stands for itself; at most one question is asked about a request."""
    label = detection.label
    answer, asked = _last_exchange(turns)
    was_asked = answer is not None and answer.kind == CLARIFY and asked is not None
    if label == TASK and asked is not None and was_asked and asked.kind == AMBIGUOUS:
        return Decision("hand_off", text, TASK, material=asked.content)  # it came first, now what to do with it
    if question := None if was_asked else _question(detection):
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


def _last_exchange(
    turns: Sequence[ConversationTurn],
) -> tuple[ConversationTurn | None, ConversationTurn | None]:
    """The last message of tale's, unless the user spoke since, and the user's before it.

    A result may come between a question and its answer: that is no answer, and asks nothing.
    """
    said = [turn for turn in turns if turn.kind != RESULT]
    if not said or said[-1].role != "assistant":
        return None, None
    return said[-1], next((turn for turn in reversed(said) if turn.role == "user"), None)


def intent_of(kind: str | None) -> Intent:
    """What a message was taken for that is kept under this kind."""
    return kind if kind in ("chat", "task", "status", "control", "ambiguous") else "control" if kind == WISH else "chat"
