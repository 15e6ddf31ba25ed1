"""What every engine does around an attempt: make it, learn from the row how it went, and say when to try again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tale.exceptions import DatabaseException, NetworkException, TaleBaseException, TaskException
from tale.records import Task
from tale.storage.task_store import TaskStore

JITTER: Final = 0.25  # share of the delay that is added at random, so that retries do not march in step
LONGEST_DELAY_S: Final = 60.0
SHORTEST_PAUSE_S: Final = 0.05  # between two questions to a database that does not answer

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def outcome_of(
    run: Callable[[str, int], Awaitable[T]], store: TaskStore, task_id: str, attempt: int, *, pause_s: float
) -> T | Task | None:
    """Make one attempt; returns the task's row after it, None when it is gone.

    Whatever goes wrong is told by the row, so that no task gets lost: while the database does not answer, it is asked
    again every `pause_s` seconds.
    """
    try:
        return await run(task_id, attempt)
    except NetworkException as error:
        logger.warning("Task %s: its runner was lost; it will be taken up again. %s", task_id, error)
    except TaleBaseException as error:
        logger.error("Task %s could not be handed out; it will be tried again. %s", task_id, error)
    except Exception:  # the edge of an attempt: an error of ours must not cost the task
        logger.exception("An attempt at task %s broke off; it will be tried again.", task_id)
    return await read_until_answered(store, task_id, pause_s=pause_s)


async def read_until_answered(store: TaskStore, task_id: str, *, pause_s: float) -> Task | None:
    """The row as it stands; while the database does not answer, ask again every `pause_s` seconds."""
    while True:
        try:
            return await store.get(task_id)
        except DatabaseException as error:
            logger.error("Task %s cannot be read: %s", task_id, error)
            await asyncio.sleep(max(pause_s, SHORTEST_PAUSE_S))


def delay_before_next_s(task: Task, base_s: float, *, draw: float) -> float:
    """Seconds until a task is tried again: the base, doubled with each failure after the first, and some jitter.

    `draw` is a random number from 0 to 1.
    """
    doubled = base_s * 2 ** min(max(task.failures - 1, 0), 30)
    return min(doubled, max(LONGEST_DELAY_S, base_s)) * (1 + JITTER * draw)


def refused_as_full(waiting: int, retry_after_s: float) -> TaskException:
    """Why a task is not taken."""
    return TaskException(
        f"The queue is full ({waiting:,} tasks wait); try again in {retry_after_s:g} s.",
        {"waiting": waiting, "retry_after_s": retry_after_s},
    )
