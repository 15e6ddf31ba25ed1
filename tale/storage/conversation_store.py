"""Keeps conversations, message by message."""

from typing import Literal

from sqlalchemy import Connection, func, insert, select

from tale.records import ConversationTurn
from tale.storage.database import Database
from tale.storage.rows import insert_into, record_of, values_of
from tale.storage.tables import conversations, messages


class ConversationStore:
    """Conversations in the database. A turn is durable on return; all raise DatabaseException when it fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self,
        conversation_id: str,
        role: Literal["system", "user", "assistant"],
        content: str,
        *,
        now: float,
        model_call_id: str | None = None,
    ) -> ConversationTurn:
        """Add a message at the end; a conversation begins with its first message. Positions count from 0."""

        def work(connection: Connection) -> ConversationTurn:
            touched = {"id": conversation_id, "created_at": now, "updated_at": now}
            statement = insert_into(connection, conversations)
            # The row is locked by this until the commit, so that two writers never give out one position.
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["id"], set_={"updated_at": statement.excluded.updated_at}
                ),
                touched,
            )
            last = select(func.max(messages.c.position)).where(messages.c.conversation_id == conversation_id)
            previous = connection.scalar(last)
            position = 0 if previous is None else previous + 1
            turn = ConversationTurn(conversation_id, position, role, content, now, model_call_id)
            connection.execute(insert(messages), values_of(turn))
            return turn

        return await self._database.write(work)

    async def turns(self, conversation_id: str, *, limit: int | None = None) -> list[ConversationTurn]:
        """The messages of a conversation, oldest first; with `limit` only the last so many."""
        latest = select(messages).where(messages.c.conversation_id == conversation_id)
        latest = latest.order_by(messages.c.position.desc()).limit(limit)

        def work(connection: Connection) -> list[ConversationTurn]:
            rows = [record_of(row, ConversationTurn) for row in connection.execute(latest).mappings()]
            return rows[::-1]

        return await self._database.read(work)

    async def latest(self) -> str | None:
        """The id of the conversation that was last added to; None when there is none."""
        newest = select(conversations.c.id).order_by(conversations.c.updated_at.desc(), conversations.c.id).limit(1)
        return await self._database.read(lambda connection: connection.scalar(newest))
