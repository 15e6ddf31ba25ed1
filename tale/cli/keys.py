"""Commands about the keys that clients send: create, list, revoke, clear."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tale.cli.confirmation import Yes, confirmed
from tale.cli.groups import group
from tale.cli.invocation import settings_of
from tale.cli.tasks import Json

if TYPE_CHECKING:
    from tale.records import AccessKey
    from tale.settings import Settings
    from tale.storage.key_store import KeyStore

T = TypeVar("T")

keys = group("Make, list and revoke the keys that programs send.")


class Allowed(StrEnum):
    """What a key may be good for."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


@keys.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose key it is; the record of calls names it.", metavar="NAME")],
    scope: Annotated[
        Allowed, typer.Option(help="read: look; submit: have work done, too; admin: everything.")
    ] = Allowed.SUBMIT,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once.

    From the first key on the servers ask every program for one. Commands of tale itself go on without.
    """
    from tale.cli.rendering import Screen
    from tale.credentials import Scope

    wanted = Scope(scope.value)
    row, key = _in_store(settings_of(context), lambda store: store.create(name, wanted, now=time.time()))
    screen = Screen()
    if as_json:
        screen.json({**_as_dict(row), "key": key})
        return
    screen.say(f"Key {row.id} for {row.name}, scope {row.scope}. It is not kept: this is the only time it is shown.")
    screen.show(key)
    screen.aside("Programs send it as `Authorization: Bearer KEY`; `tale connect` prints where it goes.")


@keys.command("list")
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """List the keys, revoked ones too."""
    from tale.cli.formatting import seconds
    from tale.cli.rendering import Screen, state, table

    found = stored_keys(settings_of(context))
    screen = Screen()
    if as_json:
        screen.json([_as_dict(key) for key in found])
        return
    if not found:
        screen.show("There are no keys; `tale keys create NAME` makes one.")
        return
    now = time.time()
    made = table(("id", "name", "scope", "age", "state"), right=("age",))
    for key in found:
        standing = state("ok") if key.revoked_at is None else state("stopped")
        standing.plain = "in use" if key.revoked_at is None else f"revoked {seconds(now - key.revoked_at)} ago"
        made.add_row(key.id, key.name, key.scope, seconds(now - key.created_at), standing)
    screen.show(made)


@keys.command("revoke")
def revoke(
    context: typer.Context, key_id: Annotated[str, typer.Argument(help="Id of the key, from the list.", metavar="ID")]
) -> None:
    """End a key; the servers refuse it within seconds."""
    from tale.cli.rendering import Screen

    row = _in_store(settings_of(context), lambda store: store.revoke(key_id, now=time.time()))
    Screen().show(f"The key {row.id} of {row.name} is revoked.")


@keys.command("clear")
def clear(context: typer.Context, yes: Yes = False) -> None:
    """Delete all keys; servers that only this machine can reach then ask nobody for one."""
    from tale.cli.rendering import Screen

    settings = settings_of(context)
    if confirmed("Delete all keys, so that every program of this machine may ask the servers?", yes=yes):
        count = _in_store(settings, lambda store: store.clear())
        Screen().show(f"Deleted {count} {'key' if count == 1 else 'keys'}.")


def stored_keys(settings: "Settings") -> "list[AccessKey]":
    """The keys in the database; none where there is no database yet, which is not made for this."""
    from tale.storage.upgrade import current_revision

    if current_revision(settings.database) is None:
        return []
    return _in_store(settings, lambda store: store.keys())


def _in_store(settings: "Settings", work: "Callable[[KeyStore], Awaitable[T]]") -> T:
    from tale.storage.database import Database
    from tale.storage.key_store import KeyStore

    async def do() -> T:
        database = await asyncio.to_thread(Database.open, settings.database, backup_folder=settings.home / "backups")
        try:
            return await work(KeyStore(database))
        finally:
            await database.close()

    return asyncio.run(do())


def _as_dict(key: "AccessKey") -> dict[str, Any]:
    names = ("id", "name", "scope", "created_at", "revoked_at")
    return {name: getattr(key, name) for name in names}
