"""The order of a conversation on the screen: what is written for good, and what is still being said below it; pure."""

from collections import deque
from dataclasses import dataclass, field

from tale.cli.chat_text import complete_length


@dataclass(frozen=True, slots=True)
class Part:
    """Something to be written for good: a heading, a piece of an answer in Markdown, or a note."""

    kind: str
    text: str


@dataclass(slots=True, eq=False)
class Entry:
    """A message with the answer to it, or a result that came by itself: `heading` as it is shown, `text` so far."""

    heading: str
    text: str = ""
    note: str = ""  # said below the text
    done: bool = False
    headed: bool = False  # the heading is written for good
    written: int = 0  # so many characters of the text are

    def heard(self, piece: str) -> None:
        """Another piece of the text."""
        self.text += piece

    def completed(self, whole: str) -> None:
        """The text is complete: what of it did not stream is added."""
        if whole.startswith(self.text):
            self.text = whole
        self.done = True

    def ended(self, note: str) -> None:
        """No more will come, for the reason told."""
        self.note, self.done = note, True

    def restart(self) -> None:
        """The answer begins anew; what was written for good of the first one stays."""
        if self.written:
            self.heading, self.headed = "The answer broke off; it begins anew.", False
        self.text, self.written = "", 0

    def parts_left(self) -> list[Part]:
        """What is not written for good yet."""
        return self._parts(len(self.text) - self.written)

    @property
    def is_due(self) -> bool:
        """Whether something can be written for good now."""
        return self.done or not self.headed or self._complete() > 0

    def take_parts(self) -> list[Part]:
        """What can be written for good now; it is, from here on."""
        length = self._complete()
        parts = self._parts(length)
        self.headed = True
        self.written += length
        return parts

    def _complete(self) -> int:
        rest = self.text[self.written :]
        return len(rest) if self.done else complete_length(rest)

    def _parts(self, length: int) -> list[Part]:
        heading = "" if self.headed else self.heading
        text = self.text[self.written : self.written + length].strip("\n")
        parts = (Part("heading", heading), Part("text", text), Part("note", self.note if self.done else ""))
        return [part for part in parts if part.text.strip()]


@dataclass(slots=True)
class Transcript:
    """The entries that are not written for good yet, oldest first.

    Only the oldest is written: later ones wait below it until it is done, so that no answer cuts into another.
    """

    entries: deque[Entry] = field(default_factory=lambda: deque[Entry]())

    def begin(self, heading: str) -> Entry:
        """Another entry."""
        entry = Entry(heading)
        self.entries.append(entry)
        return entry

    @property
    def is_due(self) -> bool:
        """Whether something can be written for good now."""
        return bool(self.entries) and self.entries[0].is_due

    def take_written(self) -> list[Part]:
        """What can be written for good now; it is, from here on."""
        parts: list[Part] = []
        while self.entries:
            parts += self.entries[0].take_parts()
            if not self.entries[0].done:
                break
            self.entries.popleft()
        return parts

    @property
    def is_quiet(self) -> bool:
        """Whether nobody is being answered."""
        return all(entry.done for entry in self.entries)
