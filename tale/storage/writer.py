"""Group commit: one thread writes for the whole process, many works a commit, and answers when they are durable."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection, Engine, Insert, Table, Transaction, insert
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from tale.exceptions import DatabaseException
from tale.storage.faults import named
from tale.storage.quick_rows import QuickRows, Rows, Values

QUEUE_LIMIT: Final = 20_000
BATCH_LIMIT: Final = 500  # works a commit: keeps the lock on the file short for other processes

T = TypeVar("T")
Work = Callable[[Connection], T]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Order:
    """One work, or a row and the statement that puts it in, that waits for its commit, and who waits for it."""

    loop: asyncio.AbstractEventLoop
    waiter: asyncio.Future[Any]
    work: Work[Any] | None = None
    row: tuple[Insert, Values] | None = None
    ends: bool = False
    result: Any = None
    error: Exception | None = None
    durable: bool = False

    def settle(self) -> None:
        if self.waiter.done():  # its waiter was cancelled meanwhile
            return
        if self.error is not None:
            self.waiter.set_exception(self.error)
        else:
            self.waiter.set_result(self.result)


class Writer:
    """Runs works in the order in which they came, drains into one commit what queued up during the last one.

    A work is a function of the connection. It touches nothing else and swallows no database errors: when another
    work of its batch fails, all are rolled back and run again apart, so that only the failing one fails.
    """

    def __init__(self, engine: Engine, *, queue_limit: int = QUEUE_LIMIT, batch_limit: int = BATCH_LIMIT) -> None:
        self._engine = engine
        self._queue_limit = queue_limit
        self._batch_limit = batch_limit
        self._orders: deque[_Order] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._inserts: dict[Table, Insert] = {}
        self._quick_rows = QuickRows(engine)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="tale-writer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    async def submit(self, work: Work[T], *, ends: bool = False) -> T:
        """Run the work in the next commit and return its result once that is durable.

        Once accepted it is carried out even when the caller is cancelled. Raises DatabaseException when the writer
        is closed or too much waits already, and whatever the work raises. One that `ends` what was let in before is
        taken however much waits: it was counted then.
        """
        loop = asyncio.get_running_loop()
        return cast("T", await self._placed(_Order(loop, loop.create_future(), work=work, ends=ends)))

    def put(self, statement: Insert, values: Values, *, ends: bool = False) -> asyncio.Future[None]:
        """Run the statement with the values, as `submit` would; it waits for its commit on return, not when awaited.

        Equal statements between two works run at once; equal are those that are the same object, which is prepared once
        for as long as it is used. Of unequal ones, those that end what was let in come after the others, and rows that
        refer to others behind those.
        """
        loop = asyncio.get_running_loop()
        order = _Order(loop, loop.create_future(), row=(statement, values), ends=ends)
        try:
            return self._placed(order)
        except DatabaseException as error:
            order.waiter.set_exception(error)
            return order.waiter

    def insert(self, table: Table, values: Values) -> asyncio.Future[None]:
        """Add a row, as `put` would."""
        statement = self._inserts.get(table)
        if statement is None:
            statement = self._inserts[table] = insert(table)
        return self.put(statement, values)

    def _placed(self, order: _Order) -> asyncio.Future[Any]:
        with self._changed:
            self._refuse_when_unable(ends=order.ends)
            self._orders.append(order)
            self._changed.notify()
        return order.waiter

    def close(self) -> None:
        """Take nothing more, commit all that waits, and end; blocks until then."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _refuse_when_unable(self, *, ends: bool) -> None:
        if self._closed:
            raise DatabaseException("The database is closed; nothing more can be written.")
        if len(self._orders) >= self._queue_limit and not ends:
            raise DatabaseException(
                f"The database cannot keep up: {len(self._orders):,} writes wait. Try again in a moment.",
                {"waiting": len(self._orders)},
            )

    def _run(self) -> None:
        while batch := self._next_batch():
            error = self._commit(batch)
            if error is not None:
                logger.error("A commit failed: %s", error)
                for order in batch:
                    if not order.durable:
                        order.error = order.error or _copy(error)
            _settle(batch)

    def _next_batch(self) -> list[_Order]:
        """What waits, up to the limit; blocks while nothing does, and is empty only at the end."""
        with self._changed:
            while not self._orders and not self._closed:
                self._changed.wait()
            return [self._orders.popleft() for _ in range(min(len(self._orders), self._batch_limit))]

    def _commit(self, batch: list[_Order]) -> Exception | None:
        """Run and commit the batch; returns why some of it was not even tried, None when all was.

        First all at once; when a work fails, each behind a savepoint; when that cannot set them apart (a full disk
        ends SQLite's whole transaction, a deferred rule speaks at the commit), each in a transaction of its own.
        """
        try:
            if self._at_once(batch) or len(batch) == 1 or self._apart(batch):
                return None
            for order in batch:
                order.error = None
                self._at_once([order])
        except SQLAlchemyError as error:
            return _translated(error, self._engine)
        except Exception as error:
            logger.exception("The writer was surprised.")
            return error
        return None

    def _at_once(self, batch: list[_Order]) -> bool:
        """All in one transaction; False when one failed and all was rolled back."""
        runs = list(_runs(batch))
        try:
            if all(orders[0].row for orders in runs) and self._quick_rows.add([_rows(orders) for orders in runs]):
                _mark_durable(batch)
                return True
            with self._engine.connect() as connection, connection.begin() as transaction:
                for orders in runs:
                    if not self._are_run(orders, connection, among_others=len(runs) > 1):
                        transaction.rollback()
                        return False
        except IntegrityError as error:  # from the commit
            batch[0].error = _translated(error, self._engine)
            return False
        _mark_durable(batch)
        return True

    def _apart(self, batch: list[_Order]) -> bool:
        """Each behind a savepoint, so that those that fail leave the others alone; False when that was not possible."""
        try:
            with self._engine.connect() as connection, connection.begin() as transaction:
                for order in batch:
                    order.error = None
                    savepoint = connection.begin_nested()
                    if self._are_run([order], connection):
                        savepoint.commit()
                    elif not _is_rolled_back(savepoint):
                        transaction.rollback()
                        return False
        except IntegrityError:
            return False
        _mark_durable(batch)
        return True

    def _are_run(self, orders: Sequence[_Order], connection: Connection, *, among_others: bool = False) -> bool:
        """Run one work, or several rows of one statement; False when that failed.

        Rows `among_others` are added quickly, which does not name what failed: that comes out when each is run apart.
        """
        first = orders[0]
        try:
            if first.work is not None:
                first.result = first.work(connection)
            elif among_others:
                self._quick_rows.add_within(connection, _rows(orders))
            else:
                connection.execute(*_rows(orders))
        except Exception as error:  # noqa: BLE001 - a work may raise anything; its waiter is told
            first.error = _translated(error, self._engine)
            return False
        return True


