"""Keys are kept as digests, named, revoked, and told apart by what they allow."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tale.credentials import Scope, digest_of
from tale.exceptions import ValidationException
from tale.storage.database import Database
from tale.storage.key_store import KeyStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[KeyStore]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    yield KeyStore(database)
    await database.close()


async def test_a_key_is_random_and_only_its_digest_is_kept(store: KeyStore, tmp_path: Path) -> None:
    row, key = await store.create("laptop", Scope.SUBMIT, now=5.0)
    assert re.fullmatch(r"tale_[\w-]{43}", key)
    assert (row.name, row.scope, row.created_at, row.revoked_at) == ("laptop", Scope.SUBMIT, 5.0, None)
    assert row.digest == digest_of(key)
    assert await store.keys() == [row]
    files = b"".join(path.read_bytes() for path in tmp_path.glob("tale.db*"))
    assert row.digest.encode() in files
    assert key.encode() not in files
    _, other = await store.create("desk", Scope.READ, now=6.0)
    assert other != key


async def test_a_name_belongs_to_one_key_in_use(store: KeyStore) -> None:
    row, _ = await store.create("laptop", Scope.READ, now=1.0)
    with pytest.raises(ValidationException, match=f"revoke it with `tale keys revoke {row.id}`"):
        await store.create("laptop", Scope.ADMIN, now=2.0)
    await store.revoke(row.id, now=3.0)
    again, _ = await store.create("laptop", Scope.ADMIN, now=4.0)
    assert [(key.id, key.revoked_at) for key in await store.keys()] == [(row.id, 3.0), (again.id, None)]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a;b", " a", "a ", "x" * 61])
async def test_a_name_can_be_typed_and_read(store: KeyStore, name: str) -> None:
    with pytest.raises(ValidationException, match="is no name for a key"):
        await store.create(name, Scope.READ, now=1.0)


async def test_no_key_is_called_as_those_of_whoever_runs_tale(store: KeyStore) -> None:
    for name in ("owner", "api_key"):
        with pytest.raises(ValidationException, match="whoever runs tale"):
            await store.create(name, Scope.SUBMIT, now=1.0)


@pytest.mark.parametrize("name", ["a", "J\u00f6rg's".replace("'", "."), "ci@build 7", "x" * 60])
async def test_many_names_will_do(store: KeyStore, name: str) -> None:
    assert (await store.create(name, Scope.READ, now=1.0))[0].name == name


async def test_only_a_key_in_use_can_be_revoked(store: KeyStore) -> None:
    row, _ = await store.create("laptop", Scope.READ, now=1.0)
    assert (await store.revoke(row.id, now=2.0)).revoked_at == 2.0
    for unknown in (row.id, "nope"):
        with pytest.raises(ValidationException, match=f"No key in use has the id '{unknown}'"):
            await store.revoke(unknown, now=3.0)
    assert [key.revoked_at for key in await store.keys()] == [2.0]


async def test_all_keys_can_be_forgotten(store: KeyStore) -> None:
    for name in ("one", "two"):
        await store.create(name, Scope.READ, now=1.0)
    assert await store.clear() == 2
    assert await store.keys() == []


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [("read", ["read"]), ("submit", ["read", "submit"]), ("admin", ["read", "submit", "admin"])],
)
def test_each_scope_includes_those_before_it(scope: str, allowed: list[str]) -> None:
    assert [needed.value for needed in Scope if Scope(scope).allows(needed)] == allowed
