"""Which tasks an order to stop means, and whether that is sure enough to be done unasked; pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from tale.conversation.phrases import has, says
from tale.conversation.references import (
    NAMED,
    Reference,
    names_only,
    names_unknown,
    ordered,
    says_all,
    shares_most,
    tasks_meant,
)
from tale.records import Task

BOTH = 2


@dataclass(frozen=True, slots=True)
class Stop:
    """The tasks that are meant, by number, those that have ended among them if they are named.

    `how` is that of the reference. Where it is not `is_sure`, it has to be asked which.
    """

    tasks: Mapping[int, Task]
    how: str
    is_sure: bool


def stop_meant(text: str, numbered: Mapping[int, Task]) -> Stop:
    """What an order to stop means among the tasks of a conversation, oldest first.

    Several are stopped unasked only where the message says no more than that; one, where it is named and nothing said
    beside it puts that in doubt, or where there is one alone.
    """
    tasks, unfinished = list(numbered.values()), {n: task for n, task in numbered.items() if not task.status.is_final}
    first = min(numbered, default=1)
    clause = ordered(text)
    after = text.partition(clause)[2]
    meant = tasks_meant(clause, tasks, first_number=first)
    is_elsewhere = clause != text and meant.how == "none"  # "the essay is done, cancel the rest"
    if is_elsewhere or has("keep", after):
        clause, after, meant = text, "", tasks_meant(text, tasks, first_number=first)
    if meant.how in NAMED:
        wanted = {number: task for number, task in numbered.items() if task in meant.tasks}
    else:
        wanted = unfinished
    goes_on = tasks_meant(after, tasks, first_number=first).how in ("id", "number", "order")  # "no wait, the second"
    is_sure = not goes_on and _is_sure(clause, meant, tasks, wanted, unfinished)
    return Stop(wanted, meant.how, is_sure and (not is_elsewhere or len(unfinished) <= 1))


def _is_sure(
    text: str, meant: Reference, tasks: list[Task], wanted: Mapping[int, Task], unfinished: Mapping[int, Task]
) -> bool:
    if says("urgent", text):
        return True
    if has("both", text) and len(wanted) != BOTH:
        return False
    if meant.how in ("none", "pronoun"):
        return len(unfinished) <= 1 and not names_unknown(text, tasks)
    if len(wanted) > 1 or says_all(text):
        return names_only(text, tasks, beside=("stop", "stop_at_once"))
    if meant.how in ("id", "number") or wanted == unfinished:
        return True
    return not has("doubt", text) and (meant.how != "topic" or shares_most(text, meant.tasks[0]))
