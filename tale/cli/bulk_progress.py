"""How many of many tasks have ended: a bar on a terminal, a few lines in a pipe."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from tale.cli.formatting import one_line, printable
from tale.cli.progress import PlainLines, Silence, WaitProgress, announce

STEPS: Final = 10  # lines that tell a pipe how it goes
MESSAGE_WIDTH: Final = 40


class BulkProgress(WaitProgress, Protocol):
    """The wait for many tasks."""

    def ended(self) -> None:
        """One more has ended."""
        ...


class BulkSilence(Silence):
    """For programs that read JSON."""

    def ended(self) -> None:
        """Nothing."""


class BulkLines(PlainLines):
    """For a pipe or a log: a line for every tenth of the tasks."""

    def __init__(self, console: Console, total: int) -> None:
        super().__init__(console)
        self._total = total
        self._done = 0

    def ended(self) -> None:
        """One more; each tenth is told."""
        self._done += 1
        if self._done * STEPS // self._total > (self._done - 1) * STEPS // self._total:
            self.say(f"{self._done:,} of {self._total:,} tasks have ended")


class BulkBar:
    """For a terminal: a bar, the count and the time, before them what is going on."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._bar = progress.add_task("Connecting", total=total)
        self._announced = False

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(Text(printable(text), style="dim"))

    def step(self, message: str, output_tokens: int | None = None) -> None:
        """Another message before the bar."""
        self._progress.update(self._bar, description=one_line(message, MESSAGE_WIDTH))

    def downloads(self, reason: str, models: Sequence[dict[str, Any]]) -> None:
        """What is fetched and why, once."""
        if not self._announced:
            self._announced = True
            announce(self._progress.console, reason, models)

    def ended(self) -> None:
        """One more."""
        self._progress.advance(self._bar)


@contextmanager
def bulk_progress_on(console: Console, total: int, *, quiet: bool) -> Generator[BulkProgress]:
    """The display that fits where stderr goes; with `quiet`, none but on a terminal, where it leaves no trace."""
    if console.is_terminal and not console.is_dumb_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        with bar:
            yield BulkBar(bar, total)
    elif quiet:
        yield BulkSilence()
    else:
        yield BulkLines(console, total)
