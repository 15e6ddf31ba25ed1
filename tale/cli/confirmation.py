"""Asks before something is thrown away."""

import sys
from typing import Annotated

import typer

from tale.exceptions import ValidationException

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirmed(question: str, *, yes: bool) -> bool:
    """Whether to go on. Raises ValidationException where nobody can be asked."""
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        raise ValidationException(f"{question} Nobody can be asked here; --yes does it without asking.")
    return typer.confirm(question, err=True)
