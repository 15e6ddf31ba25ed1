"""The conversation in the terminal: answers stream above a prompt that stays usable, and results come by themselves."""

import asyncio
from contextlib import ExitStack, suppress
from typing import Any, Final

from tale.cli.chat_answers import Answers
from tale.cli.chat_board import Board
from tale.cli.chat_cards import open_tasks
from tale.cli.chat_commands import LEAVING, Talk, run_command
from tale.cli.chat_input import ChatPrompt, history_in
from tale.cli.chat_link import Link, earlier, linked
from tale.cli.chat_news import News
from tale.cli.chat_text import command_in, message_in, said_in
from tale.cli.chat_turns import arrived_last, dimmed, heading
from tale.cli.gateway import unheeded
from tale.cli.progress import progress_on
from tale.cli.rendering import Screen
from tale.settings import Settings

FRAME_S: Final = 0.1
EARLIER_TURNS: Final = 6
READ_BACK: Final = 30  # turns, the last of which may be results that have come meanwhile


def converse(settings: Settings, screen: Screen, wanted: str | None, *, go_on: bool) -> None:
    """Talk until the user leaves; with `go_on` or an id in an earlier conversation."""
    asyncio.run(_converse(settings, screen, wanted, go_on=go_on))


async def _converse(settings: Settings, screen: Screen, wanted: str | None, *, go_on: bool) -> None:
    board = Board(screen)
    with ExitStack() as until_ready:
        progress = until_ready.enter_context(progress_on(screen.err))
        async with linked(settings, board.aside, on_start=progress.step) as link:
            history = await earlier(link.agent, wanted, limit=READ_BACK) if go_on or wanted else None
            until_ready.close()
            if note := unheeded(settings):
                board.aside(note)
            async with asyncio.TaskGroup() as group:
                await Conversation(link, board, group).go_on(history)


class Conversation:
    """One conversation and all that goes on in it at once: typing, answers, news, and the picture of them."""

    def __init__(self, link: Link, board: Board, group: asyncio.TaskGroup) -> None:
        self._board = board
        self._group = group
        self._news = News(link, board)
        self._typed = history_in(link.settings.home)
        self._prompt = ChatPrompt(self._typed, above=lambda: board.above, stop=lambda: self._answers.stop())
        self._talk = Talk(link, board.screen, self._prompt.confirm)
        self._answers = Answers(self._talk, board, self._news, group, self._begun)
        self._following: asyncio.Task[None] | None = None

    async def go_on(self, history: dict[str, Any] | None) -> None:
        """Read and answer until the user leaves."""
        self._greet(history)
        drawing = self._group.create_task(self._draw(), name="board")
        with self._prompt.held(), suppress(EOFError, KeyboardInterrupt):
            while await self._carried_out(message_in(await self._prompt.read())):
                self._board.stirred.set()
        drawing.cancel()
        if self._following:
            self._following.cancel()
        await self._answers.close()
        await self._board.draw()
        self._say_farewell()

    def _greet(self, history: dict[str, Any] | None) -> None:
        screen = self._board.screen
        if history is None:
            screen.aside("Say something; /help lists the commands, Ctrl-D leaves.")
            return
        before, results = arrived_last(history["turns"])
        screen.show(*dimmed(before[-EARLIER_TURNS:]))
        for turn in results:
            self._board.begin("").completed(turn["content"])
        self._board.cards = history["tasks"]
        self._news.last = history["turns"][-1]["position"]
        self._talk.take_up(history["conversation_id"])
        self._begun()

    async def _carried_out(self, typed: str) -> bool:
        """Do what was typed; False to leave."""
        command = command_in(typed)
        if command is None:
            if typed:
                self._answers.say(said_in(typed))
            return True
        name, rest = command
        if name in LEAVING:
            return False
        await self._board.draw()
        self._board.screen.show(heading(f"/{name} {rest}".rstrip()))
        await run_command(self._talk, name, rest)
        if name == "new":
            self._begin_anew()
        return True

    def _begun(self) -> None:
        """The servers know the conversation, so that it can be followed."""
        self._talk.is_known = True
        if self._following is None:
            self._following = self._group.create_task(self._news.follow(self._talk.id), name="news")

    def _begin_anew(self) -> None:
        self._answers.stop()
        if self._following:
            self._following.cancel()
        self._following = None
        self._board.cards, self._board.told = (), {}
        self._news.begin_anew()

    async def _draw(self) -> None:
        """Draw the board whenever something has changed, and again and again while something moves."""
        while True:
            self._board.stirred.clear()
            await self._board.draw()
            if self._typed.unkept:
                self._board.aside(self._typed.unkept)
                self._typed.unkept = None
            self._prompt.refresh()
            if self._board.is_live:
                await asyncio.sleep(FRAME_S)
            else:
                await self._board.stirred.wait()

    def _say_farewell(self) -> None:
        screen, waiting = self._board.screen, len(open_tasks(self._board.cards))
        if not self._talk.is_known:
            return
        if waiting:
            screen.aside(f"{waiting} {'task runs' if waiting == 1 else 'tasks run'} on.")
        screen.aside(f"`tale chat --conversation {self._talk.id}` comes back.")
