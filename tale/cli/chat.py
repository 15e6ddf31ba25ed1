"""The command that talks: in the terminal, line by line in a pipe, or one message with its answer."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tale.cli.invocation import settings_of
from tale.cli.tasks import Json
from tale.exceptions import ValidationException
from tale.validation import validate_task_id, validate_task_text

if TYPE_CHECKING:
    from tale.settings import Settings

NO_MESSAGE: Final = 'There is no message; give it with -m: tale chat -m "Hello".'


def chat(
    context: typer.Context,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="Say this alone and print the answer.", metavar="TEXT")
    ] = None,
    go_on: Annotated[bool, typer.Option("--continue", "-c", help="Take up the last conversation.")] = False,
    conversation: Annotated[str | None, typer.Option(help="Take up this conversation.", metavar="ID")] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="With -m or in a pipe: wait for the results of tasks.")
    ] = True,
    as_json: Json = False,
    extra: Annotated[list[str] | None, typer.Argument(hidden=True, metavar="WORDS")] = None,
) -> None:
    """Talk with tale: it answers at once, and hands what takes longer to the task model.

    In a pipe, each line is a message, and stdout gets the answers and results alone. The servers are started if none
    run.
    """
    if extra:
        raise ValidationException('The message came as several words; quote it: tale chat -m "Hello there".')
    if message is not None and not message.strip():
        raise ValidationException(NO_MESSAGE)
    if as_json and message is None:
        raise ValidationException("--json prints the answer to one message; give it with -m.")
    if go_on and conversation:
        raise ValidationException("--continue and --conversation exclude each other; give one of them.")
    text = None if message is None else validate_task_text(message)
    wanted = None if conversation is None else _conversation_id(conversation)
    settings = settings_of(context)
    if text is not None:
        from tale.cli.chat_once import say_once

        say_once(settings, text, wanted=wanted, go_on=go_on, wait=wait, as_json=as_json)
    else:
        _converse(settings, wanted, go_on=go_on, wait=wait)


def _converse(settings: "Settings", wanted: str | None, *, go_on: bool, wait: bool) -> None:
    from tale.cli.rendering import Screen

    screen = Screen()
    listens = sys.stdin is not None and sys.stdin.isatty()
    if listens and screen.out.is_terminal and not screen.out.is_dumb_terminal:
        from tale.cli.chat_loop import converse

        converse(settings, screen, wanted, go_on=go_on)
    else:
        from tale.cli.chat_lines import converse_by_lines

        converse_by_lines(settings, screen, wanted, go_on=go_on, wait=wait, listens=listens)


def _conversation_id(text: str) -> str:
    try:
        return validate_task_id(text)
    except ValidationException as error:
        raise ValidationException(
            f"{text!r} is not a conversation id (a UUID of version 4); `tale chat --continue` takes up the last one."
        ) from error
