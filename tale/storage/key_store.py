"""Keeps the keys that clients may send: their digests, names and scopes, never the keys themselves."""

import re
import secrets
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select, update

from tale.credentials import OWN_KEYS, Scope, digest_of, new_key
from tale.exceptions import ValidationException
from tale.records import AccessKey
from tale.storage.database import Database
from tale.storage.rows import values_of
from tale.storage.tables import access_keys

NAME_FORM: Final = re.compile(r"[\w.@-](?:[\w .@-]{0,58}[\w.@-])?")
ID_BYTES: Final = 4


class KeyStore:
    """Keys in the database. Every change is durable on return; all raise DatabaseException when it fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str, scope: Scope, *, now: float) -> tuple[AccessKey, str]:
        """Make a key; returns its row and the key, which is not kept.

        Raises ValidationException for a name that is none or belongs to a key in use.
        """
        if name in OWN_KEYS:
            raise ValidationException(
                f"{name!r} is what the keys of whoever runs tale are called; choose another name."
            )
        if not NAME_FORM.fullmatch(name):
            raise ValidationException(
                f"{name!r} is no name for a key; use 1 to 60 letters, digits, spaces and the signs . _ @ -"
            )
        key = new_key()
        row = AccessKey(secrets.token_hex(ID_BYTES), name, scope, digest_of(key), created_at=now)

        def work(connection: Connection) -> None:
            in_use = select(access_keys.c.id).where(access_keys.c.name == name, access_keys.c.revoked_at.is_(None))
            if held := connection.scalar(in_use):
                raise ValidationException(
                    f"There is a key named {name!r}; revoke it with `tale keys revoke {held}`, or choose another name."
                )
            connection.execute(insert(access_keys), values_of(row))

        await self._database.write(work)
        return row, key

    async def keys(self) -> list[AccessKey]:
        """All keys, revoked ones too, oldest first."""
        statement = select(access_keys).order_by(access_keys.c.created_at, access_keys.c.id)
        return await self._database.read(
            lambda connection: [_key_of(dict(row)) for row in connection.execute(statement).mappings()]
        )

    async def revoke(self, key_id: str, *, now: float) -> AccessKey:
        """End a key; returns it. Raises ValidationException for an id that no key in use has."""
        in_use = (access_keys.c.id == key_id, access_keys.c.revoked_at.is_(None))

        def work(connection: Connection) -> AccessKey | None:
            connection.execute(update(access_keys).where(*in_use).values(revoked_at=now))
            row = connection.execute(select(access_keys).where(access_keys.c.id == key_id)).mappings().first()
            return None if row is None else _key_of(dict(row))

        found = await self._database.write(work)
        if found is None or found.revoked_at != now:
            raise ValidationException(f"No key in use has the id {key_id!r}; `tale keys list` shows those there are.")
        return found

    async def clear(self) -> int:
        """Delete all keys, revoked ones too; returns how many there were."""
        return await self._database.write(lambda connection: connection.execute(delete(access_keys)).rowcount)


def _key_of(values: dict[str, Any]) -> AccessKey:
    values["scope"] = Scope(values["scope"])
    return AccessKey(**values)
