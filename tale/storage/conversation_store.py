"""Keeps conversations, message by message, and reads what an answer needs to know of one in a single look."""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sqlalchemy import Connection, Select, and_, exists, func, insert, select, tuple_, update

from tale.records import Conversation, ConversationTurn, Role, Task, TaskStatus
from tale.storage.content import note_words
from tale.storage.database import Database
from tale.storage.rows import insert_into, record_of, task_of, values_of
from tale.storage.tables import conversations, messages, tasks

Speaker = Literal["system", "user", "assistant"]

PAGE_TURNS: Final = 100
PAGES_READ: Final = 3  # full pages of the latest turns that a view holds, so that its first turn seldom changes
TASKS_READ: Final = 20  # at least; more where older ones are under way
WISHES_READ: Final = 5
TITLE_CHARACTERS: Final = 80
RESULT, WISH, CONTROL = "result", "wish", "control"  # kinds of messages that this store looks for


@dataclass(frozen=True, slots=True)
class ConversationView:
    """What there is to know of a conversation: its latest turns, standing wishes and latest tasks, oldest first.

    All tasks under way are there, and all since the oldest of them. They are numbered within the conversation without
    gaps; `first_number` is that of the first one here.
    """

    conversation: Conversation
    turns: tuple[ConversationTurn, ...] = ()
    wishes: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    first_number: int = 1

    @property
    def numbered(self) -> dict[int, Task]:
        """The tasks by their numbers."""
        return dict(enumerate(self.tasks, self.first_number))


@dataclass(frozen=True, slots=True)
class ConversationLine:
    """One line of a list of conversations: how many messages it has, and its first one, cut."""

    conversation: Conversation
    messages: int
    title: str


