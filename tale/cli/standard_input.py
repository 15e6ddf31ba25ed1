"""Reads a task from a pipe: no more of it than a task may be, and text only."""

import sys
from typing import Final

from tale.exceptions import ValidationException
from tale.validation import MAX_TASK_CHARACTERS

LONGEST_CHARACTER_BYTES: Final = 4  # in UTF-8


def text_from_stdin() -> str:
    """The text on stdin. Raises ValidationException for a terminal, other bytes than UTF-8, and what never ends."""
    if sys.stdin is None or sys.stdin.isatty():
        raise ValidationException('"-" reads the task from a pipe: echo "Write a haiku" | tale submit -')
    # White space around the text is not counted, so there may be as much of it again.
    most_bytes = 2 * MAX_TASK_CHARACTERS * LONGEST_CHARACTER_BYTES
    data = sys.stdin.buffer.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValidationException(
            f"The text on stdin has more than {most_bytes:,} bytes; a task has at most "
            f"{MAX_TASK_CHARACTERS:,} characters. Shorten it."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValidationException(
            f"The text on stdin is not valid UTF-8 (byte {error.start + 1}); convert it and send it again."
        ) from error
