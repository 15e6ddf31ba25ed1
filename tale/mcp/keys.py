"""Knows callers by their keys, without a look into the database for each request."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tale.credentials import Scope, digest_of
from tale.exceptions import DatabaseException
from tale.records import AccessKey

FRESH_S: Final = 1.0  # so soon a key that was revoked, also by another process, opens nothing
EAGER_S: Final = 0.2  # so soon a new key opens; and so often strangers can have the keys read again

LoadKeys = Callable[[], Awaitable[Sequence[AccessKey]]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the key's id and name, None where nobody is asked, and what the caller may do."""

    scope: Scope
    key_id: str | None = None
    name: str | None = None
    is_limited: bool = False


ANYBODY: Final = Caller(Scope.ADMIN)


class KeyRing:
    """The keys of one server: its own, by their names, which may do everything; and those that `load` reads.

    A key is asked for where it is `required`, and everywhere as soon as there is one to load, though it be revoked:
    taking a key away must not let everybody in. As long as keys could never be read, they are asked for too.
    """

    def __init__(
        self,
        own: Mapping[str, str],
        load: LoadKeys | None = None,
        *,
        required: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = {digest_of(key): Caller(Scope.ADMIN, name, name) for name, key in own.items()}
        self._own_ids = frozenset(own)
        self._load = load
        self._required = required
        self._clock = clock
        self._stored: dict[str, Caller] = {}
        self._stored_ids: frozenset[str | None] = frozenset()
        self._asks = required or load is not None
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether no key will ever open, because there is neither one of its own nor a place to read them from."""
        return not self._own and self._load is None

    async def caller_of(self, key: str | None) -> Caller | None:
        """Who sends this key; None for a stranger."""
        await self._refresh(FRESH_S)
        if key is not None:
            digest = digest_of(key)
            if digest not in self._own and digest not in self._stored:
                await self._refresh(EAGER_S)
            if caller := self._own.get(digest) or self._stored.get(digest):
                return caller
        return None if self._asks else ANYBODY

    async def is_good(self, key_id: str | None) -> bool:
        """Whether the key of that id, or nobody's, still opens."""
        await self._refresh(FRESH_S)
        return not self._asks if key_id is None else key_id in self._own_ids or key_id in self._stored_ids

    async def _refresh(self, age_s: float) -> None:
        """Read the keys again if what is known of them is older."""
        if self._load is None or not self._is_older(age_s):
            return
        async with self._reading:
            if not self._is_older(age_s):
                return
            try:
                keys = await self._load()
            except DatabaseException as error:
                logger.warning("The keys cannot be read; those that were known before hold on. %s", error)
                self._read_at = self._clock()
                return
            good = [key for key in keys if key.revoked_at is None]
            self._stored = {key.digest: Caller(key.scope, key.id, key.name, is_limited=True) for key in good}
            self._stored_ids = frozenset(key.id for key in good)
            self._asks = self._required or bool(keys)
            self._read_at = self._clock()

    def _is_older(self, age_s: float) -> bool:
        return self._read_at is None or self._clock() - self._read_at >= age_s
