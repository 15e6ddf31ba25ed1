"""The messages of a conversation as people read them again: dimmed on the screen, or as Markdown in a file; pure."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.text import Text

from tale.cli.formatting import printable

PROMPT: Final = "> "
RESULT: Final = "result"


def heading(text: str) -> str:
    r"""What somebody said, as it stands above the answer.

    >>> heading("Write a haiku\nabout rain")
    '> Write a haiku\n  about rain'
    """
    return PROMPT + printable(text).replace("\n", "\n" + " " * len(PROMPT))


def dimmed(turns: Iterable[dict[str, Any]]) -> Iterator[Text]:
    """The messages of earlier, an empty line below each that tale said."""
    for turn in turns:
        said = turn["role"] == "user"
        yield Text(heading(turn["content"]) if said else f"{printable(turn['content']).rstrip()}\n", style="dim")


def arrived_last(turns: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The turns in two: up to the last that was said, and the results that have come since.

    >>> kinds = ["user", "hand_off", "result"]
    >>> [len(part) for part in arrived_last([{"kind": kind} for kind in kinds])]
    [2, 1]
    """
    first = len(turns)
    while first and turns[first - 1]["kind"] == RESULT:
        first -= 1
    return list(turns[:first]), list(turns[first:])


def markdown_of(conversation_id: str, turns: Iterable[dict[str, Any]]) -> str:
    """A conversation as a document in Markdown."""
    parts = [f"# Conversation {conversation_id}\n"]
    for turn in turns:
        who = "You" if turn["role"] == "user" else "tale"
        kind = f", {turn['kind']}" if turn["role"] == "assistant" and turn["kind"] not in (None, "chat") else ""
        when = datetime.fromtimestamp(turn["created_at"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        rating = f", rated {turn['rating']}" if turn["rating"] else ""
        parts.append(f"## {who} ({when}{kind}{rating})\n\n{turn['content'].strip()}\n")
    return "\n".join(parts)
