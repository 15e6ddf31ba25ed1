"""The tasks of a file on their way: handed in as `tale submit --file` does it, and listened to until the last end."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from feed import Heard, listen

from tale.cli.bulk import batches, hand_in
from tale.cli.task_file import Line
from tale.exceptions import TaleBaseException

if TYPE_CHECKING:
    from service import Service

AT_ONCE: Final = 8  # feeds; tasks that wait behind many others say nothing yet


@dataclass(slots=True)
class Batch:
    """The tasks of one file; changed in the loop of the service, read by pages. It stands for the display, too."""

    lines: Sequence[Line]
    ids: list[tuple[Line, str]] = field(default_factory=list[tuple[Line, str]])
    ended_as: Counter[str] = field(default_factory=Counter[str])
    failed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # by line, with the reason
    note: str = "Handing in"
    problem: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether all have ended, or none go on because they could not be handed in."""
        return self.problem is not None or self.ended_as.total() == len(self.lines)

    async def run(self, service: "Service") -> None:
        """Hand them in, and follow each to its end."""
        try:
            client = await service.client()
            for part in batches(self.lines):
                await hand_in(client, part, self, self.ids)
        except TaleBaseException as error:
            self.problem = f"{error.message} What was handed in goes on; the same file takes up the rest."
            return
        self.note = ""
        room = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._follow(service, room, line, task_id) for line, task_id in self.ids))

    async def _follow(self, service: "Service", room: asyncio.Semaphore, line: Line, task_id: str) -> None:
        heard = Heard(task_id)
        async with room:
            await listen(service, heard)
        status = heard.status or "unknown"
        self.ended_as[status] += 1
        if status != "completed":
            self.failed.append({"line": line.number, "status": status, "reason": heard.error or "", "task": task_id})

    def step(self, message: str, output_tokens: int | None = None) -> None:
        """What is going on now, in the words of the command."""
        self.note = message

    def say(self, text: str) -> None:
        """The same."""
        self.note = text

    def downloads(self, reason: str, models: Sequence[dict[str, Any]]) -> None:
        """Models are told of on their page."""

    def ended(self) -> None:
        """Counted by what the feeds tell."""
