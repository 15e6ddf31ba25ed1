"""The tasks of a conversation as lines above the prompt; pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.text import Text

from tale.cli.formatting import one_line
from tale.cli.rendering import STATUS_STYLES

ENDED: Final = ("completed", "failed", "cancelled")
NUMBERED: Final = re.compile(r"\s*(\d+)\.\s+(.*)")
MOST_SHOWN: Final = 4
WIDE_ENOUGH_FOR_ONE_LINE: Final = 72
SHORTEST_TEXT: Final = 12


def open_tasks(cards: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that have not ended."""
    return [card for card in cards if card["status"] not in ENDED]


def told_lines(message: str, cards: Sequence[dict[str, Any]]) -> dict[int, str]:
    r"""What a message about the open tasks tells of each, by its number: how it stands, without its text.

    >>> told_lines("1. A haiku: writing, 8 s\n2. An essay: queued", [{"number": 1, "text": "A haiku"}])
    {1: 'writing, 8 s', 2: 'An essay: queued'}
    """
    texts = {card["number"]: card["text"] for card in cards}
    found = [line for line in map(NUMBERED.fullmatch, message.splitlines()) if line]
    return {int(line[1]): line[2].removeprefix(f"{texts.get(int(line[1]))}: ") for line in found}


def card_lines(cards: Sequence[dict[str, Any]], told: Mapping[int, str], *, spinner: str, width: int) -> list[Text]:
    """The open tasks, a line each, or two where the terminal is narrow; those beyond the first few are counted."""
    waiting = open_tasks(cards)
    lines: list[Text] = []
    for card in waiting[:MOST_SHOWN]:
        lines += _card(card, told.get(card["number"], card["line"]), spinner=spinner, width=width)
    if len(waiting) > MOST_SHOWN:
        lines.append(_cut(Text(f"  and {len(waiting) - MOST_SHOWN} more; /tasks lists them", style="dim"), width))
    return lines


def _card(card: dict[str, Any], line: str, *, spinner: str, width: int) -> list[Text]:
    head = Text.assemble((f"{spinner} {card['number']}. ", STATUS_STYLES.get(card["status"], "")))
    stands = Text(one_line(line, width), style="dim")
    if width < WIDE_ENOUGH_FOR_ONE_LINE:
        return [
            _cut(Text.assemble(head, one_line(card["text"], width)), width),
            _cut(Text.assemble("     ", stands), width),
        ]
    room = max(SHORTEST_TEXT, width - head.cell_len - stands.cell_len - len("  "))
    text = _cut(Text(one_line(card["text"], width)), room)
    return [_cut(Text.assemble(head, text, "  ", stands), width)]


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line
