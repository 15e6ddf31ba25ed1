"""What the UX agent's tools answer, as programs read it.

The classes have no slots: the MCP SDK reads the schema of a tool's answer off them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tale.conversation import wording
from tale.conversation.state import state_of
from tale.records import ConversationTurn, Task
from tale.servers.ux_talk import Said
from tale.storage.conversation_store import ConversationLine, ConversationView

CARD_CHARACTERS = 80


@dataclass(frozen=True)
class Answer:
    """One answer of a conversation. Tokens and seconds are null where no model was asked, or none were reported.

    `kind` is chat, clarify or which (a question back), hand_off (a task was begun), status or control; `state` is how
    the conversation stands after it: chat, clarify, hand_off, progress (tasks under way) or result. `label`,
    `confidence` and `reasons` tell what the message was taken for.
    """

    conversation_id: str
    position: int
    reply: str
    kind: str
    state: str
    label: str
    confidence: float
    reasons: list[str]
    task_id: str | None
    model: str | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    time_to_first_token_s: float | None


@dataclass(frozen=True)
class Turn:
    """One message of a conversation; `created_at` in Unix seconds.

    `kind` is what a message of the user was taken for, or what one of tale's is: chat, clarify, which, hand_off,
    status, control, result.
    """

    position: int
    role: str
    kind: str | None
    content: str
    created_at: float
    task_id: str | None
    rating: str | None


@dataclass(frozen=True)
class TaskCard:
    """A task of a conversation: its number there, its text cut to a line, and in plain words how it stands."""

    number: int
    id: str
    text: str
    status: str
    line: str
    created_at: float
    ended_at: float | None


@dataclass(frozen=True)
class History:
    """The last messages of a conversation, oldest first, and its latest tasks. Times are Unix seconds."""

    conversation_id: str
    state: str
    ended_at: float | None
    turns: list[Turn]
    tasks: list[TaskCard]


@dataclass(frozen=True)
class News:
    """The messages that have come since; none where the time was up first."""

    conversation_id: str
    state: str
    turns: list[Turn]
    tasks: list[TaskCard]


@dataclass(frozen=True)
class ConversationItem:
    """One conversation of a list; `title` is its first message, cut."""

    id: str
    created_at: float
    updated_at: float
    ended_at: float | None
    messages: int
    title: str


@dataclass(frozen=True)
class Conversations:
    """Conversations, the last used first."""

    conversations: list[ConversationItem]


@dataclass(frozen=True)
class Ended:
    """A conversation that has ended, and the tasks that were cancelled with it."""

    conversation_id: str
    ended_at: float
    cancelled: list[str]


@dataclass(frozen=True)
class DetectionView:
    """What a message asks for: chat, task, status, control or ambiguous, how sure that is, and what spoke for it."""

    label: str
    confidence: float
    reasons: list[str]
    source: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Rated:
    """An answer with what the user thinks of it."""

    conversation_id: str
    position: int
    rating: str
    task_id: str | None


@dataclass(frozen=True)
class ChosenModel:
    """Whose words a conversation gets from now on; null where the engine does not tell."""

    conversation_id: str
    model: str | None


def answer_view(said: Said) -> Answer:
    """What was said, as the tool tells it."""
    reply = said.reply
    usage = reply.usage if reply else None
    return Answer(
        said.turn.conversation_id,
        said.turn.position,
        reply.text if reply else said.turn.content,
        said.kind,
        said.state,
        said.detection.label,
        round(said.detection.confidence, 4),
        list(said.detection.reasons),
        said.task.id if said.task else None,
        reply.model if reply else None,
        reply.finish_reason if reply else None,
        usage.input_tokens if usage else None,
        usage.output_tokens if usage else None,
        usage.cached_tokens if usage else None,
        said.time_to_first_token_s,
    )


def turn_view(turn: ConversationTurn) -> Turn:
    """A kept message."""
    return Turn(turn.position, turn.role, turn.kind, turn.content, turn.created_at, turn.task_id, turn.rating)


def cards(view: ConversationView, words: Mapping[str, str], *, now: float) -> list[TaskCard]:
    """The tasks of a conversation; `words` are what was told last of each under way."""
    return [_card(number, task, words.get(task.id), now) for number, task in view.numbered.items()]


def progress_line(view: ConversationView, words: Mapping[str, str], *, now: float) -> str:
    """How the open tasks stand, a line each; empty where there are none."""
    unfinished = [card for card in cards(view, words, now=now) if card.ended_at is None]
    return "\n".join(f"{card.number}. {card.text}: {card.line}" for card in unfinished)


def state_in(view: ConversationView) -> str:
    """How a conversation stands."""
    return state_of(view.turns, view.tasks)


def item(line: ConversationLine) -> ConversationItem:
    """One line of a list of conversations."""
    kept = line.conversation
    title = " ".join(line.title.split())
    return ConversationItem(kept.id, kept.created_at, kept.updated_at, kept.ended_at, line.messages, title)


def _card(number: int, task: Task, words: str | None, now: float) -> TaskCard:
    name = wording.name_of(task.text, CARD_CHARACTERS).strip("“”")
    line = wording.standing(task, now=now, words=words)
    return TaskCard(number, task.id, name, task.status.value, line, task.created_at, task.ended_at)
