"""The edge of the process: whatever ends a command becomes an exit code and one sentence on stderr."""

import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer
from typer.main import get_command

from tale.cli.formatting import printable
from tale.cli.invocation import Invocation
from tale.exceptions import (
    DatabaseException,
    ModelException,
    NetworkException,
    ServerException,
    TaleBaseException,
    TaskException,
    ValidationException,
)

PROGRAM: Final = "tale"
COMPLETION: Final = "_TALE_COMPLETE"  # the variable that Typer's completion scripts set
STDERR_NUMBER: Final = 2
OWNER_ONLY: Final = 0o600
OK: Final = 0
FAILED: Final = 1  # the task failed, a budget is used up, or something nobody foresaw
USAGE: Final = 2
UNAVAILABLE: Final = 3  # no server, model or database
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count
PIPE_CLOSED: Final = 141  # 128 + SIGPIPE


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; never raises but for an interrupt of its own last words."""
    # A library's warning is no answer to the user: what matters raises, and the rest is in the log files. A handler of
    # the root logger would keep `tale serve` from setting up its own.
    logging.lastResort = logging.NullHandler()
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    invocation = Invocation()
    try:
        code = _command(list(sys.argv[1:] if arguments is None else arguments), invocation)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the edge of the process: all is told or logged
        return _ending(error, invocation)
    return code


def exit_code_of(error: BaseException) -> int:
    """The exit code that scripts get for an error."""
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return INTERRUPTED
        case ValidationException():
            return USAGE
        case TaskException():
            return USAGE if "task_id" in error.context else FAILED  # the task that was named cannot be used so
        case NetworkException() | ServerException() | ModelException() | DatabaseException():
            return UNAVAILABLE
        case typer.TyperException():
            return error.exit_code
        case BrokenPipeError():
            return PIPE_CLOSED
        case _:
            return FAILED


def complain(message: str) -> None:
    """Write one sentence to stderr; lines are joined and control characters left out."""
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed: then there is nobody to tell
        sys.stderr.write(f"tale: {printable(' '.join(message.split()))}\n")
        sys.stderr.flush()


def sentence(error: TaleBaseException) -> str:
    """The error as people read it; an address or a cause is added where the message lacks it."""
    details = [
        str(error.context[key])
        for key in ("url", "database", "cause")
        if error.context.get(key) and str(error.context[key]) not in error.message
    ]
    return f"{error.message} ({', '.join(details)})" if details else error.message


def _fill_closed_streams() -> None:
    """Lead closed standard streams nowhere, so that no file takes their numbers and each print has somewhere to go."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR_NUMBER:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process


def _command(arguments: list[str], invocation: Invocation) -> int:
    from tale.cli.application import application

    command = get_command(application)
    if COMPLETION in os.environ:  # a shell asks what could be typed next
        command.main(arguments, prog_name=PROGRAM)
    # Not by `main`, which would take interrupts and closed pipes for itself.
    try:
        with command.make_context(PROGRAM, arguments, obj=invocation) as context:
            command.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    return OK


def _ending(error: BaseException, invocation: Invocation) -> int:
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write("\n" if sys.stderr.isatty() else "")  # the terminal has shown ^C
        complain("Interrupted.")
    elif isinstance(error, TaleBaseException):
        complain(sentence(error))
    elif isinstance(error, typer.TyperException):
        complain(_usage(error))
    elif isinstance(error, BrokenPipeError):
        # Nobody reads on, and the interpreter's last flush must not say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        complain(_unexpected(error, invocation))
    return exit_code_of(error)


def _usage(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    if context is None:
        return f"{message}."
    return f"{message}{'' if message.endswith('?') else ';'} `{context.command_path} --help` tells more."


def _unexpected(error: BaseException, invocation: Invocation) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        summary = f"{error.strerror}{place}; see that there is room and that this user may read and write there."
    else:
        summary = f"Something went wrong that nobody foresaw ({type(error).__name__})."
    log = invocation.log_path()
    return f"{summary} Details are in {log}." if _kept(error, log, invocation.command) else summary


def _kept(error: BaseException, path: Path, command: str) -> bool:
    """Append the traceback to the log, which its owner alone can read; False where even that cannot be."""
    text = "".join(traceback.format_exception(error))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, OWNER_ONLY)
        with open(number, "a", encoding="utf-8", errors="replace") as log:
            os.fchmod(number, OWNER_ONLY)  # the file may be older than this rule
            log.write(f"{datetime.now(UTC).isoformat()} {PROGRAM} {command}\n{text}\n")
    except OSError:
        return False
    return True
