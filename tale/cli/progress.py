"""What is shown during a wait: a live line and download bars on a terminal, a few plain lines in a pipe."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tale.cli.formatting import elapsed, one_line, printable, size

REFRESHES_PER_S: Final = 8
PLAIN_STEP: Final = 0.1  # share of a download after which a pipe gets the next line
WIDE_ENOUGH_FOR_SPEED: Final = 80
MARGIN: Final = 4


class WaitProgress(Protocol):
    """What the wait for a task tells of."""

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def step(self, message: str, output_tokens: int | None = None) -> None:
        """What is going on now."""
        ...

    def downloads(self, reason: str, models: Sequence[dict[str, Any]]) -> None:
        """How the models that are being fetched stand; `reason` says why these."""
        ...


class Silence:
    """For programs that read JSON."""

    def say(self, text: str) -> None:
        """Nothing."""

    def step(self, message: str, output_tokens: int | None = None) -> None:
        """Nothing."""

    def downloads(self, reason: str, models: Sequence[dict[str, Any]]) -> None:
        """Nothing."""


class PlainLines:
    """For a pipe or a log: each step once, each download in tenths."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: set[str] = set()
        self._announced = False

    def say(self, text: str) -> None:
        """A line."""
        self._console.print(Text(printable(text)))

    def step(self, message: str, output_tokens: int | None = None) -> None:
        """A line, unless it was there already but for its figures."""
        kind = message.partition(" (")[0]
        if kind not in self._said:
            self._said.add(kind)
            self.say(kind)

    def downloads(self, reason: str, models: Sequence[dict[str, Any]]) -> None:
        """What is fetched and why, then a line for every tenth of a model."""
        if not self._announced:
            self._announced = True
            announce(self._console, reason, models)
        for model in models:
            done, total = fetched(model)
            if total and done is not None:
                tenth = int(done / total / PLAIN_STEP) * 10
                self.step(f"{model['name']}: {tenth} % of {size(total)}")


class LiveDisplay:
    """For a terminal: a spinner with the latest message, tokens and time, above it the download bars."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._message = "Connecting"
        self._tokens: int | None = None
        self._started = time.monotonic()
        self._spinner = Spinner("dots")
        self._bars = Progress(*_columns(console.width), console=console, auto_refresh=False)
        self._bar_of: dict[str, TaskID] = {}
        self._announced = False

    def __rich__(self) -> Group:
        figures = [] if self._tokens is None else [f"{self._tokens:,} tokens"]
        # The terminal shows Ctrl-C as "^C" behind this line: without room for it the line would wrap, and stay.
        line = Table.grid(padding=(0, 1))
        line.width = max(MARGIN, self._console.width - MARGIN)
        line.add_column(width=1)
        line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        line.add_column(no_wrap=True, justify="right", style="dim")
        clock = elapsed(time.monotonic() - self._started)
        line.add_row(self._spinner, Text(self._message), " · ".join((*figures, clock)))
        return Group(line) if self._bars.finished else Group(self._bars.get_renderable(), line)

    def say(self, text: str) -> None:
        """A line above the live part."""
        self._console.print(Text(printable(text), style="dim"))

    def step(self, message: str, output_tokens: int | None = None) -> None:
        """Another message in the live line; the token count stays until there is a larger one."""
        self._message = one_line(message, 500)
        if output_tokens is not None:
            self._tokens = output_tokens

    def downloads(self, reason: str, models: Sequence[dict[str, Any]]) -> None:
        """What is fetched and why, then a bar a model."""
        if not self._announced:
            self._announced = True
            announce(self._console, reason, models)
        for model in models:
            name, (done, total) = model["name"], fetched(model)
            if name not in self._bar_of:
                self._bar_of[name] = self._bars.add_task(one_line(name, 28), total=total)
            self._bars.update(self._bar_of[name], completed=done or 0, total=total)


def fetched(model: dict[str, Any]) -> tuple[int | None, int | None]:
    """Bytes of a model that have arrived, and bytes in all; None where that is not known.

    >>> fetched({"state": "loading", "done_bytes": None, "total_bytes": None, "size_bytes": 98})
    (98, 98)
    """
    total = model["total_bytes"] or model["size_bytes"]
    arrived = model["state"] not in ("missing", "downloading", "failed")
    return (total if arrived else model["done_bytes"]), total


def announce(console: Console, reason: str, models: Sequence[dict[str, Any]]) -> None:
    """Say once why models are fetched, and which: name, size, licence, source."""
    console.print(Text(printable(reason)))
    console.print(Text("Fetching these models once:"))
    for model in models:
        about = [size(model["size_bytes"] or model["total_bytes"]), model["licence"], model["source"]]
        console.print(Text(printable(f"  {model['name']}: {', '.join(str(fact) for fact in about if fact)}")))


@contextmanager
def progress_on(console: Console, *, quiet: bool = False) -> Generator[WaitProgress]:
    """The display that fits where stderr goes; with `quiet`, none but on a terminal, where it leaves no trace."""
    if console.is_terminal and not console.is_dumb_terminal:
        display = LiveDisplay(console)
        with Live(
            display,
            console=console,
            refresh_per_second=REFRESHES_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield display
    elif quiet:
        yield Silence()
    else:
        yield PlainLines(console)


def _columns(width: int) -> list[ProgressColumn]:
    shown: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=None)]
    if width < WIDE_ENOUGH_FOR_SPEED:
        return [*shown, TextColumn("{task.percentage:>3.0f}%")]
    return [*shown, DownloadColumn(), TransferSpeedColumn()]