def _runs(batch: Sequence[_Order]) -> Iterator[list[_Order]]:
    """The batch in its order, works one by one; of the rows between two works, those of one statement together."""
    rows: dict[Insert, list[_Order]] = {}
    for order in batch:
        if order.row is not None:
            rows.setdefault(order.row[0], []).append(order)
            continue
        yield from _in_turn(rows)
        rows = {}
        yield [order]
    yield from _in_turn(rows)


def _in_turn(rows: Mapping[Insert, list[_Order]]) -> list[list[_Order]]:
    """Rows by their statements, each behind any that they may replace or refer to."""
    turns = sorted(rows, key=lambda statement: (rows[statement][0].ends, bool(statement.table.foreign_keys)))
    return [rows[statement] for statement in turns]


def _rows(orders: Sequence[_Order]) -> Rows:
    """The rows of orders that have the same statement."""
    rows = [order.row for order in orders if order.row is not None]
    return rows[0][0], [values for _, values in rows]


def _mark_durable(batch: list[_Order]) -> None:
    for order in batch:
        order.durable = order.error is None


def _is_rolled_back(savepoint: Transaction) -> bool:
    """Undo one work; False when it took its whole transaction along."""
    try:
        savepoint.rollback()
    except SQLAlchemyError:
        return False
    return True


def _translated(error: Exception, engine: Engine) -> Exception:
    if isinstance(error, SQLAlchemyError | OverflowError | UnicodeEncodeError):
        translated = named(error, engine.url)
        translated.__cause__ = error
        return translated
    return error


def _copy(error: Exception) -> Exception:
    """The same error for one more waiter; raised in several places, one object would gather all their tracebacks."""
    if not isinstance(error, DatabaseException):
        return error
    copied = DatabaseException(error.message, error.context)
    copied.__cause__ = error.__cause__
    return copied


def _settle(batch: list[_Order]) -> None:
    """Answer the waiters, each in its own event loop, with one wake-up a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Order]] = {}
    for order in batch:
        by_loop.setdefault(order.loop, []).append(order)
    for loop, orders in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, orders)
        except RuntimeError:
            logger.info("%d writes were committed after their event loop had ended.", len(orders))


def _settle_all(orders: list[_Order]) -> None:
    for order in orders:
        order.settle()
