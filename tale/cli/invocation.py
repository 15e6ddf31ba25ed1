"""What a command was called with beyond its own options: the layers of settings."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tale.exceptions import TaleBaseException

if TYPE_CHECKING:
    from tale.settings import Origin, Settings


@dataclass(slots=True)
class Invocation:
    """One run of the command line; made at the edge and filled in from the options that stand before the command."""

    home: str | None = None
    command: str = ""  # its name alone: what stands behind it may be the words of a task

    def log_path(self) -> Path:
        """The file for tracebacks, told without failing where the settings cannot be read."""
        from tale.settings import load_settings

        try:
            return load_settings({"home": self.home}).run_folder / "cli.log"
        except (TaleBaseException, OSError):
            return Path(self.home or os.environ.get("TALE_HOME") or "~/.tale").expanduser() / "run" / "cli.log"


def settings_of(context: typer.Context, **overrides: Any) -> "Settings":
    """The settings in force; `overrides` are the command's own options, None where they were not given."""
    return resolved(context, **overrides)[0]


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option of the command was typed rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def resolved(context: typer.Context, **overrides: Any) -> "tuple[Settings, list[Origin]]":
    """The settings in force, and every one with the layer it came from."""
    from tale.settings import resolve_settings  # pydantic takes 0.1 s, which --help does not need

    invocation: Invocation = context.obj
    return resolve_settings({"home": invocation.home, **overrides})
