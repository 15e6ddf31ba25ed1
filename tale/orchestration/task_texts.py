"""The texts of attempts under way, as far as they are known in this process, for whoever follows them."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

KEPT_TEXTS: Final = 256  # of tasks of which nobody said here that they ended


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of an attempt's text and where it stands in it; an attempt with a larger number begins anew at 0."""

    task_id: str
    attempt: int
    offset: int
    text: str


@dataclass(slots=True)
class _Known:
    attempt: int
    text: str = ""


class TaskTexts:
    """Gathers texts piece by piece. Who follows one reads from where he is, so that nobody can lag behind for good."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._taps: list[Callable[[TextPiece], None]] = []

    def tap(self, tap: Callable[[TextPiece], None]) -> None:
        """Call `tap`, which must not raise, with each piece that is new here."""
        self._taps.append(tap)

    def append(self, task_id: str, attempt: int, text: str) -> None:
        """Add what the model of this process just wrote."""
        known = self._known.get(task_id)
        offset = len(known.text) if known and known.attempt == attempt else 0
        self.add(TextPiece(task_id, attempt, offset, text))

    def add(self, piece: TextPiece) -> bool:
        """Add a piece; False when what stands before it is missing here. What is known already changes nothing."""
        known = self._known.get(piece.task_id)
        if known is None or known.attempt < piece.attempt:
            if piece.offset:
                return False
            known = self._begin(piece)
        if known.attempt > piece.attempt:
            return True
        if piece.offset > len(known.text):
            return False
        new = piece.text[len(known.text) - piece.offset :]
        if new:
            told = TextPiece(piece.task_id, piece.attempt, len(known.text), new)
            known.text += new
            for tap in self._taps:
                tap(told)
            for follower in self._followers.get(piece.task_id, ()):
                follower.set()
        return True

    def _begin(self, piece: TextPiece) -> _Known:
        self._known.pop(piece.task_id, None)
        known = self._known[piece.task_id] = _Known(piece.attempt)
        if len(self._known) > KEPT_TEXTS:
            del self._known[next(iter(self._known))]
        return known

    def after(self, task_id: str, attempt: int, offset: int) -> TextPiece | None:
        """What is known beyond a place; None when that is nothing. Of a newer attempt it is all there is."""
        known = self._known.get(task_id)
        if known is None or known.attempt < attempt:
            return None
        start = offset if known.attempt == attempt else 0
        return TextPiece(task_id, known.attempt, start, known.text[start:]) if known.text[start:] else None

    def end(self, task_id: str) -> None:
        """Forget a text whose attempt has ended: its row holds it now."""
        self._known.pop(task_id, None)

    @contextmanager
    def follow(self, task_id: str) -> Generator[asyncio.Event]:
        """An event that is set whenever there is more to read."""
        changed = asyncio.Event()
        self._followers.setdefault(task_id, set()).add(changed)
        try:
            yield changed
        finally:
            followers = self._followers[task_id]
            followers.discard(changed)
            if not followers:
                del self._followers[task_id]
