"""Listens to the gateway's feeds of tasks: hears of each state and word as it comes, and goes on after a break."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from tale.exceptions import ServerException
from tale.records import TaskStatus

if TYPE_CHECKING:
    from service import Service

SILENCE_S: Final = 45.0  # the gateway gives a sign of life every 15 s
PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0)
FORGET_S: Final = 120.0  # without a look
REFUSED: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
FINAL: Final = frozenset(status.value for status in TaskStatus if status.is_final)


@dataclass(slots=True)
class Heard:
    """What has been heard of a task; written in the loop, read by pages. `text` is what its last attempt has written.

    `refused` says that this gateway has no feed of it, `is_away` that it, or its database, does not answer now.
    """

    task_id: str
    status: str | None = None
    message: str = ""
    output_tokens: int | None = None
    text: str = ""
    attempt: int = 0
    error: str | None = None
    states: list[str] = field(default_factory=list[str])  # all that were told, in their order
    place: str = ""  # of the last event, as the gateway numbers them
    refused: bool = False
    is_away: bool = False
    looked_at: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to hear."""
        return self.refused or self.status in FINAL

    def take(self, place: str, kind: str, told: dict[str, Any]) -> None:
        """One event."""
        self.place = place
        if kind == "text":
            if told["attempt"] != self.attempt:
                self.attempt, self.text = told["attempt"], ""
            self.text = self.text[: told["offset"]] + told["text"]
            return
        if kind == "state":
            self.states.append(told["status"])
        self.status, self.message = told["status"], told["message"]
        self.output_tokens = told.get("output_tokens", self.output_tokens)
        self.error = told.get("error")


class Feeds:
    """The tasks that are listened to. Those nobody looks at are left, until the next look."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._heard: dict[str, Heard] = {}
        self._lock = threading.Lock()
        self._listening: set[str] = set()

    def follow(self, task_id: str) -> Heard:
        """What has been heard of a task, which is listened to from now on."""
        with self._lock:
            if task_id not in self._heard:
                kept = {name: heard for name, heard in self._heard.items() if self._is_wanted(heard)}
                self._heard = {**kept, task_id: Heard(task_id)}
            heard = self._heard[task_id]
            heard.looked_at = time.monotonic()
            if task_id not in self._listening and not heard.is_over:
                self._listening.add(task_id)
                self._service.start(self._listen(heard))
        return heard

    @staticmethod
    def _is_wanted(heard: Heard) -> bool:
        return time.monotonic() - heard.looked_at < FORGET_S

    async def _listen(self, heard: Heard) -> None:
        try:
            await listen(self._service, heard, lambda: self._is_wanted(heard))
        finally:
            with self._lock:
                self._listening.discard(heard.task_id)


async def listen(service: "Service", heard: Heard, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Listen until the task has ended, through restarts of the gateway, from the last event that was heard."""
    pauses = 0
    while not heard.is_over and is_wanted():
        with suppress(aiohttp.ClientError, TimeoutError, OSError, ServerException):  # it is away, and asked again
            async with await service.http() as http:
                async for place, kind, told in _events(http, service.settings.url_of("gateway"), heard):
                    pauses = 0
                    heard.take(place, kind, told)
                    if not is_wanted():
                        return
        heard.is_away = not heard.is_over  # what breaks off after the last event is no loss
        if not heard.is_over:
            await asyncio.sleep(PAUSES_S[min(pauses, len(PAUSES_S) - 1)])
            pauses += 1


async def _events(
    http: aiohttp.ClientSession, url: str, heard: Heard
) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    headers = {"Last-Event-ID": heard.place} if heard.place else {}
    limits = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=SILENCE_S)
    async with http.get(f"{url}/tasks/{heard.task_id}/events", headers=headers, timeout=limits) as response:
        heard.refused = response.status in REFUSED
        if heard.refused:
            return
        response.raise_for_status()
        heard.is_away = False
        fields: dict[str, str] = {}
        async for line in response.content:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                fields[name] = value
                continue
            if "data" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}
