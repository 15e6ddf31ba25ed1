"""Commands about settings: config show, and init, which makes a project folder."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import typer

from tale.cli.groups import group
from tale.cli.invocation import resolved
from tale.cli.tasks import Json
from tale.exceptions import ValidationException

config = group("See the settings.")


@config.command("show")
def show(context: typer.Context, as_json: Json = False) -> None:
    """Show every setting with its value and where it came from; keys and passwords are masked."""
    from tale.cli.rendering import Screen, table

    screen = Screen()
    origins = resolved(context)[1]
    if as_json:
        screen.json({origin.name: {"value": origin.value, "source": origin.source} for origin in origins})
        return
    if screen.narrow:
        for origin in origins:
            screen.show(f"{origin.name} = {origin.value or '(none)'}", f"  {origin.source}")
        return
    made = table(("setting", "value", "from"))
    for origin in origins:
        made.add_row(origin.name, origin.value or "(none)", origin.source)
    screen.show(made)


def init(
    name: Annotated[str, typer.Argument(help="Name of the folder.", metavar="NAME")],
) -> None:
    """Make a project folder with a commented tale.toml.

    Commands that are run in the folder or below it take their settings from there.
    """
    from tale.cli.rendering import Screen
    from tale.settings import CONFIG_FILE

    if not name.strip():
        raise ValidationException("The folder has no name; give it one, or a dot for this one: tale init myproject.")
    folder = Path(name).expanduser()
    path = folder / CONFIG_FILE
    if path.exists():
        raise ValidationException(f"{path} exists already; edit it, or name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(commented_settings())
    except OSError as error:
        raise ValidationException(f"{path} cannot be made: {error.strerror or error}; name another folder.") from error
    way = "" if folder == Path() else f"cd {shlex.quote(str(folder))} && "
    Screen().show(
        f"Made {path}, in which every setting is explained.",
        f'Next: {way}tale submit "Write a haiku"',
    )


def commented_settings() -> str:
    """A tale.toml with every setting, its meaning and its default, each of them commented out."""
    from tale.settings import Settings

    lines = [
        "# Settings of tale. This file counts for commands that are run in this folder or below it.",
        "# TALE_* variables (TALE_GATEWAY_PORT for gateway_port) and the command line go before it.",
        "# `tale config show` tells what is in force and where each value came from.",
        "#",
        "# As long as home stays commented out, this project shares servers, models and history with all others of",
        "# this user. With a home of its own it starts apart: give it other ports too. Its models are fetched again.",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f" {json.dumps(_plain(field.default))}"
        choices = f" ({', '.join(get_args(field.annotation))})" if get_origin(field.annotation) is Literal else ""
        lines += ["", f"# {field.description or name}{choices}", f"#{name} ={default}"]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value  # numbers, booleans, strings are alike in JSON and TOML
