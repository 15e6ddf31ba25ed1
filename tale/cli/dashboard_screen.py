"""The dashboard in the terminal: what a look found, drawn for any width, again and again until q is pressed."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tale.cli.formatting import UNKNOWN, one_line, seconds, size
from tale.cli.rendering import Screen, state, table
from tale.constants import POLLING_INTERVAL
from tale.exceptions import DatabaseException, ValidationException

Look = dict[str, Any]
BARS: Final = "▁▂▃▄▅▆▇█"
CARD_CELLS: Final = 22
SPARK_CELLS: Final = 18
WIDE: Final = 150  # cells, from which tables stand beside each other
ROOMY: Final = 80
BESIDE_CELLS: Final = 76  # that the tables on the right take
KEY_WAIT_S: Final = 0.2
MISSED: Final = {"met": "green", "missed": "red", "unknown": "dim"}
GIB: Final = 2**30


def print_once(screen: Screen, found: Look) -> None:
    """Print it all."""
    screen.show(*parts_of(found, width=screen.out.width, height=None))


def show_live(screen: Screen, look: Callable[[], Look]) -> None:
    """Show it until q or Ctrl-C, and look anew every two seconds unless p paused it.

    Raises ValidationException where there is no terminal, and DatabaseException when the first look fails.
    """
    if not (screen.out.is_terminal and sys.stdin.isatty()):
        raise ValidationException("The live view needs a terminal; `tale dashboard --once` prints it once.")
    found, looked_at, paused, trouble = look(), time.monotonic(), False, ""
    with Live(console=screen.out, screen=True, auto_refresh=False) as live, _keys() as key_within:
        drawn_at = None
        while True:
            now, width, height = time.monotonic(), screen.out.width, screen.out.height
            if not paused and now - looked_at >= POLLING_INTERVAL:
                found, trouble = _again(look, found)
                looked_at, drawn_at = time.monotonic(), None
            if drawn_at != (width, height, paused):
                drawn_at = (width, height, paused)
                told = "paused" if paused else trouble
                live.update(Group(*parts_of(found, width=width, height=height, told=told)), refresh=True)
            key = key_within(KEY_WAIT_S)
            if key in ("q", "Q"):
                return
            paused = not paused if key in ("p", "P") else paused


def parts_of(found: Look, *, width: int, height: int | None, told: str = "") -> list[RenderableType]:
    """What stands below each other on a screen of that size; the height is None where there is room for all."""
    parts: list[RenderableType] = [_head(found, width, told, is_live=height is not None)]
    parts += [Text(f"! {alert['text']} {alert['action']}".rstrip(), style="yellow") for alert in found["alerts"][:3]]
    if not found["figures"]["calls"] and not found["tasks"]:
        parts += [Text(), Text("No calls in this time. Run: tale submit 'Write a haiku'", style="bold")]
    parts += [Text(), _cards(found["cards"], width), Text()]
    rows = 5 if height is None else max(2, min(10, (height - 16) // 3))
    room = width - BESIDE_CELLS if width >= WIDE else width
    left = [*_titled("Tasks", _tasks(found, room, rows)), *_titled("Last calls", _calls(found, room, rows))]
    right = [*_titled("Models", _models(found)), *_titled("Targets", _targets(found))]
    if width < WIDE:
        return parts + left + right
    both = Table.grid(padding=(0, 4))
    both.add_row(Group(*left), Group(*right))
    return [*parts, both]


def _head(found: Look, width: int, told: str, *, is_live: bool) -> Text:
    service = found["service"]
    moment = datetime.fromtimestamp(found["at"]).astimezone()
    head = Text.assemble(("tale", "bold"), f"  {found['hours']:g} h to {moment:%H:%M:%S}  service ")
    head.append_text(state(service["state"]))
    if service["state"] == "stopped":
        head.append("  (tale servers start)", "dim")
    if told:
        head.append(f"  {told}", "yellow")
    if is_live and head.cell_len + len("  q quit, p pause") <= width:
        head.append("  q quit, p pause", "dim")
    return head


def _cards(cards: Sequence[Look], width: int) -> Table:
    """Label, value with its change, and course of each; as many beside each other as there is room for."""
    beside = max(1, min(len(cards), width // CARD_CELLS))
    if len(cards) % beside and beside > len(cards) // 2:
        beside = -(-len(cards) // 2)
    grid = Table.grid(padding=(0, 2), expand=width < WIDE)
    for _ in range(beside):
        grid.add_column(ratio=1)
    for begin in range(0, len(cards), beside):
        grid.add_row(*(_card(card) for card in cards[begin : begin + beside]))
    return grid


def _card(card: Look) -> Text:
    colour = "dim" if card["is_good"] is None else "green" if card["is_good"] else "red"
    change = " ".join(word for word in (card["change"], card["against"]) if word)
    return Text.assemble(
        (card["label"], "dim"),
        ("\n" + card["value"], "bold"),
        (f"  {change}" if change else "", colour),
        ("\n" + spark(card["course"], SPARK_CELLS), "cyan"),
    )


def spark(values: Sequence[float | None], cells: int) -> str:
    """The course of values as a row of bars, each the mean of as many as fall into its cell.

    >>> spark([0, 1, 2, 3], 4), spark([], 4)
    ('▁▃▆█', '')
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    count = min(cells, len(known))
    edges = [round(place * len(known) / count) for place in range(count + 1)]
    means = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    top = max(means)
    return "".join(BARS[round(mean / top * (len(BARS) - 1)) if top > 0 else 0] for mean in means)


