"""What can be said of a task on the command line besides its text, and how it is told to the gateway."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from tale.cli.invocation import is_given
from tale.exceptions import ValidationException
from tale.validation import TIMEOUT_RANGE_S

PRIORITY_RANGE: Final = (-100, 100)
MAX_FILE_BYTES: Final = 1_000_000
MAX_FILES_BYTES: Final = 4_000_000  # as they are sent: the gateway takes requests of 4 MiB

MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", help="Most tokens the answer may have.", min=1, metavar="N")
]
Priority = Annotated[
    int,
    typer.Option(
        help="More urgent tasks have larger numbers.", min=PRIORITY_RANGE[0], max=PRIORITY_RANGE[1], metavar="N"
    ),
]
Timeout = Annotated[
    int | None,
    typer.Option(help="Seconds one attempt may take.", min=TIMEOUT_RANGE_S[0], max=TIMEOUT_RANGE_S[1], metavar="N"),
]
ExpectRegex = Annotated[
    str | None, typer.Option("--expect-regex", help="The answer must match this regular expression.", metavar="RE")
]
ExpectJson = Annotated[
    str | None,
    typer.Option("--expect-json", help="The answer must fit this JSON schema: JSON, or a file of it.", metavar="JSON"),
]
ExpectPython = Annotated[bool, typer.Option("--expect-python", help="The Python code of the answer must compile.")]
Deadline = Annotated[
    int | None, typer.Option(help="Seconds from now after which the task fails, begun or not.", min=1, metavar="N")
]
After = Annotated[
    list[str] | None,
    typer.Option("--after", help="Begin when this task has completed; may be given several times.", metavar="ID"),
]
WithResults = Annotated[
    bool, typer.Option("--with-results", help="Give the model the results of the --after tasks to read.")
]
Attach = Annotated[
    list[Path] | None,
    typer.Option("--attach", help="A text file for the model to read; may be given several times.", metavar="FILE"),
]
TaskFile = Annotated[
    Path | None,
    typer.Option("--file", help='Many tasks: a file with one JSON object a line; "-" reads stdin.', metavar="FILE"),
]
Anew = Annotated[bool, typer.Option("--anew", help="With --file: hand in what an earlier run handed in, too.")]

Planned = Annotated[
    bool, typer.Option("--plan", help="Have the model split the task into steps first; they are shown before they run.")
]
MaxSteps = Annotated[
    int, typer.Option("--max-steps", help="With --plan: how many steps at most.", min=2, max=20, metavar="N")
]
YesToPlan = Annotated[bool, typer.Option("--yes", help="With --plan: run the steps without asking.")]


def refuse_idle(context: typer.Context, *, plan: bool, file: bool) -> None:
    """Raise ValidationException for an option that would do nothing, for want of another or beside it."""
    if plan and file:
        raise ValidationException("--plan splits one task; with --file, which brings many, leave it out.")
    needs = {"yes": ("--plan", plan), "max_steps": ("--plan", plan), "anew": ("--file", file)}
    for name, (partner, is_there) in needs.items():
        if not is_there and is_given(context, name):
            option = f"--{name.replace('_', '-')}"
            raise ValidationException(f"{option} does nothing without {partner}; leave it out, or give both.")


def files_of(paths: Sequence[Path]) -> list[dict[str, str]]:
    """The files as the gateway takes them; raises ValidationException for what is no text, or too large."""
    files = [{"name": str(path), "text": _attached(path)} for path in paths]
    if (size := len(json.dumps(files))) > MAX_FILES_BYTES:
        raise ValidationException(
            f"--attach: the files have {size:,} bytes in all, as they are sent; {MAX_FILES_BYTES:,} can go with a task."
        )
    return files


def _attached(path: Path) -> str:
    text = read_text(path, "--attach", most_bytes=MAX_FILE_BYTES)
    if "\x00" in text:
        raise ValidationException(f"--attach: {path} is no text: it holds NUL bytes; only text files can be used.")
    return text


def expect_of(regex: str | None, schema: str | None, *, python: bool) -> dict[str, Any] | None:
    """The checks in the form the gateway takes; None where there are none."""
    expect: dict[str, Any] = {}
    if regex is not None:
        expect["regex"] = regex
    if schema is not None:
        expect["json_schema"] = _schema_of(schema)
    if python:
        expect["python"] = True
    return expect or None


def read_text(path: Path, option: str, *, most_bytes: int | None = None) -> str:
    """A file of text; raises ValidationException naming the option where it cannot be read, or has more bytes."""
    try:
        with path.open("rb") as file:  # it may be a pipe, which tells no size
            data = file.read() if most_bytes is None else file.read(most_bytes + 1)
        if most_bytes is not None and len(data) > most_bytes:
            raise ValidationException(f"{option}: {path} has more than {most_bytes:,} bytes; take a shorter one.")
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except UnicodeDecodeError as error:
        raise ValidationException(
            f"{option}: {path} is no UTF-8 text (byte {error.start + 1}); only text files can be used."
        ) from error
    except OSError as error:
        raise ValidationException(f"{option}: {path} cannot be read: {error.strerror or error}.") from error


def _schema_of(given: str) -> dict[str, Any]:
    text = given if given.lstrip().startswith("{") else read_text(Path(given), "--expect-json")
    try:
        schema: object = json.loads(text)
    except ValueError as error:
        raise ValidationException(f"--expect-json: the schema is not JSON: {error}.") from error
    if not isinstance(schema, dict):
        raise ValidationException('--expect-json: the schema must be a JSON object, such as {"type": "object"}.')
    return cast("dict[str, Any]", schema)
