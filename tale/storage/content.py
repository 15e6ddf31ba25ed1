"""What stays of the words of finished work: all of them, their digests, or nothing.

With the policy `hash` a text is replaced by `sha256:` and its digest, so that equal texts can still be recognised; with
`none` by an empty text. This is done some time after the end of a task or the last message of a conversation: until
then its result can be fetched and the conversation gone on with. Why a call failed, which may quote an answer, goes as
long after the call. Tokens and times stay in any case.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from itertools import product
from typing import Any, Final, Literal, get_args

from sqlalchemy import Column, Connection, Table, and_, delete, func, select, tuple_, update

from tale.storage.budgets import LONGEST_CALL_S
from tale.storage.database import Database
from tale.storage.retention import is_needed
from tale.storage.rows import insert_into
from tale.storage.tables import (
    attachments,
    attempts,
    conversations,
    corrections,
    feedback,
    mcp_calls,
    messages,
    meta,
    model_calls,
    tasks,
)

Erasing = Literal["hash", "none"]
Pause = Callable[[float], Awaitable[None]]

BATCH_ROWS: Final = 200
PAUSE_S: Final = 0.01
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def is_erased(text: str) -> bool:
    """Whether the words are gone.

    >>> is_erased(""), is_erased("Hello"), is_erased(erased("Hello", "hash"))
    (True, False, True)
    """
    return text == "" or DIGEST.fullmatch(text) is not None


def erased(text: str, policy: Erasing) -> str:
    """What stays of a text; of one that is erased already, itself."""
    if policy == "none":
        return ""
    return text if is_erased(text) else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


async def erase(database: Database, policy: Erasing, before: float, *, pause: Pause = asyncio.sleep) -> int:
    """Erase the words of tasks and calls that ended, and conversations that fell silent, before that time (Unix s).

    Goes on where it ended the last time, in small batches. Tasks for whose results others wait are left for later.
    Returns how many tasks and conversations were gone through. Raises DatabaseException.
    """
    done = await _gone_through(database, policy, _TASKS, before, pause)
    # A correction without its words teaches nothing.
    await database.write(
        lambda connection: connection.execute(delete(corrections).where(corrections.c.created_at < before))
    )
    done += await _gone_through(database, policy, _CONVERSATIONS, before, pause)
    for kind in (_MODEL_CALLS, _MCP_CALLS):
        await _gone_through(database, policy, kind, before, pause)
    return done


def note_words(connection: Connection, table: Table, *, since: float = 0.0) -> None:
    """Note that words came into a table, if it is one that holds any, though their owners may have been gone through.

    All that ended, or fell silent, at `since` or later is gone through again the next time.
    """
    kinds = [kind for kind in _KINDS if any(column.table is table for column, _ in kind.words)]
    for kind, policy in product(kinds, get_args(Erasing)):
        mark = meta.c.key == _mark_of(kind, policy)
        if (stored := connection.scalar(select(meta.c.value).where(mark).with_for_update())) is not None:
            # Another value in any case: one who goes through them now must not put the mark behind these words.
            earlier = repr(min(since, float(stored) - 1.0))
            connection.execute(update(meta).where(mark).values(value=earlier))


class _Kind:
    """Rows with words, found by the time of their end: of their own table, and of those that belong to it."""

    def __init__(
        self,
        moment: Column[float],
        words: Sequence[tuple[Column[str], Column[str]]],
        *,
        blank: str | None = None,
        late_s: float = 0.0,
    ) -> None:
        self.moment = moment
        self.table: Table = moment.table
        self.words = words  # each with the column that names its owner
        self.blank = blank  # a column that is emptied under any policy
        self.late_s = late_s  # so long after its time a row may come, or be over


_TASKS: Final = _Kind(
    tasks.c.ended_at,
    (
        (tasks.c.text, tasks.c.id),
        (tasks.c.result, tasks.c.id),
        (tasks.c.error, tasks.c.id),  # checks and engines quote what they refuse
        (attempts.c.error, attempts.c.task_id),
        (attachments.c.text, attachments.c.task_id),
        (feedback.c.comment, feedback.c.task_id),
    ),
    blank="expect",
)
_CONVERSATIONS: Final = _Kind(
    conversations.c.updated_at,
    (
        (messages.c.content, messages.c.conversation_id),
        (messages.c.comment, messages.c.conversation_id),
        (conversations.c.summary, conversations.c.id),
    ),
)
# By their own ends, not their owners': many have none.
_MODEL_CALLS: Final = _Kind(model_calls.c.ended_at, ((model_calls.c.error, model_calls.c.id),), late_s=LONGEST_CALL_S)
_MCP_CALLS: Final = _Kind(mcp_calls.c.started_at, ((mcp_calls.c.error, mcp_calls.c.id),), late_s=LONGEST_CALL_S)
_KINDS: Final = (_TASKS, _CONVERSATIONS, _MODEL_CALLS, _MCP_CALLS)


async def _gone_through(database: Database, policy: Erasing, kind: _Kind, before: float, pause: Pause) -> int:
    mark = _mark_of(kind, policy)
    begun = await database.write(lambda connection: _begun(connection, mark))
    cursor: tuple[float, str] = (float(begun) - kind.late_s, "")
    count = 0
    while True:
        batch = await database.write(lambda c, cursor=cursor: _erase_batch(c, policy, kind, cursor, before))
        count += len(batch)
        if len(batch) < BATCH_ROWS:
            await database.write(lambda connection: _set_mark(connection, mark, kind, begun, before))
            return count
        cursor = batch[-1]
        await pause(PAUSE_S)


def _erase_batch(
    connection: Connection, policy: Erasing, kind: _Kind, cursor: tuple[float, str], before: float
) -> list[tuple[float, str]]:
    key = kind.table.c.id
    wanted = select(kind.moment, key).where(kind.moment < before, tuple_(kind.moment, key) > cursor)
    if kind is _TASKS:
        wanted = wanted.where(~is_needed(tasks))
    if kind is _MCP_CALLS:  # of which only the beginning is in an index
        wanted = wanted.where(mcp_calls.c.started_at + mcp_calls.c.latency_s < before)
    batch = [(at, owner) for at, owner in connection.execute(wanted.order_by(kind.moment, key).limit(BATCH_ROWS))]
    owners = [owner for _, owner in batch]
    for column, owner in kind.words:
        _erase_words(connection, policy, column, owner.in_(owners))
    if kind.blank and owners:
        connection.execute(update(kind.table).where(key.in_(owners)).values({kind.blank: None}))
    return batch


def _erase_words(connection: Connection, policy: Erasing, column: Column[str], condition: Any) -> None:
    key = list(column.table.primary_key.columns)
    for text, *values in connection.execute(select(column, *key).where(condition, column.is_not(None))).all():
        if (rest := erased(text, policy)) != text:
            mine = and_(*(each == value for each, value in zip(key, values, strict=True)))
            connection.execute(update(column.table).where(mine).values({column.name: rest}))


def _mark_of(kind: _Kind, policy: Erasing) -> str:
    """The name of what tells how far these rows were gone through."""
    return f"{kind.table.name}_{policy}_done_until"


def _begun(connection: Connection, mark: str) -> str:
    """Where to go on, as the mark tells it; from now on there is one."""
    first = insert_into(connection, meta).on_conflict_do_nothing(index_elements=["key"])
    connection.execute(first, {"key": mark, "value": repr(0.0)})
    return connection.scalars(select(meta.c.value).where(meta.c.key == mark)).one()


def _set_mark(connection: Connection, mark: str, kind: _Kind, begun: str, before: float) -> None:
    """The next time begins here, or with the first task that had to be left, unless words came meanwhile."""
    left = None
    if kind is _TASKS:
        within = (tasks.c.ended_at >= float(begun), tasks.c.ended_at < before)
        left = connection.scalar(select(func.min(tasks.c.ended_at)).where(*within, is_needed(tasks)))
    unchanged = (meta.c.key == mark, meta.c.value == begun)
    connection.execute(update(meta).where(*unchanged).values(value=repr(before if left is None else left)))
