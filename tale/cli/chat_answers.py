"""What the user says, and the answers that stream: several at once, each stopped at a key, none lost with a server."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tale.cli.chat_board import Board, BoardProgress
from tale.cli.chat_commands import Talk
from tale.cli.chat_news import News
from tale.cli.chat_recovery import Sent, turn_kept
from tale.cli.chat_transcript import Entry
from tale.cli.chat_turns import heading
from tale.cli.edge import sentence
from tale.cli.following import watching_models
from tale.exceptions import NetworkException, TaleBaseException
from tale.validation import validate_task_text

ATTEMPTS: Final = 3  # to have a message answered by servers that are lost meanwhile


@dataclass(slots=True)
class Answers:
    """The messages of this client that are being answered; `begun` is called when the servers know the conversation."""

    talk: Talk
    board: Board
    news: News
    group: asyncio.TaskGroup
    begun: Callable[[], None]
    _running: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _stopped: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])

    def say(self, typed: str) -> None:
        """Say something; the answer comes on the board."""
        entry = self.board.begin(heading(typed))
        try:
            text = validate_task_text(typed)
        except TaleBaseException as error:
            entry.ended(sentence(error))
            return
        self.news.said.add(text)
        self.news.quiet.clear()
        self._running.add(self.group.create_task(self._answer(entry, text), name="answer"))

    def stop(self) -> bool:
        """Break off the answers that are being written; False when there is none."""
        self._stopped |= self._running
        for task in self._running:
            task.cancel()
        return bool(self._running)

    async def close(self) -> None:
        """Break them off, and return when that is done."""
        running = list(self._running)
        self.stop()
        await asyncio.gather(*running)

    async def _answer(self, entry: Entry, text: str) -> None:
        task = asyncio.current_task()
        try:
            await self._asked(entry, Sent(text, time.time(), self.news.last))
        except TaleBaseException as error:
            entry.ended(sentence(error))
        except asyncio.CancelledError:
            if task not in self._stopped:
                raise
            entry.ended("Stopped.")
        finally:
            self._running = {each for each in self._running if each is not task}
            if not self._running:
                self._stopped.clear()
                self.news.quiet.set()
            self.board.stirred.set()

    async def _asked(self, entry: Entry, sent: Sent) -> None:
        """Have a message answered, by servers that may be lost meanwhile."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if attempt > 1:
                    await self.talk.link.back(start=True)
                    if await self._recovered(entry, sent):
                        return
                    entry.restart()
                await self._streamed(entry, sent, is_new=attempt == 1)
            except NetworkException:
                if attempt == ATTEMPTS:
                    raise
            else:
                return

    async def _streamed(self, entry: Entry, sent: Sent, *, is_new: bool) -> None:
        async with watching_models(self.talk.link.agent, BoardProgress(self.board)) as end_watch:

            def on_piece(_figure: float, _total: float | None, piece: str | None) -> None:
                end_watch()
                self.board.note = ""
                entry.heard(piece or "")
                self.begun()

            try:
                after = None if is_new else sent.after
                answer = await self.talk.link.converse(sent.text, self.talk.id, on_piece, again_after=after)
            finally:
                self.board.note = ""
        self._take(answer["position"])
        self.talk.model = answer["model"] or self.talk.model
        entry.completed(answer["reply"])
        if answer["finish_reason"] == "length":
            entry.ended("The answer was cut off at its token limit.")

    async def _recovered(self, entry: Entry, sent: Sent) -> bool:
        """Show what the servers kept of an answer that broke off; False when the message has to be said again."""
        turn = await turn_kept(self.talk.link, self.talk.id, sent)
        if turn is None:
            return False
        self._take(turn["position"])
        entry.completed(turn["content"])
        if turn["kind"] == "chat":
            entry.ended("The servers went away meanwhile; this is what they kept of the answer.")
        return True

    def _take(self, position: int) -> None:
        self.news.shown.add(position)
        self.begun()
