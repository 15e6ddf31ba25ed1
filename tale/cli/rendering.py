"""What commands print, through Rich: on a terminal of any width, and in a pipe without colours or cut-off values."""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tale.cli.formatting import UNKNOWN, one_line, printable, seconds, size, timing_line, token_line
from tale.constants import TASK_TEXT_TRUNCATE

PIPE_WIDTH: Final = 500  # wide enough that nothing is cut for a program
NARROW: Final = 80
WIDE_ENOUGH_FOR_TASKS: Final = 100  # id, state, age and tokens take 70
STATUS_STYLES: Final = {
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "queued": "blue",
    "ready": "green",
    "stopped": "dim",
    "foreign": "red",
    "starting": "cyan",
    "loading": "cyan",
    "downloading": "cyan",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


class SteadyConsole(Console):
    """A console that never hides the cursor: a command that is killed leaves the terminal as it was."""

    def show_cursor(self, show: bool = True) -> bool:
        """Leave the cursor visible."""
        return False


def console_on(stream: TextIO) -> SteadyConsole:
    """A console on a stream; texts are printed as they are, never read as markup."""
    on_terminal = stream.isatty()
    width, height = (None, None) if on_terminal or os.environ.get("COLUMNS") else (PIPE_WIDTH, None)
    if on_terminal and os.environ.get("TERM") in ("dumb", "unknown"):
        width, height = os.get_terminal_size(stream.fileno())  # Rich would take these to have 80 columns
    return SteadyConsole(
        file=stream,
        force_terminal=on_terminal,
        width=width,
        height=height,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=False,
        legacy_windows=False,
    )


class Screen:
    """Where a command prints: answers and reports to stdout, everything said about them to stderr."""

    def __init__(self) -> None:
        self.out = console_on(sys.stdout)
        self.err = console_on(sys.stderr)

    @property
    def narrow(self) -> bool:
        """Whether rows of a table have to be written below each other."""
        return self.out.width < NARROW

    def say(self, text: str, style: str = "") -> None:
        """A line about what is going on, to stderr."""
        self.err.print(Text(printable(text), style=style))

    def aside(self, text: str) -> None:
        """The same, less prominent."""
        self.say(text, "dim")

    def show(self, *renderables: Any) -> None:
        """Part of a report, to stdout."""
        for renderable in renderables:
            self.out.print(Text(printable(renderable)) if isinstance(renderable, str) else renderable)

    def title(self, text: str) -> None:
        """The heading of a part of a report."""
        self.out.print(Text(text, style="bold"))

    def json(self, value: Any) -> None:
        """A value for programs, to stdout; nothing else of a command goes there."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def answer(self, text: str) -> None:
        """A model's answer: Markdown with highlighted code on a terminal, the bare text in a pipe."""
        if self.out.is_terminal:
            from rich.markdown import Markdown  # 35 ms that only this needs

            markdown = Markdown(printable(text), code_theme="ansi_dark")
            for part in (part for block in markdown.parsed for part in block.children or ()):
                if part.type == "softbreak":  # models end a line where they mean it: in poems, lists, addresses
                    part.type = "hardbreak"
            self.out.print(markdown)
        else:
            sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, style=STATUS_STYLES.get(name, ""))


def table(headings: Sequence[str], *, right: Sequence[str] = ()) -> Table:
    """An empty table without lines; the columns named in `right` hold figures."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        made.add_column(
            heading, justify="right" if heading in right else "left", no_wrap=heading in right, overflow="fold"
        )
    return made


def facts(pairs: Sequence[tuple[str, str | Text | None]]) -> Table:
    """Names and values below each other; values that are None are left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            made.add_row(name, Text(printable(value)) if isinstance(value, str) else value)
    return made