def _titled(title: str, shown: RenderableType) -> list[RenderableType]:
    return [Text(title, style="bold"), shown, Text()]


def _tasks(found: Look, width: int, rows: int) -> RenderableType:
    queue = found["queue"]
    counts = Text(
        f"{queue['running']} running, {queue['queued']} waiting, {queue['calls']} calls under way", style="dim"
    )
    if not found["tasks"]:
        return counts
    made = table(("status", "age", "model", "task"), right=("age",))
    made.columns[2].no_wrap = True
    room = max(16, min(width, WIDE) - 45)
    for task in found["tasks"][:rows]:
        age, text = seconds(task["age_s"]), Text(one_line(task["text"], room), no_wrap=True, overflow="ellipsis")
        made.add_row(state(task["status"]), age, task["model"] or UNKNOWN, text)
    return Group(counts, made)


def _calls(found: Look, width: int, rows: int) -> RenderableType:
    if not found["calls"]:
        return Text("none", style="dim")
    names = ("began", "model", "operation", "outcome", "whole", "first", "in", "out")
    shown = names if width >= ROOMY else tuple(name for name in names if name not in ("operation", "first", "in"))
    made = table(shown, right=("whole", "first", "in", "out"))
    for column in made.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    for call in found["calls"][:rows]:
        cells = {
            "began": f"{datetime.fromtimestamp(call['at']).astimezone():%H:%M:%S}",
            **{name: call[name] for name in ("model", "operation")},
            "outcome": state(call["outcome"]),
            "whole": seconds(call["total_s"]),
            "first": seconds(call["first_token_s"]),
            "in": _count(call["input_tokens"]),
            "out": _count(call["output_tokens"]),
        }
        made.add_row(*(cells[name] for name in shown))
    return made


def _models(found: Look) -> RenderableType:
    if not found["models"]:
        return Text("The service does not run, or has none: tale servers start", style="dim")
    made = table(("model", "role", "state", "memory", "calls"), right=("memory", "calls"))
    for model in found["models"]:
        calls = f"{model['running'] or 0}+{model['waiting'] or 0}"
        made.add_row(model["name"], model["role"], state(model["state"]), size(model["memory_bytes"]), calls)
    return made


def _targets(found: Look) -> RenderableType:
    if not found["targets"]:
        return Text("too little was measured yet", style="dim")
    made = table(("target", "stands", "measured", "should be"), right=("measured",))
    for target in found["targets"]:
        stands = Text(target["status"], style=MISSED[target["status"]])
        limit = f"{target['sense']} {_value(target, target['limit'])}"
        made.add_row(target["title"], stands, _value(target, target["measured"]), limit)
    return made


def _value(target: Look, value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if target["unit"] == "bytes":
        return f"{value / GIB:.3g} GiB"
    return f"{value:.0%}" if target["unit"] == "share" else seconds(value)


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _again(look: Callable[[], Look], before: Look) -> tuple[Look, str]:
    """Another look; the one before and why where it fails."""
    try:
        return look(), ""
    except DatabaseException as error:
        return before, error.message


@contextmanager
def _keys() -> Generator[Callable[[float], str]]:
    """Have keys come one by one, unseen; yields what waits for one so many seconds, and gives "" where none came."""
    descriptor = sys.stdin.fileno()
    modes = termios.tcgetattr(descriptor)

    def key_within(wait_s: float) -> str:
        if not select.select([descriptor], [], [], wait_s)[0]:
            return ""
        return os.read(descriptor, 1).decode(errors="replace") or "q"  # the terminal is gone

    try:
        tty.setcbreak(descriptor)
        yield key_within
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, modes)
