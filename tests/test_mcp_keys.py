"""The ring knows keys by their digests, and notices within moments what changed about them."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from tale.credentials import Scope, digest_of
from tale.exceptions import DatabaseException
from tale.mcp.keys import ANYBODY, EAGER_S, FRESH_S, KeyRing
from tale.mcp.rate_limit import TokenBuckets
from tale.records import AccessKey


@dataclass
class Store:
    """Keys as a database holds them, a clock, and how often the keys were read."""

    keys: list[AccessKey] = field(default_factory=list)
    now: float = 0.0
    reads: int = 0
    broken: bool = False

    async def load(self) -> Sequence[AccessKey]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.broken:
            raise DatabaseException("The database is gone.")
        return list(self.keys)

    def add(self, key: str, scope: Scope = Scope.READ) -> AccessKey:
        row = AccessKey(f"id-{key}", f"name-{key}", scope, digest_of(key), created_at=0.0)
        self.keys.append(row)
        return row

    def ring(self, *, required: bool = False, **own: str) -> KeyRing:
        return KeyRing(own, self.load, required=required, clock=lambda: self.now)


@pytest.fixture
def store() -> Store:
    return Store()


async def test_as_long_as_there_is_no_key_nobody_is_asked(store: Store) -> None:
    ring = store.ring(owner="mine")
    assert await ring.caller_of(None) is ANYBODY
    assert await ring.caller_of("whatever") is ANYBODY
    owner = await ring.caller_of("mine")
    assert owner is not None
    assert (owner.name, owner.scope, owner.is_limited) == ("owner", Scope.ADMIN, False)


async def test_from_the_first_key_on_everybody_is_asked(store: Store) -> None:
    ring = store.ring(owner="mine")
    store.add("k", Scope.SUBMIT)
    caller = await ring.caller_of("k")
    assert caller is not None
    assert (caller.key_id, caller.name, caller.scope, caller.is_limited) == ("id-k", "name-k", Scope.SUBMIT, True)
    assert await ring.caller_of(None) is None
    assert await ring.caller_of("other") is None
    assert await ring.caller_of("mine") is not None


async def test_taking_the_last_key_away_lets_nobody_in(store: Store) -> None:
    row = store.add("k")
    store.keys = [replace(row, revoked_at=1.0)]
    ring = store.ring()
    assert await ring.caller_of("k") is None
    assert await ring.caller_of(None) is None
    store.keys.clear()
    store.now = FRESH_S
    assert await ring.caller_of(None) is ANYBODY


async def test_where_a_key_is_required_nobody_comes_in_without(store: Store) -> None:
    ring = store.ring(required=True)
    assert await ring.caller_of(None) is None
    assert await ring.caller_of("k") is None


async def test_a_revoked_key_opens_nothing_after_moments(store: Store) -> None:
    row = store.add("k")
    ring = store.ring()
    assert await ring.caller_of("k")
    store.keys = [replace(row, revoked_at=0.0)]
    store.now = FRESH_S - 0.1
    assert await ring.caller_of("k")
    assert await ring.is_good("id-k")
    store.now = FRESH_S
    assert await ring.caller_of("k") is None
    assert not await ring.is_good("id-k")


async def test_a_new_key_opens_almost_at_once(store: Store) -> None:
    ring = store.ring(required=True)
    assert await ring.caller_of("k") is None
    store.add("k")
    assert await ring.caller_of("k") is None
    store.now = EAGER_S
    assert await ring.caller_of("k")


async def test_requests_do_not_read_the_database(store: Store) -> None:
    store.add("k")
    ring = store.ring(owner="mine")
    await asyncio.gather(*(ring.caller_of("k") for _ in range(50)))
    for key in ("k", "mine", None, "stranger"):
        for _ in range(50):
            await ring.caller_of(key)
    assert store.reads == 1
    store.now = EAGER_S
    for _ in range(50):
        await ring.caller_of("stranger")
    assert store.reads == 2


async def test_while_keys_cannot_be_read_those_known_before_hold_on(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.add("k")
    ring = store.ring(owner="mine")
    assert await ring.caller_of("k")
    store.broken = True
    store.now = FRESH_S
    with caplog.at_level(logging.WARNING):
        assert await ring.caller_of("k")
        assert await ring.caller_of(None) is None
    assert "keys cannot be read" in caplog.text


async def test_as_long_as_keys_could_never_be_read_only_the_own_ones_open(store: Store) -> None:
    store.broken = True
    ring = store.ring(owner="mine")
    assert await ring.caller_of(None) is None
    assert await ring.caller_of("k") is None
    assert await ring.caller_of("mine")
    store.broken = False
    store.now = FRESH_S
    assert await ring.caller_of(None) is ANYBODY


async def test_own_keys_need_no_store() -> None:
    ring = KeyRing({"api_key": "secret"}, required=True)
    assert await ring.caller_of("secret")
    assert await ring.caller_of("Secret") is None
    assert await ring.is_good("api_key")
    assert not await ring.is_good(None)
    assert not ring.is_empty
    assert KeyRing({}, required=True).is_empty


async def test_nobodys_sessions_are_good_as_long_as_nobody_is_asked(store: Store) -> None:
    ring = store.ring()
    assert await ring.is_good(None)
    store.add("k")
    store.now = FRESH_S
    assert not await ring.is_good(None)


def test_a_bucket_gives_a_burst_and_then_a_steady_rate() -> None:
    now = [0.0]
    buckets = TokenBuckets(2.0, 3, clock=lambda: now[0])
    assert [buckets.wait_s("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.wait_s("b") == 0.0
    now[0] = 0.25
    assert buckets.wait_s("a") == 0.25
    now[0] = 0.5
    assert buckets.wait_s("a") == 0.0
    assert buckets.wait_s("a") == 0.5
    now[0] = 1_000.0
    assert [buckets.wait_s("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
