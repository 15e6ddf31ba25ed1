"""What was typed in earlier conversations, in a file that its owner alone can read."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prompt_toolkit.history import History

FILE_NAME: Final = "chat_history"
MOST_ENTRIES: Final = 1_000
OWNER_ONLY: Final = 0o600


class TypedHistory(History):
    """The latest entries, a line of JSON each; of two conversations at once, both are kept.

    Without a file that can be written, what is typed is remembered as long as the conversation lasts; `unkept` says
    then what is in the way.
    """

    def __init__(self, path: Path, *, most: int = MOST_ENTRIES) -> None:
        super().__init__()
        self._path = path
        self._most = most
        self.unkept: str | None = None

    def load_history_strings(self) -> Iterable[str]:
        """The entries, latest first; the file is cut to the latest when it has grown to twice as many."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
            if len(lines) > 2 * self._most:
                lines = lines[-self._most :]
                self._rewrite(lines)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._blame(error)
            return []
        return [entry for line in reversed(lines[-self._most :]) if (entry := _entry(line)) is not None]

    def store_string(self, string: str) -> None:
        """Append an entry."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            number = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, OWNER_ONLY)
            with os.fdopen(number, "a", encoding="utf-8") as file:
                os.fchmod(number, OWNER_ONLY)  # the file may be older than this rule
                file.write(json.dumps(string) + "\n")
        except OSError as error:
            self._blame(error)

    def _rewrite(self, lines: list[str]) -> None:
        made = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, OWNER_ONLY), "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        made.replace(self._path)

    def _blame(self, error: OSError) -> None:
        self.unkept = f"What you type is not kept for later: {self._path}: {error.strerror or error}."


def _entry(line: str) -> str | None:
    """The text of a line; None for one that was cut off or is no text."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
