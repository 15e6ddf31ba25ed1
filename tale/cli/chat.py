"""The command that says one thing to the small model and streams its answer."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tale.cli.edge import INTERRUPTED, complain
from tale.cli.formatting import printable
from tale.cli.invocation import settings_of
from tale.cli.tasks import Json
from tale.exceptions import ValidationException
from tale.validation import validate_task_id, validate_task_text

if TYPE_CHECKING:
    from tale.cli.rendering import Screen
    from tale.mcp.http_client import HTTPMCPClient
    from tale.settings import Settings


def chat(
    context: typer.Context,
    message: Annotated[str | None, typer.Option("--message", "-m", help="What you say.", metavar="TEXT")] = None,
    go_on: Annotated[bool, typer.Option("--continue", "-c", help="Take up the last conversation.")] = False,
    conversation: Annotated[str | None, typer.Option(help="Take up this conversation.", metavar="ID")] = None,
    as_json: Json = False,
    extra: Annotated[list[str] | None, typer.Argument(hidden=True, metavar="WORDS")] = None,
) -> None:
    """Say something and read the answer as it is written. The servers are started if none run."""
    if extra:
        raise ValidationException('The message came as several words; quote it: tale chat -m "Hello there".')
    if message is None or not message.strip():
        raise ValidationException('There is no message; give it with -m: tale chat -m "Hello".')
    if go_on and conversation:
        raise ValidationException("--continue and --conversation exclude each other; give one of them.")
    text = validate_task_text(message)
    wanted = None if conversation is None else _conversation_id(conversation)
    from tale.cli.rendering import Screen

    screen = Screen()
    streamed = Streamed(quiet=as_json, on_terminal=screen.out.is_terminal)
    try:
        answer = asyncio.run(_said(settings_of(context), text, wanted, go_on=go_on, streamed=streamed, screen=screen))
    except KeyboardInterrupt:
        streamed.end("")
        complain("Interrupted; `tale chat --continue` takes the conversation up again.")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        screen.json(answer)
        return
    streamed.end(answer["reply"])
    if screen.err.is_terminal:
        screen.aside(f'tale chat --conversation {answer["conversation_id"]} -m "…" goes on.')


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


async def _said(
    settings: "Settings", text: str, wanted: str | None, *, go_on: bool, streamed: Streamed, screen: "Screen"
) -> dict[str, Any]:
    from tale.cli.following import watching_models
    from tale.cli.gateway import running
    from tale.cli.progress import progress_on

    with ExitStack() as until_words:
        progress = until_words.enter_context(progress_on(screen.err, quiet=streamed.quiet))
        async with running(settings, progress.step, "ux_agent") as client:
            conversation = await _earlier(client, wanted) if go_on or wanted else None
            if screen.err.is_terminal:
                progress.step("Waiting for the first words")
            async with watching_models(client, progress) as end_watch:

                def begin() -> None:
                    end_watch()
                    until_words.close()  # the live line gives way to the answer

                return await _answer(client, {"message": text, "conversation_id": conversation}, streamed, begin)


async def _answer(
    client: "HTTPMCPClient", arguments: dict[str, Any], streamed: Streamed, begin: Callable[[], object]
) -> dict[str, Any]:
    """Have the answer streamed; when its reader goes away, the model stops too. Raises BrokenPipeError then."""
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


async def _earlier(client: "HTTPMCPClient", wanted: str | None) -> str:
    """The conversation to go on with: the wanted one, else the latest. Raises ValidationException."""
    history = await client.call_tool("get_history", {"conversation_id": wanted, "limit": 1}, idempotent=True)
    if not history["turns"]:
        raise ValidationException(f"There is no conversation {wanted}; `tale chat --continue` takes up the last one.")
    return history["conversation_id"]


def _conversation_id(text: str) -> str:
    try:
        return validate_task_id(text)
    except ValidationException as error:
        raise ValidationException(
            f"{text!r} is not a conversation id (a UUID of version 4); `tale chat --continue` takes up the last one."
        ) from error
