"""What the values of targets are taken from: by SQL alone in the service, by the frames of a history in a dashboard."""

from collections.abc import Sequence
from typing import Final, Protocol

from tale.histogram import Histogram, decoded, merged_histogram
from tale.records import CHAT, TaskStatus
from tale.storage.call_pages import CALL_COLUMNS, CallFilter
from tale.storage.history_reader import MINUTE_COLUMNS, HistoryReader

MOST_LOADS: Final = 1_000  # the newest of a window


class Evidence(Protocol):
    """Values of [since, until) in Unix seconds. All methods raise DatabaseException."""

    def first_tokens(self, since: float, until: float) -> Histogram:
        """Seconds to the first token of the small model's answers in chats."""
        ...

    def loads(self, since: float, until: float) -> Sequence[float]:
        """Seconds that calls waited for a model to be loaded; the newest of many."""
        ...

    def tasks(self, since: float, until: float) -> Sequence[float]:
        """Seconds from hand-in to end of the tasks handed in then that completed."""
        ...

    def interrupts(self, since: float, until: float) -> Sequence[float]:
        """Seconds from the wish to the end, of running tasks that were cancelled."""
        ...

    def memory(self, since: float, until: float) -> Sequence[float]:
        """Bytes that all loaded models took together, sample by sample."""
        ...


class StoredEvidence:
    """Evidence as the database tells it; Polars is not needed for it."""

    def __init__(self, reader: HistoryReader) -> None:
        self.reader = reader

    def first_tokens(self, since: float, until: float) -> Histogram:
        """See Evidence."""
        names = ("role", "operation", "first_token_histogram")
        role, operation, histogram = (MINUTE_COLUMNS.index(name) for name in names)
        rows = self.reader.minutes(since, until)
        of_chat = (row[histogram] for row in rows if row[role] == "ux" and row[operation] == CHAT)
        return merged_histogram(map(decoded, of_chat))

    def loads(self, since: float, until: float) -> Sequence[float]:
        """See Evidence."""
        rows = self.reader.calls(CallFilter(since, until, kind="load", limit=MOST_LOADS))
        return [row[CALL_COLUMNS.index("load_s")] for row in rows]

    def tasks(self, since: float, until: float) -> Sequence[float]:
        """See Evidence."""
        return self.reader.task_seconds(since, until, status=TaskStatus.COMPLETED, begin="created_at")

    def interrupts(self, since: float, until: float) -> Sequence[float]:
        """See Evidence."""
        return self.reader.task_seconds(since, until, status=TaskStatus.CANCELLED, begin="cancel_requested_at")

    def memory(self, since: float, until: float) -> Sequence[float]:
        """See Evidence."""
        return self.reader.models_bytes(since, until)