def show_tasks(screen: Screen, views: Sequence[dict[str, Any]]) -> None:
    """A list of tasks; without room for a table, two or three lines each."""
    width = screen.out.width
    if width < WIDE_ENOUGH_FOR_TASKS:
        for view in views:
            head = Text.assemble(state(view["status"]), f"  {seconds(view['age_s'])} ago")
            together = head.cell_len + len(view["id"]) + 2 <= width
            screen.show(*([Text.assemble(head, f"  {view['id']}")] if together else [head, view["id"]]))
            screen.show(f"  {one_line(view['text'], max(20, width - 2))}")
        return
    made = table(("status", "age", "tokens", "id", "task"), right=("age", "tokens"))
    made.columns[-2].no_wrap = True
    longest = TASK_TEXT_TRUNCATE if screen.out.is_terminal else PIPE_WIDTH // 2
    for view in views:
        tokens = view["usage"]["output_tokens"]
        made.add_row(
            state(view["status"]),
            seconds(view["age_s"]),
            UNKNOWN if tokens is None else f"{tokens:,}",
            view["id"],
            Text(one_line(view["text"], longest), no_wrap=True, overflow="ellipsis"),
        )
    screen.show(made)


def task_card(view: dict[str, Any]) -> Table:
    """Everything about one task but its answer."""
    return facts(
        (
            ("task", view["id"]),
            ("status", state(view["status"])),
            ("text", one_line(view["text"], PIPE_WIDTH)),
            ("age", seconds(view["age_s"])),
            ("duration", None if view["duration_s"] is None else seconds(view["duration_s"])),
            ("priority", str(view["priority"]) if view["priority"] else None),
            ("waits for", _others(view)),
            ("deadline", _deadline(view)),
            ("files", str(view["attached_files"]) if view["attached_files"] else None),
            ("checks", ", ".join(view["expect"]) if view["expect"] else None),
            ("attempt", f"{view['attempt']} ({view['failures']} failed)" if view["failures"] else None),
            ("model", view["model"]),
            ("route", view["route_reason"]),
            ("usage", token_line(view) if view["usage"]["calls"] else None),
            ("", timing_line(view) if view["usage"]["calls"] else None),
            ("error", view["error"]),
        )
    )


def _others(view: dict[str, Any]) -> str | None:
    count = view["waits_for"]
    return None if not count or view["ended_at"] else f"{count} other task{'s' if count > 1 else ''}"


def _deadline(view: dict[str, Any]) -> str | None:
    if view["deadline_at"] is None or view["ended_at"]:
        return None
    left_s = view["deadline_at"] - view["created_at"] - view["age_s"]
    return f"in {seconds(left_s)}" if left_s > 0 else "now"


def footer(view: dict[str, Any]) -> list[str]:
    """What is said below an answer: the model and why, tokens, times."""
    route = f" ({view['route_reason']})" if view["route_reason"] else ""
    lines = [f"{view['model']}{route}"] if view["model"] else []
    return [*lines, token_line(view), timing_line(view)]


def show_models(screen: Screen, models: Sequence[dict[str, Any]]) -> None:
    """The models of the pool with their states."""
    if screen.narrow:
        for model in models:
            screen.show(Text.assemble(_model_state(model), f"  {model['name']}"))
            figures = (("memory", size(model["memory_bytes"])), ("size", size(model["size_bytes"])))
            known = [f"{name} {figure}" for name, figure in figures if figure != UNKNOWN]
            screen.show(f"  {', '.join((model['role'], *known))}")
    else:
        made = table(("model", "role", "state", "memory", "size"), right=("memory", "size"))
        for model in models:
            memory, on_disk = size(model["memory_bytes"]), size(model["size_bytes"])
            made.add_row(model["name"], model["role"], _model_state(model), memory, on_disk)
        screen.show(made)
    for model in models:
        if model.get("error"):
            screen.show(Text(printable(f"{model['name']}: {model['error']}"), style="red"))


def _model_state(model: dict[str, Any]) -> Text:
    """A model's state, and of one that is being fetched how much is there."""
    done, total = model["done_bytes"], model["total_bytes"]
    arrived = f" {done / total:.0%}" if done is not None and total else ""
    return Text.assemble(state(model["state"]), arrived)
