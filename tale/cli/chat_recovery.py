"""Finds out what the servers kept of a message whose answer broke off."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tale.cli.chat_link import Link
from tale.conversation.exchanges import said_before
from tale.records import ConversationTurn

LOOK_BACK: Final = 20  # turns


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on its way: what was said and when (Unix seconds), and the last position known by then."""

    text: str
    sent_at: float
    after: int


async def turn_kept(link: Link, conversation_id: str, sent: Sent) -> dict[str, Any] | None:
    """The answer to a message as the servers kept it, perhaps not to its end; None where there is none."""
    history = await link.ask("get_history", {"conversation_id": conversation_id, "limit": LOOK_BACK})
    return answer_among(history["turns"], sent)


def answer_among(turns: Sequence[dict[str, Any]], sent: Sent) -> dict[str, Any] | None:
    """The answer to a message among the turns of a conversation; None where it cannot be told from another's."""
    answered = said_before(sent.text, [_kept(turn) for turn in turns], after=sent.after)
    if answered is None or answered.answer is None:
        return None
    return next(turn for turn in turns if turn["position"] == answered.answer.position)


def _kept(turn: dict[str, Any]) -> ConversationTurn:
    role, kind, task_id = turn["role"], turn["kind"], turn.get("task_id")
    return ConversationTurn("", turn["position"], role, turn["content"], 0.0, kind=kind, task_id=task_id)
