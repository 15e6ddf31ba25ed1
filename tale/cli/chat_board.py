"""The screen of a conversation: answers are written above the prompt, and what goes on is shown there live."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prompt_toolkit.application import in_terminal
from rich.spinner import Spinner
from rich.text import Text

from tale.cli.chat_cards import card_lines, open_tasks
from tale.cli.chat_transcript import Entry, Part, Transcript
from tale.cli.formatting import elapsed, one_line, printable
from tale.cli.progress import fetched
from tale.cli.rendering import Screen

LINK: Final = re.compile(r"\x1b\]8;[^\x1b\x07]*(\x1b\\|\x07)")
SPINNER: Final = Spinner("dots")
LINES_BELOW: Final = 10  # that the prompt, its menu and the cards take
FEWEST_LIVE: Final = 3


@dataclass(slots=True)
class Board:
    """What is on the screen. Its methods must be called in the loop that runs the prompt."""

    screen: Screen
    transcript: Transcript = field(default_factory=Transcript)
    cards: Sequence[dict[str, Any]] = ()
    told: Mapping[int, str] = field(default_factory=dict[int, str])  # how the tasks stand, by number
    note: str = ""  # what is being waited for
    stirred: asyncio.Event = field(default_factory=asyncio.Event)  # something has to be drawn
    above: str = ""  # what stands above the prompt, a line each, with the codes for colours
    _began: float = field(default_factory=time.monotonic)

    @property
    def is_live(self) -> bool:
        """Whether something moves, and has to be drawn again and again."""
        return bool(self.transcript.entries or open_tasks(self.cards))

    def begin(self, heading: str) -> Entry:
        """Another entry of the transcript."""
        if self.transcript.is_quiet:
            self._began = time.monotonic()
        self.stirred.set()
        return self.transcript.begin(heading)

    def aside(self, text: str) -> None:
        """A line about what is going on, in its turn."""
        self.begin("").ended(text)

    async def draw(self) -> None:
        """Write above the prompt what can be written for good, and set anew what stands there live."""
        if self.transcript.is_due:
            async with in_terminal():
                parts = self.transcript.take_written()
                self.screen.out.file.write("".join(line for part in parts for line in self._drawn(part)))
                self.screen.out.file.flush()
                self.above = self._lines()  # the prompt is drawn again at once
        self.above = self._lines()

    def _lines(self) -> str:
        width = self.screen.out.width
        spinner = str(SPINNER.render(time.monotonic()))
        cards = card_lines(self.cards, self.told, spinner=spinner, width=width - 1)
        room = max(FEWEST_LIVE, self.screen.out.height - LINES_BELOW - len(cards))
        return "".join(self._live(spinner)[-room:]) + self._captured(*cards)

    def _live(self, spinner: str) -> list[str]:
        lines: list[str] = []
        for entry in self.transcript.entries:
            for part in entry.parts_left():
                lines += [LINK.sub("", line) for line in self._drawn(part)]
        if not self.transcript.is_quiet:
            told = self.note or elapsed(time.monotonic() - self._began)
            width = self.screen.out.width - len("x  ")
            lines.append(self._captured(Text(f"{spinner} {one_line(told, width)}", style="dim")))
        return lines

    def _drawn(self, part: Part) -> list[str]:
        """The lines of a part, with the codes for colours; an empty one sets it apart from what comes next."""
        if part.kind == "heading":
            return self._captured(Text(printable(part.text), style="bold")).splitlines(keepends=True)
        if part.kind == "note":
            return [*self._captured(Text(printable(part.text), style="dim")).splitlines(keepends=True), "\n"]
        with self.screen.out.capture() as captured:
            self.screen.answer(part.text)
        lines = captured.get().splitlines(keepends=True)
        while lines and not lines[0].strip():  # Rich sets a list apart from what would stand above it
            del lines[0]
        return [*lines, "\n"]

    def _captured(self, *lines: Text) -> str:
        with self.screen.out.capture() as captured:
            for line in lines:
                self.screen.out.print(line)
        return captured.get()


@dataclass(slots=True)
class BoardProgress:
    """Tells the board of what a wait for the first words is about: models that are being fetched."""

    board: Board

    def say(self, text: str) -> None:
        """A line that stays."""
        self.board.aside(text)

    def step(self, message: str, output_tokens: int | None = None) -> None:
        """What is going on now."""
        self.board.note = message

    def downloads(self, reason: str, models: Sequence[dict[str, Any]]) -> None:
        """How far the models are that are being fetched."""
        shares: list[str] = []
        for model in models:
            done, total = fetched(model)
            shares.append(f"{model['name']} {done / total:.0%}" if done is not None and total else model["name"])
        self.board.note = f"Fetching models once: {', '.join(shares)}"
