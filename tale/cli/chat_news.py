"""What happens in a conversation by itself: results of tasks, how tasks stand, and what other clients say."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from tale.cli.chat_board import Board
from tale.cli.chat_cards import open_tasks, told_lines
from tale.cli.chat_link import Link
from tale.cli.chat_turns import RESULT, heading
from tale.cli.edge import sentence
from tale.exceptions import NetworkException, TaleBaseException, ValidationException

WAIT_S: Final = 45  # of one call; then it is made again
WAIT_FOR_TASKS_S: Final = 5  # the same, while tasks are under way: one that is cancelled elsewhere ends without a word
WAIT_MARGIN_S: Final = 15.0
PAUSE_S: Final = 2.0  # after a refusal


@dataclass(slots=True)
class News:
    """Follows one conversation, and shows on the board what did not come of this client's own messages."""

    link: Link
    board: Board
    last: int = -1  # position known
    said: set[str] = field(default_factory=set[str])  # by this client
    shown: set[int] = field(default_factory=set[int])  # positions of the answers to it
    quiet: asyncio.Event = field(default_factory=asyncio.Event)  # set while nothing said here waits for its answer
    _unanswered: int = 0  # messages of other clients

    def __post_init__(self) -> None:
        self.quiet.set()

    async def follow(self, conversation_id: str) -> None:
        """Follow the conversation from the last position known, until cancelled."""
        while True:
            wait_s = WAIT_FOR_TASKS_S if open_tasks(self.board.cards) else WAIT_S
            arguments = {"conversation_id": conversation_id, "after": self.last, "timeout_s": wait_s}
            try:
                news = await self.link.agent.call_tool(
                    "follow_conversation",
                    arguments,
                    on_progress=self._on_progress,
                    timeout_s=wait_s + WAIT_MARGIN_S,
                    idempotent=True,
                )
            except NetworkException:
                await self.link.back(start=False)
                continue
            except ValidationException as error:  # it is gone from the database, or was never there
                self.board.aside(sentence(error))
                return
            except TaleBaseException:  # too busy for somebody who only listens
                await asyncio.sleep(PAUSE_S)
                continue
            for turn in news["turns"]:
                await self.take(turn)
                self.last = max(self.last, turn["position"])
            self.board.cards = news["tasks"]
            self.board.stirred.set()

    def begin_anew(self) -> None:
        """Forget a conversation."""
        self.last, self._unanswered = -1, 0
        self.shown.clear()

    async def take(self, turn: dict[str, Any]) -> None:
        """Show a message unless it is ours, or the answer to one of ours."""
        if turn["role"] == "user":
            if turn["content"] not in self.said:
                self._unanswered += 1
                self._show(f"{heading(turn['content'])} (from elsewhere)", "")
        elif turn["kind"] == RESULT:
            self._show("", turn["content"])
        elif self._unanswered:
            await self.quiet.wait()  # then all answers to our own are known
            if turn["position"] not in self.shown:
                self._unanswered -= 1
                self._show("", turn["content"])

    def _show(self, title: str, text: str) -> None:
        self.board.begin(title).completed(text)

    def _on_progress(self, _figure: float, _total: float | None, message: str | None) -> None:
        self.board.told = {**self.board.told, **told_lines(message or "", self.board.cards)}
        self.board.stirred.set()
