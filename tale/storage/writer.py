"""Group commit: one thread writes for the whole process, many works a commit, and answers when they are durable."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from tale.exceptions import DatabaseException
from tale.storage.faults import named

QUEUE_LIMIT: Final = 20_000
BATCH_LIMIT: Final = 500  # works a commit: keeps the lock on the file short for other processes

T = TypeVar("T")
Work = Callable[[Connection], T]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Order:
    """One work that waits for its commit, and who waits for it."""

    work: Work[Any]
    loop: asyncio.AbstractEventLoop
    waiter: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None

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
    work of its batch fails, all are rolled back and run again, each behind a savepoint of its own, so that only the
    failing one fails.
    """

    def __init__(self, engine: Engine, *, queue_limit: int = QUEUE_LIMIT, batch_limit: int = BATCH_LIMIT) -> None:
        self._engine = engine
        self._queue_limit = queue_limit
        self._batch_limit = batch_limit
        self._orders: deque[_Order] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="tale-writer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    async def submit(self, work: Work[T]) -> T:
        """Run the work in the next commit and return its result once that is durable.

        Once accepted it is carried out even when the caller is cancelled. Raises DatabaseException when the writer
        is closed or too much waits already, and whatever the work raises.
        """
        loop = asyncio.get_running_loop()
        order = _Order(work, loop, loop.create_future())
        with self._changed:
            self._refuse_when_unable()
            self._orders.append(order)
            self._changed.notify()
        return cast("T", await order.waiter)

    def close(self) -> None:
        """Take nothing more, commit all that waits, and end; blocks until then."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _refuse_when_unable(self) -> None:
        if self._closed:
            raise DatabaseException("The database is closed; nothing more can be written.")
        if len(self._orders) >= self._queue_limit:
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
                    order.error = order.error or error
            _settle(batch)

    def _next_batch(self) -> list[_Order]:
        """What waits, up to the limit; blocks while nothing does, and is empty only at the end."""
        with self._changed:
            while not self._orders and not self._closed:
                self._changed.wait()
            return [self._orders.popleft() for _ in range(min(len(self._orders), self._batch_limit))]

    def _commit(self, batch: list[_Order]) -> Exception | None:
        """Run and commit the batch; returns why nothing of it was kept, None when it was."""
        try:
            if not self._try_at_once(batch):
                self._try_apart(batch)
        except SQLAlchemyError as error:
            return _translated(error, self._engine)
        except Exception as error:
            logger.exception("The writer was surprised.")
            return error
        return None

    def _try_at_once(self, batch: list[_Order]) -> bool:
        """The usual way, without savepoints; False when a work failed and all was rolled back."""
        with self._engine.connect() as connection, connection.begin() as transaction:
            for order in batch:
                try:
                    order.result = order.work(connection)
                except Exception as error:  # noqa: BLE001 - a work may raise anything; its waiter is told
                    order.error = _translated(error, self._engine)
                    transaction.rollback()
                    return False
        return True

    def _try_apart(self, batch: list[_Order]) -> None:
        """Run each work behind a savepoint; those that fail keep their error, the others are committed."""
        if len(batch) == 1:
            return  # it failed alone, and its error is known
        with self._engine.begin() as connection:
            for order in batch:
                order.error = None
                savepoint = connection.begin_nested()
                try:
                    order.result = order.work(connection)
                except Exception as error:  # noqa: BLE001 - a work may raise anything; its waiter is told
                    order.error = _translated(error, self._engine)
                    savepoint.rollback()
                else:
                    savepoint.commit()


def _translated(error: Exception, engine: Engine) -> Exception:
    if isinstance(error, SQLAlchemyError | OverflowError | UnicodeEncodeError):
        translated = named(error, engine.url)
        translated.__cause__ = error
        return translated
    return error


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
