"""The idempotency keys of a plan's tasks, by which they are known for what they are."""

from collections.abc import Sequence
from typing import Final

from tale.records import Task

PREFIX: Final = "plan:"
QUESTION: Final = "question"
ANSWER: Final = "answer"


def question_key(plan: str) -> str:
    """The key of the task that asks for the plan with this name: the larger model makes it."""
    return f"{PREFIX}{plan}:{QUESTION}"


def step_key(plan: str, number: int) -> str:
    """The key of a step of the plan."""
    return f"{PREFIX}{plan}:{number}"


def answer_key(plan: str) -> str:
    """The key of the task that puts the steps' results together: for people, it is the plan."""
    return f"{PREFIX}{plan}:{ANSWER}"


def asks_for_plan(task: Task) -> bool:
    """Whether its answer is a plan."""
    return _is(task, QUESTION)


def is_plan(task: Task) -> bool:
    """Whether it is the last task of a plan."""
    return _is(task, ANSWER)


def open_steps(plan: Task, awaited: Sequence[Task]) -> list[Task]:
    """Of the tasks that the last one of a plan waited for, in their order, the unfinished steps of it, the last first.

    One by one from the end, none of them fails because one that it waits for was cancelled.
    """
    ours = (plan.idempotency_key or "").removesuffix(ANSWER)
    found = (task for task in reversed(awaited) if not task.status.is_final)
    return [task for task in found if (task.idempotency_key or "").startswith(ours)]


def _is(task: Task, part: str) -> bool:
    key = task.idempotency_key or ""
    return key.startswith(PREFIX) and key.endswith(f":{part}")
