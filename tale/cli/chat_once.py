"""`tale chat -m`: one message, its answer, and the result of a task that became of it."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import typer

from tale.cli.chat_link import earlier
from tale.cli.edge import FAILED, INTERRUPTED, complain
from tale.cli.following import follow, watching_models
from tale.cli.formatting import printable
from tale.cli.gateway import running
from tale.cli.progress import progress_on
from tale.cli.rendering import Screen
from tale.cli.tasks import ending
from tale.mcp.http_client import HTTPMCPClient
from tale.settings import Settings


class Streamed:
    """Writes an answer to stdout as it comes, and at the end what of it did not come by then."""

    def __init__(self, *, quiet: bool, on_terminal: bool) -> None:
        self.quiet = quiet
        self._on_terminal = on_terminal
        self._text = ""

    def add(self, text: str) -> None:
        """Another piece."""
        if self.quiet:
            return
        self._text += text
        sys.stdout.write(printable(text) if self._on_terminal else text)
        sys.stdout.flush()

    def end(self, whole: str) -> None:
        """The answer is complete, or broke off with `whole` empty."""
        if whole.startswith(self._text):
            self.add(whole[len(self._text) :])
        if self._text and not self._text.endswith("\n"):
            self.add("\n")


def say_once(settings: Settings, text: str, *, wanted: str | None, go_on: bool, wait: bool, as_json: bool) -> None:
    """Say `text`, print the answer, and with `wait` the result of the task that it became."""
    screen = Screen()
    streamed = Streamed(quiet=as_json, on_terminal=screen.out.is_terminal)
    try:
        answer = asyncio.run(_said(settings, text, wanted, go_on=go_on, streamed=streamed, screen=screen))
    except KeyboardInterrupt:
        streamed.end("")
        complain("Interrupted; `tale chat --continue` takes the conversation up again.")
        raise typer.Exit(INTERRUPTED) from None
    task_id = answer["task_id"] if wait else None
    if task_id and not as_json:
        screen.aside(answer["reply"])  # stdout is for the result
    elif not as_json:
        streamed.end(answer["reply"])
    task = result_of(settings, task_id, screen, quiet=as_json) if task_id else None
    if as_json:
        screen.json({**answer, "task": task})
    elif task:
        show_result(screen, task)
    if not as_json and screen.err.is_terminal:
        screen.aside(f'tale chat --conversation {answer["conversation_id"]} -m "…" goes on.')
    if task and task["status"] != "completed":
        raise typer.Exit(FAILED)


def result_of(settings: Settings, task_id: str, screen: Screen, *, quiet: bool = False) -> dict[str, Any]:
    """Wait for a task to its end. An interrupt leaves it running, says how to see it, and exits."""
    try:
        with progress_on(screen.err, quiet=quiet) as progress:
            return asyncio.run(follow(settings, task_id, progress))
    except KeyboardInterrupt:
        way_back = f"`tale status {task_id}` tells how it goes, `tale cancel {task_id}` stops it."
        complain(f"Interrupted; the task runs on: {way_back}")
        raise typer.Exit(INTERRUPTED) from None


def show_result(screen: Screen, task: dict[str, Any]) -> bool:
    """Print what a task has made, or what became of it; False where it did not complete."""
    if task["status"] == "completed":
        screen.answer(task["result"] or "")
        return True
    complain(ending(task))
    if task["result"]:
        screen.aside(f"`tale result {task['id']}` prints what it had written.")
    return False


async def streamed_answer(
    client: HTTPMCPClient, arguments: dict[str, Any], streamed: Streamed, begin: Callable[[], object]
) -> dict[str, Any]:
    """Have an answer streamed; when its reader goes away, the model stops too. Raises BrokenPipeError then."""
    gone: BrokenPipeError | None = None

    def on_piece(_figure: float, _total: float | None, piece: str | None) -> None:
        nonlocal gone
        begin()
        try:
            streamed.add(piece or "")
        except BrokenPipeError as error:  # to the client an OSError would be a server that does not answer
            gone = error
            call.cancel()

    call = asyncio.create_task(client.call_tool("conversation", arguments, on_progress=on_piece))
    try:
        return await call
    except asyncio.CancelledError:
        if gone:
            raise gone from None
        raise


async def _said(
    settings: Settings, text: str, wanted: str | None, *, go_on: bool, streamed: Streamed, screen: Screen
) -> dict[str, Any]:
    with ExitStack() as until_words:
        progress = until_words.enter_context(progress_on(screen.err, quiet=streamed.quiet))
        async with running(settings, progress.step, "ux_agent", note=progress.say) as client:
            conversation = (await earlier(client, wanted))["conversation_id"] if go_on or wanted else None
            if screen.err.is_terminal:
                progress.step("Waiting for the first words")
            async with watching_models(client, progress) as end_watch:

                def begin() -> None:
                    end_watch()
                    until_words.close()  # the live line gives way to the answer

                return await streamed_answer(
                    client, {"message": text, "conversation_id": conversation}, streamed, begin
                )
