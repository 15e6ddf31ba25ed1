"""The screen of `tale chat` on a terminal, as somebody who talks sees it."""

import os
import re
import time
from typing import Any

import pyte
from fakes.command_line import Terminal

ENTER, NEW_LINE, INTERRUPT, LEAVE = "\r", "\n", "\x03", "\x04"
READY = "Ctrl-D leaves."
PATIENCE_S = 30.0


class Screen(Terminal):
    """A terminal whose picture can be looked at."""

    def __init__(self, *arguments: str, columns: int = 80, **kind: Any) -> None:
        self.picture = pyte.HistoryScreen(columns, 40, history=1_000)
        self.picture.write_process_input = self._answer
        self._stream = pyte.Stream(self.picture)
        super().__init__(["chat", *arguments], columns=columns, **kind)

    @property
    def shown(self) -> list[str]:
        """The lines from the first to the last, without the space right of them."""
        width = self.picture.columns
        gone = ["".join(line[at].data for at in range(width)) for line in self.picture.history.top]
        return "\n".join(line.rstrip() for line in (*gone, *self.picture.display)).rstrip().splitlines()

    def wait_for(self, *lines: str) -> None:
        """Read until these lines stand below each other, or fail."""
        pattern, deadline = "\n".join(lines), time.monotonic() + PATIENCE_S
        while not re.search(pattern, "\n".join(self.shown)):
            if not self._read() or time.monotonic() > deadline:
                self._give_up(f"{pattern!r} never came; there is:\n" + "\n".join(self.shown) + "\n")

    def _read(self) -> bool:
        known = len(self.raw)
        goes_on = super()._read()
        self._stream.feed(self.raw[known:])
        return goes_on

    def _answer(self, text: str) -> None:
        os.write(self._master, text.encode())


def opened(*arguments: str, **kind: Any) -> Screen:
    """A conversation that waits for its first message."""
    screen = Screen(*arguments, **kind)
    screen.wait_for(READY, "> *$")
    return screen


def left(screen: Screen) -> list[str]:
    """Leave, and return what stands on the screen then."""
    screen.type(LEAVE)
    assert screen.end() == 0, screen.plain
    assert screen.raw.rfind("\x1b[?25h") >= screen.raw.rfind("\x1b[?25l"), "the cursor is hidden"
    return screen.shown
