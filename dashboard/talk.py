"""A conversation with the UX agent as it goes on between the looks of a page: answers stream in, results come."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tale.cli.chat_cards import open_tasks
from tale.cli.chat_recovery import Sent, answer_among
from tale.exceptions import NetworkException, TaleBaseException

if TYPE_CHECKING:
    from service import Service

Turn = dict[str, Any]

SHOWN: Final = 200  # turns, the latest
ATTEMPTS: Final = 3  # to have a message answered by servers that are lost meanwhile
BACK_S: Final = 60.0
LOOK_S: Final = 0.5
WAIT_S: Final = 45  # of one call; then it is made again
WAIT_FOR_TASKS_S: Final = 5  # the same, while tasks are under way: one that is cancelled elsewhere ends without a word
WAIT_MARGIN_S: Final = 15.0
KEPT_LOOK_S, KEPT_LIMIT_S = 0.1, 3.0
PAUSE_S: Final = 1.0  # after a refusal
FORGET_S: Final = 120.0  # without a look
STOPPED: Final = "Stopped."
LOST: Final = "The servers do not answer; it is asked again when they are back."
CUT: Final = "The answer was cut off at its token limit."


@dataclass(slots=True)
class Said:
    """A message said here: the words of its answer as far as they have come, and what is to be told of it."""

    sent: Sent
    words: str = ""
    note: str = ""
    first_s: float | None = None  # from saying it to the first words, as seen here
    position: int | None = None  # of the answer
    stopped: bool = False
    ended: bool = False
    settled: bool = False  # it was looked whether the servers kept an answer
    work: asyncio.Task[None] | None = field(default=None, repr=False)

    def hear(self, _figure: float, _total: float | None, piece: str | None) -> None:
        """Another piece of the answer."""
        if self.first_s is None:
            self.first_s = time.time() - self.sent.sent_at
        self.note = ""
        self.words += piece or ""


class Talk:
    """One conversation. What it holds is changed in the loop of the service; pages read it."""

    def __init__(self, service: "Service", conversation_id: str) -> None:
        self.id = conversation_id
        self.cards: list[dict[str, Any]] = []
        self.answers: dict[int, dict[str, Any]] = {}  # what was told of answers with them, by position
        self.notes: dict[int, str] = {}
        self.problem: str | None = None
        self.is_read = False  # whether what was said before is known
        self._service = service
        self._turns: dict[int, Turn] = {}
        self._said: list[Said] = []
        self._stirred = asyncio.Event()
        self._looked_at = 0.0
        self._is_followed = False

    @property
    def is_answering(self) -> bool:
        """Whether an answer is being written, or waited for."""
        return any(not said.settled for said in self._said)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody looks, or waits for an answer."""
        return self.is_answering or time.monotonic() - self._looked_at < FORGET_S

    def waiting(self) -> list[tuple[float, bool]]:
        """What was said here and has no kept answer yet, and whether that is settled."""
        return [(said.sent.sent_at, said.settled) for said in self._said]

    def look(self) -> None:
        """Have the conversation followed as long as somebody looks."""
        self._looked_at = time.monotonic()
        if not self._is_followed:
            self._is_followed = True
            self._service.start(self._follow())

    def say(self, text: str) -> None:
        """Say something; what broke off before gives way to it."""
        self._service.begin(self._begin(text)).result()

    def stop(self) -> None:
        """Break off the answers that are being written; the model stops, too."""
        for said in self._said:
            if said.work and not said.ended:
                said.stopped = True
                self._service.call(said.work.cancel)

    def rate(self, position: int, rating: str) -> None:
        """Keep what the user thinks of an answer. Raises TaleBaseException."""
        self._service.ask("rate_answer", "ux_agent", conversation_id=self.id, position=position, rating=rating)
        self._turns[position]["rating"] = rating

    def shown(self) -> tuple[list[Turn], list[Said]]:
        """The messages, oldest first, and what was said here and has no kept answer yet."""
        turns = [self._turns[position] for position in sorted(self._turns)]
        hidden: set[int] = set()
        waiting = list(self._said)
        for said in waiting:
            mine = (turn for turn in turns if turn["role"] == "user" and turn["position"] > said.sent.after)
            hidden |= {turn["position"] for turn in mine if turn["content"] == said.sent.text}
            answer = answer_among(turns, said.sent)
            hidden |= {answer["position"]} if answer else set()
        return [turn for turn in turns if turn["position"] not in hidden], waiting

    async def _begin(self, text: str) -> None:
        said = Said(Sent(text, time.time(), max(self._turns, default=-1)))
        self._said = [*(each for each in self._said if not each.settled), said]
        self._service.start(self._answer(said))

    async def _answer(self, said: Said) -> None:
        said.work = asyncio.current_task()
        try:
            await self._asked(said)
        except TaleBaseException as error:
            said.note = error.message
        except asyncio.CancelledError:
            if not said.stopped:
                raise
            said.note = STOPPED
        said.ended = True
        self._stirred.set()
        await self._settle(said)

    async def _settle(self, said: Said) -> None:
        """Read what the servers kept: of an answer that was broken off what had been heard, a moment later."""
        ends_at = time.monotonic() + KEPT_LIMIT_S
        try:
            await self._read()
            while said in self._said and said.words and time.monotonic() < ends_at:
                await asyncio.sleep(KEPT_LOOK_S)
                await self._read()
        except TaleBaseException as error:
            self.problem = error.message
        finally:
            said.settled = True

    async def _asked(self, said: Said) -> None:
        """Have a message answered, by servers that may be lost meanwhile."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if attempt > 1:
                    await self._back()
                    await self._read()
                    if answer_among(list(self._turns.values()), said.sent):
                        return  # the servers kept it
                    said.words = ""
                client = await self._service.client("ux_agent")
                given: dict[str, Any] = {"message": said.sent.text, "conversation_id": self.id}
                if attempt > 1:
                    given |= {"again": True, "after": said.sent.after}
                answer = await client.call_tool("conversation", given, on_progress=said.hear)
            except NetworkException:
                if attempt == ATTEMPTS:
                    raise
                said.note = LOST
            else:
                said.position, said.note = answer["position"], ""
                self.answers[answer["position"]] = answer
                if answer["finish_reason"] == "length":
                    said.note = CUT
                return

    async def _back(self) -> None:
        """Return when the UX agent answers again. Raises NetworkException when it stays away."""
        ends_at = time.monotonic() + BACK_S
        while True:
            try:
                await (await self._service.client("ux_agent")).connect()
            except TaleBaseException:
                if time.monotonic() > ends_at:
                    raise
                await asyncio.sleep(LOOK_S)
            else:
                return

    async def _follow(self) -> None:
        try:
            while self.is_wanted:
                try:
                    await self._hear()
                    self.problem = None
                except TaleBaseException as error:  # too busy for somebody who only listens, or away
                    self.problem = error.message
                    await asyncio.sleep(PAUSE_S)
        finally:
            self._is_followed = False

    async def _hear(self) -> None:
        if not self.is_read:
            await self._read()
        if not self._turns:  # a new conversation is there when its first message is
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await self._stirred.wait()
            self._stirred.clear()
            await self._read()
            return
        wait_s = WAIT_FOR_TASKS_S if open_tasks(self.cards) else WAIT_S
        given = {"conversation_id": self.id, "after": max(self._turns), "timeout_s": wait_s}
        client = await self._service.client("ux_agent")
        limit_s = wait_s + WAIT_MARGIN_S
        self._take(await client.call_tool("follow_conversation", given, timeout_s=limit_s, idempotent=True))

    async def _read(self) -> None:
        client = await self._service.client("ux_agent")
        given = {"conversation_id": self.id, "limit": SHOWN}
        self._take(await client.call_tool("get_history", given, idempotent=True))
        self.is_read = True

    def _take(self, news: dict[str, Any]) -> None:
        self._turns |= {turn["position"]: turn for turn in news["turns"]}
        self.cards = news["tasks"]
        turns = [self._turns[position] for position in sorted(self._turns)]
        left: list[Said] = []
        for said in self._said:
            kept = self._turns.get(said.position) if said.position is not None else answer_among(turns, said.sent)
            if not (said.ended and kept):
                left.append(said)
            elif said.note:
                self.notes[kept["position"]] = said.note
        self._said = left
