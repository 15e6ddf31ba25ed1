"""Finds out what the servers kept of a message whose answer broke off."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tale.cli.chat_link import Link
from tale.cli.chat_turns import RESULT

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
    """The answer to a message among the turns of a conversation."""
    said = False
    for turn in turns:
        if turn["position"] <= sent.after:
            continue
        if turn["role"] == "user":
            said = turn["content"] == sent.text
        elif said and turn["kind"] != RESULT:
            return turn
    return None
