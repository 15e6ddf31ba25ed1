"""The idempotency keys of a plan's tasks, by which its steps are found again."""

from collections.abc import Sequence
from typing import Final

from tale.records import Task

PREFIX: Final = "plan:"
ANSWER: Final = "answer"


def step_key(plan: str, number: int) -> str:
    """The key of a step of the plan with this name."""
    return f"{PREFIX}{plan}:{number}"


def answer_key(plan: str) -> str:
    """The key of the task that puts the steps' results together: for people, it is the plan."""
    return f"{PREFIX}{plan}:{ANSWER}"


def is_plan(task: Task) -> bool:
    """Whether it is the last task of a plan."""
    key = task.idempotency_key or ""
    return key.startswith(PREFIX) and key.endswith(f":{ANSWER}")


def open_steps(plan: Task, awaited: Sequence[Task]) -> list[Task]:
    """Of the tasks that the last one of a plan waited for, in their order, the unfinished steps of it, the last first.

    One by one from the end, none of them fails because one that it waits for was cancelled.
    """
    ours = (plan.idempotency_key or "").removesuffix(ANSWER)
    found = (task for task in reversed(awaited) if not task.status.is_final)
    return [task for task in found if (task.idempotency_key or "").startswith(ours)]