class ConversationStore:
    """Conversations in the database. A turn is durable on return; all raise DatabaseException when it fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self,
        conversation_id: str,
        role: Speaker,
        content: str,
        *,
        now: float,
        kind: str | None = None,
        task_id: str | None = None,
        tokens: int | None = None,
        model_call_id: str | None = None,
    ) -> ConversationTurn:
        """Add a message at the end; a conversation begins with its first message. Positions count from 0."""
        turn = ConversationTurn(conversation_id, 0, role, content, now, model_call_id, kind, task_id, tokens)
        return await self._database.write(lambda connection: _append(connection, turn))

    async def append_result(
        self, conversation_id: str, content: str, *, task_id: str, now: float
    ) -> ConversationTurn | None:
        """Add the message that tells how a task ended; None where it has been told."""
        turn = ConversationTurn(conversation_id, 0, "assistant", content, now, kind=RESULT, task_id=task_id)
        told = select(messages.c.position).where(
            messages.c.conversation_id == conversation_id, messages.c.task_id == task_id, messages.c.kind == RESULT
        )

        def work(connection: Connection) -> ConversationTurn | None:
            _touch(connection, conversation_id, now)  # locks the conversation: nobody else tells it meanwhile
            return None if connection.scalar(told) is not None else _append(connection, turn)

        return await self._database.write(work)

    async def count(self, turn: ConversationTurn, tokens: int) -> None:
        """Keep how many tokens a message has by the model's own count."""
        counted = update(messages).where(*_is(turn.conversation_id, turn.position)).values(tokens=tokens)
        await self._database.write(lambda connection: connection.execute(counted))

    async def change_kind(self, turn: ConversationTurn, kind: str) -> None:
        """Have a message be of another kind: an order that turns out to be a wish, a wish that is taken back."""
        changed = update(messages).where(*_is(turn.conversation_id, turn.position)).values(kind=kind)
        await self._database.write(lambda connection: connection.execute(changed))

    async def number_of(self, task: Task) -> int:
        """The number of a task among all of its conversation, counted from 1."""
        until = tuple_(tasks.c.created_at, tasks.c.id) <= (task.created_at, task.id)
        earlier = select(func.count()).where(tasks.c.conversation_id == task.conversation_id, until)
        return await self._database.read(lambda connection: connection.scalar(earlier) or 1)

    async def task_numbered(self, conversation_id: str, number: int) -> Task | None:
        """The task of that number in a conversation, counted from 1; None where there are not so many."""
        mine = select(tasks).where(tasks.c.conversation_id == conversation_id)
        wanted = mine.order_by(tasks.c.created_at, tasks.c.id).offset(max(0, number - 1)).limit(1)

        def work(connection: Connection) -> Task | None:
            row = connection.execute(wanted).mappings().first() if number > 0 else None
            return None if row is None else task_of(row)

        return await self._database.read(work)

    async def last_wish(self, conversation_id: str) -> ConversationTurn | None:
        """The latest wish that holds in a conversation, however long ago it was said."""
        wanted = _turns_of(conversation_id).where(messages.c.kind == WISH).limit(1)
        found = await self._database.read(lambda connection: _oldest_first(connection, wanted))
        return found[0] if found else None

    async def first_turns(self, conversation_id: str, *, limit: int, since: int = 0) -> list[ConversationTurn]:
        """The first messages of a conversation from a position on, oldest first."""
        mine = select(messages).where(messages.c.conversation_id == conversation_id, messages.c.position >= since)
        wanted = mine.order_by(messages.c.position).limit(limit)
        return await self._database.read(
            lambda connection: [record_of(row, ConversationTurn) for row in connection.execute(wanted).mappings()]
        )

    async def view(self, conversation_id: str) -> ConversationView | None:
        """What there is to know of a conversation; None for an unknown one."""
        return await self._database.read(lambda connection: _view(connection, conversation_id))

    async def turns(
        self, conversation_id: str, *, limit: int | None = None, before: int | None = None, after: int | None = None
    ) -> list[ConversationTurn]:
        """The messages of a conversation, oldest first; with `limit` only the last so many of those between."""
        latest = _turns_of(conversation_id).limit(limit)
        if before is not None:
            latest = latest.where(messages.c.position < before)
        if after is not None:
            latest = latest.where(messages.c.position > after)
        return await self._database.read(lambda connection: _oldest_first(connection, latest))

    async def latest(self) -> str | None:
        """The id of the conversation that was last added to; None when there is none."""
        newest = select(conversations.c.id).order_by(conversations.c.updated_at.desc(), conversations.c.id).limit(1)
        return await self._database.read(lambda connection: connection.scalar(newest))

    async def list(self, *, limit: int) -> "list[ConversationLine]":
        """The conversations that were last added to, newest first."""
        count = select(func.count()).where(messages.c.conversation_id == conversations.c.id).scalar_subquery()
        first = (
            select(func.substr(messages.c.content, 1, TITLE_CHARACTERS))
            .where(messages.c.conversation_id == conversations.c.id, messages.c.position == 0)
            .scalar_subquery()
        )
        newest = select(conversations, count.label("messages"), first.label("title"))
        newest = newest.order_by(conversations.c.updated_at.desc(), conversations.c.id).limit(limit)

        def work(connection: Connection) -> list[ConversationLine]:
            rows = [dict(row) for row in connection.execute(newest).mappings()]
            return [
                ConversationLine(
                    messages=row.pop("messages"), title=row.pop("title") or "", conversation=Conversation(**row)
                )
                for row in rows
            ]

        return await self._database.read(work)

    async def untold(self, *, since: float) -> "list[Task]":
        """Tasks that conversations handed in since that time (Unix seconds), and whose end is still to be told there.

        Of one that was cancelled there is nothing to tell: somebody did it.
        """
        mine = and_(messages.c.conversation_id == tasks.c.conversation_id, messages.c.task_id == tasks.c.id)
        wanted = select(tasks).where(
            tasks.c.conversation_id.is_not(None),
            tasks.c.created_at >= since,
            tasks.c.status != TaskStatus.CANCELLED.value,
            exists().where(mine),
            ~exists().where(mine, messages.c.kind == RESULT),
        )
        return await self._database.read(
            lambda connection: [task_of(row) for row in connection.execute(wanted).mappings()]
        )

    async def end(self, conversation_id: str, *, now: float) -> float | None:
        """End a conversation; returns when it ended, which may be earlier, or None for an unknown one."""
        mine = conversations.c.id == conversation_id
        ended = update(conversations).where(mine, conversations.c.ended_at.is_(None)).values(ended_at=now)

        def work(connection: Connection) -> float | None:
            connection.execute(ended)
            return connection.scalar(select(conversations.c.ended_at).where(mine))

        return await self._database.write(work)

    async def sum_up(self, conversation_id: str, summary: str | None, *, until: int) -> None:
        """Have the messages before that position be told by `summary`; one that reaches further stays."""
        mine = (conversations.c.id == conversation_id, conversations.c.summarized < until)
        values = {"summary": summary, "summarized": until}
        await self._database.write(
            lambda connection: connection.execute(update(conversations).where(*mine).values(values))
        )

    async def start_afresh(self, conversation_id: str, *, until: int) -> None:
        """Have the messages before that position be forgotten, the summary and the wishes among them."""
        mine = (conversations.c.id == conversation_id, conversations.c.summarized < until)
        forgotten = update(conversations).where(*mine).values(summary=None, summarized=until)
        of_it = (messages.c.conversation_id == conversation_id, messages.c.position < until)
        ended = update(messages).where(*of_it, messages.c.kind == WISH).values(kind=CONTROL)

        def work(connection: Connection) -> None:
            connection.execute(forgotten)
            connection.execute(ended)

        await self._database.write(work)

    async def choose_model(self, conversation_id: str, role: Role) -> None:
        """Whose model answers from now on."""
        chosen = update(conversations).where(conversations.c.id == conversation_id).values(answers=role)
        await self._database.write(lambda connection: connection.execute(chosen))

    async def rate(
        self, conversation_id: str, rating: str, *, position: int | None, comment: str | None
    ) -> ConversationTurn | None:
        """Keep what the user thinks of one of tale's messages, by default the last; None where there is none."""

        def work(connection: Connection) -> ConversationTurn | None:
            wanted = _turns_of(conversation_id).where(messages.c.role == "assistant").limit(1)
            if position is not None:
                wanted = wanted.where(messages.c.position == position)
            row = connection.execute(wanted).mappings().first()
            if row is None:
                return None
            rated = update(messages).where(*_is(conversation_id, row["position"]))
            connection.execute(rated.values(rating=rating, comment=comment))
            if comment is not None:
                mine = conversations.c.id == conversation_id
                silent_since = connection.scalars(select(conversations.c.updated_at).where(mine)).one()
                note_words(connection, messages, since=silent_since)
            return replace(record_of(row, ConversationTurn), rating=rating, comment=comment)

        return await self._database.write(work)


