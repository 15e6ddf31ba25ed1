"""The key of one home, made once, by which its own commands and processes come in; only its owner can read it."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Final

from tale.credentials import new_key
from tale.exceptions import ServerException
from tale.settings import Settings

HOME_KEY_FILE: Final = "owner.key"

logger = logging.getLogger(__name__)


def own_key(settings: Settings, role: str) -> str | None:
    """The key with which a process of this home asks a server of this role; None where it has none.

    The home's own key is for its own servers: one that was named by its URL gets the configured key or none.
    """
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    if getattr(settings, f"{role}_url") is not None:
        return None
    try:
        return (settings.run_folder / HOME_KEY_FILE).read_text(encoding="utf-8").strip() or None
    except OSError:  # no server of this home has run yet, or the home belongs to somebody else
        return None


def made_key(settings: Settings) -> str:
    """The key of this home, for its servers; made if there is none yet. Raises ServerException where it cannot be."""
    path = settings.run_folder / HOME_KEY_FILE
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(path)
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ServerException(
            f"The key of this home, {path}, cannot be read or made: {error.strerror or error}; "
            "see that it belongs to this user, or delete it.",
            {"path": str(path)},
        ) from error


def _make(path: Path) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=HOME_KEY_FILE, dir=path.parent)  # readable by its owner alone
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(new_key())
        os.link(draft, path)  # appears whole, or fails where another process was first, whose key then counts
    except FileExistsError:
        logger.debug("Another process made the key of this home.")
    finally:
        os.unlink(draft)
