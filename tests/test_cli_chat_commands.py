"""In `tale chat`: code in its colours, the list of commands, and what is used of the budgets."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.chat_screen import ENTER, Screen, left, opened
from fakes.command_line import Outcome
from fakes.in_thread import in_thread
from fakes.played_ux_agent import PlayedUXAgent
from fakes.servers import Process, running, settings_for
from pyte.graphics import FG_AIXTERM, FG_ANSI

from tale.cli.chat_commands import COMMANDS

PALETTE = {*FG_ANSI.values(), *FG_AIXTERM.values()} - {"default"}  # the colours that a terminal's user has chosen


@pytest.fixture
def process(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """The real service; only its model is played."""
    settings = settings_for(tale_home)
    for role in ("gateway", "execution", "ux_agent"):
        monkeypatch.setenv(f"TALE_{role.upper()}_PORT", str(getattr(settings, f"{role}_port")))
    with in_thread(running(settings, intents={})) as process:
        yield process


def colours(screen: Screen, text: str) -> set[tuple[str, str]]:
    """Those of the letters of a text on the screen, and of what is behind them."""
    row, line = next((row, line) for row, line in enumerate(screen.picture.display) if text in line)
    start = line.index(text)
    cells = [screen.picture.buffer[row][column] for column in range(start, start + len(text))]
    return {(cell.fg, cell.bg) for cell in cells}


def test_code_in_an_answer_is_highlighted_in_the_terminal_s_own_colours(agent: PlayedUXAgent) -> None:
    agent.words = ("Say it:\n\n```python\n", "def greet():\n    return 'Hi'\n", "```\n\nIn words: def greet.")
    agent.reply = "".join(agent.words)
    screen = opened()
    screen.type("Hello" + ENTER)
    screen.wait_for("> Hello", "Say it:", "(.*\n)*     return 'Hi'", "(.*\n)*In words: def greet.", "", "> *$")
    left(screen)

    assert colours(screen, "Say it:") == colours(screen, "In words: def greet.") == {("default", "default")}
    keyword, name, literal = (colours(screen, text) for text in ("return", "greet", "'Hi'"))
    assert len(keyword | name | literal) == 3  # one for each
    for letters, behind in keyword | name | literal:
        assert (letters in PALETTE, behind) == (True, "default")


def test_help_lists_every_command_and_the_keys(agent: PlayedUXAgent) -> None:
    screen = opened()
    screen.type("/help" + ENTER)
    screen.wait_for("> /help", "/help +Lists the commands.", "(.*\n)*//. +A message that begins with a slash.", "> *$")

    shown = "\n".join(left(screen))
    for command in COMMANDS.values():
        assert re.search(rf"^{re.escape(command.usage)} +{re.escape(command.about)}$", shown, re.MULTILINE), command
    for keys, about in {"/quit": "Leave", "Ctrl-C": "Stops the answer", "Alt-Enter, Ctrl-J": "A new line"}.items():
        assert re.search(rf"^{keys} +{about}", shown, re.MULTILINE), keys
    assert agent.asked("conversation") == []


def test_budgets_are_told_with_what_is_used_of_them(process: Process, tale: Callable[..., Outcome]) -> None:
    assert tale("budgets", "set", "100", "--soft").code == 0
    assert tale("budgets", "set", "2k", "--key", "ann", "--per", "month").code == 0
    screen = opened()
    screen.type("Hello" + ENTER)
    screen.wait_for("> Hello", "Hello world", "", "> *$")
    screen.type("/budget" + ENTER)
    screen.wait_for("> /budget", "(.*used.*\n){2}> *$")

    shown = left(screen)
    assert "all calls, a day, soft: 12 of 100 tokens used (12%)" in shown
    assert "key ann, a month, hard: 0 of 2,000 tokens used (0%)" in shown
