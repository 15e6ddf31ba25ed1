"""The conversation line by line: in a pipe, where each is a message, and on a terminal that can do no more."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import BinaryIO, Final

import typer

from tale.cli.chat import NO_MESSAGE
from tale.cli.chat_commands import LATEST, LEAVING, Talk, run_command
from tale.cli.chat_link import Link, earlier, linked
from tale.cli.chat_once import Streamed, result_of, show_result, streamed_answer
from tale.cli.chat_text import command_in, said_in
from tale.cli.chat_turns import PROMPT, RESULT
from tale.cli.edge import FAILED, complain, sentence
from tale.cli.gateway import unheeded
from tale.cli.progress import progress_on
from tale.cli.rendering import Screen
from tale.exceptions import NetworkException, TaleBaseException, ValidationException
from tale.settings import Settings
from tale.validation import validate_task_text

LONGEST_LINE_BYTES: Final = 80_000  # twice what 10,000 characters may take


def converse_by_lines(
    settings: Settings, screen: Screen, wanted: str | None, *, go_on: bool, wait: bool, listens: bool
) -> None:
    """Answer line after line; `listens` says that somebody types them.

    In a pipe the results of tasks are waited for at the end, with `wait`. The first line is read before anything
    starts. Raises ValidationException when there is none.
    """
    lines = _typed() if listens else messages_in(sys.stdin.buffer)
    first = next(lines, None)
    if first is None:
        if listens:
            return
        raise ValidationException(NO_MESSAGE)
    with asyncio.Runner() as runner:
        spoken = runner.run(Lines.begun(settings, screen, listens=listens))
        try:
            if go_on or wanted:
                runner.run(spoken.take_up(wanted))
            while first is not None and spoken.take(runner, first):
                first = next(lines, None)
        finally:
            runner.run(spoken.close())
    if listens:
        if spoken.talk.is_known:
            screen.aside(f"`tale chat --conversation {spoken.talk.id}` comes back.")
    elif wait:
        ended = [show_result(screen, result_of(settings, task_id, screen)) for task_id in spoken.task_ids]
        if not all(ended):
            raise typer.Exit(FAILED)


class Lines:
    """A conversation whose messages come one after the other."""

    def __init__(self, link: Link, screen: Screen, stack: AsyncExitStack, *, listens: bool) -> None:
        self.talk = Talk(link, screen, _confirm)
        self.task_ids: list[str] = []
        self._stack = stack
        self._listens = listens
        self._last = -1  # position shown

    @classmethod
    async def begun(cls, settings: Settings, screen: Screen, *, listens: bool) -> "Lines":
        """Reach the servers."""
        stack = AsyncExitStack()
        with progress_on(screen.err) as progress:
            link = await stack.enter_async_context(linked(settings, screen.say, on_start=progress.step))
        if note := unheeded(settings):
            screen.aside(note)
        return cls(link, screen, stack, listens=listens)

    async def take_up(self, wanted: str | None) -> None:
        """Go on with that conversation, or with the latest."""
        history = await earlier(self.talk.link.agent, wanted)
        self.talk.take_up(history["conversation_id"])
        self._last = history["turns"][-1]["position"]

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()

    def take(self, runner: asyncio.Runner, line: str) -> bool:
        """Answer a line; False to leave. What goes wrong is told to somebody who types, and raised in a pipe."""
        command = command_in(line) if self._listens else None
        if command and command[0] in LEAVING:
            return False
        try:
            if command:
                runner.run(run_command(self.talk, *command))
                self._last = self._last if self.talk.is_known else -1
            else:
                runner.run(self._answered(said_in(line) if self._listens else line))
        except TaleBaseException as error:
            if not self._listens:
                raise
            complain(sentence(error))
            if isinstance(error, NetworkException):
                runner.run(self.talk.link.back(start=True))
        except KeyboardInterrupt:
            if not self._listens:
                raise
            complain("Stopped.")
        return True

    async def _answered(self, text: str) -> None:
        streamed = Streamed(quiet=False, on_terminal=self.talk.screen.out.is_terminal)
        arguments = {"message": validate_task_text(text), "conversation_id": self.talk.id}
        answer = await streamed_answer(self.talk.link.agent, arguments, streamed, lambda: None)
        streamed.end(answer["reply"])
        self.talk.is_known, self.talk.model = True, answer["model"] or self.talk.model
        if answer["task_id"]:
            self.task_ids.append(answer["task_id"])
        if self._listens:
            await self._tell_results()

    async def _tell_results(self) -> None:
        """Print the results that have come since the last time."""
        history = await self.talk.history(LATEST)
        for turn in history["turns"]:
            if turn["position"] > self._last and turn["kind"] == RESULT:
                self.talk.screen.answer(turn["content"])
        self._last = max(self._last, history["turns"][-1]["position"])


def messages_in(stream: BinaryIO) -> Iterator[str]:
    """The lines of a stream but for empty ones. Raises ValidationException for what is no text."""
    number = 0
    while data := stream.readline(LONGEST_LINE_BYTES):
        number += 1
        if len(data) == LONGEST_LINE_BYTES and not data.endswith(b"\n"):
            raise ValidationException(f"Line {number} on stdin is longer than a message may be; shorten it.")
        try:
            line = data.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValidationException(
                f"Line {number} on stdin is not valid UTF-8; convert it and send it again."
            ) from error
        if line:
            yield line


def _typed() -> Iterator[str]:
    """The lines that somebody types, asked for one by one."""
    while True:
        sys.stderr.write(PROMPT)
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


async def _confirm(question: str) -> bool:
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