def _touch(connection: Connection, conversation_id: str, now: float) -> None:
    """Note that a conversation is added to, which begins with that.

    Its row is locked until the commit, so that two writers never give out one position.
    """
    statement = insert_into(connection, conversations)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={"updated_at": statement.excluded.updated_at}),
        {"id": conversation_id, "created_at": now, "updated_at": now},
    )


def _append(connection: Connection, turn: ConversationTurn) -> ConversationTurn:
    _touch(connection, turn.conversation_id, turn.created_at)
    last = select(func.max(messages.c.position)).where(messages.c.conversation_id == turn.conversation_id)
    previous = connection.scalar(last)
    placed = replace(turn, position=0 if previous is None else previous + 1)
    connection.execute(insert(messages), values_of(placed))
    return placed


def _view(connection: Connection, conversation_id: str) -> ConversationView | None:
    row = connection.execute(select(conversations).where(conversations.c.id == conversation_id)).mappings().first()
    if row is None:
        return None
    conversation = record_of(row, Conversation)
    mine = messages.c.conversation_id == conversation_id
    last = connection.scalar(select(func.max(messages.c.position)).where(mine)) or 0
    since = max(conversation.summarized, (last // PAGE_TURNS - PAGES_READ) * PAGE_TURNS)
    wishes = select(messages.c.content).where(mine, messages.c.kind == WISH)
    wishes = wishes.order_by(messages.c.position.desc()).limit(WISHES_READ)
    found, count = _latest_tasks(connection, conversation_id)
    return ConversationView(
        conversation,
        tuple(_oldest_first(connection, _turns_of(conversation_id).where(messages.c.position >= since))),
        tuple(reversed(connection.scalars(wishes).all())),
        tuple(found),
        count - len(found) + 1,
    )


def _latest_tasks(connection: Connection, conversation_id: str) -> tuple[list[Task], int]:
    """The latest tasks of a conversation, oldest first, back to the oldest under way; and how many there are in all."""
    mine, place = tasks.c.conversation_id == conversation_id, tuple_(tasks.c.created_at, tasks.c.id)
    count = connection.scalar(select(func.count()).select_from(tasks).where(mine)) or 0
    under_way = select(tasks.c.created_at, tasks.c.id).where(mine, tasks.c.ended_at.is_(None))
    oldest = connection.execute(under_way.order_by(tasks.c.created_at, tasks.c.id).limit(1)).first()
    since = 0 if oldest is None else connection.scalar(select(func.count()).where(mine, place >= tuple(oldest))) or 0
    newest = select(tasks).where(mine).order_by(tasks.c.created_at.desc(), tasks.c.id.desc())
    found = connection.execute(newest.limit(max(TASKS_READ, since))).mappings()
    return [task_of(task) for task in found][::-1], count


def _turns_of(conversation_id: str) -> Select[Any]:
    mine = select(messages).where(messages.c.conversation_id == conversation_id)
    return mine.order_by(messages.c.position.desc())


def _oldest_first(connection: Connection, latest: Select[Any]) -> list[ConversationTurn]:
    return [record_of(row, ConversationTurn) for row in connection.execute(latest).mappings()][::-1]


def _is(conversation_id: str, position: int) -> tuple[Any, Any]:
    return messages.c.conversation_id == conversation_id, messages.c.position == position
