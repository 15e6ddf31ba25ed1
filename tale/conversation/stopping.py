"""Which tasks an order to stop means, and whether that is sure enough to be done unasked; pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tale.conversation.phrases import has, says
from tale.conversation.references import (
    COUNTED_PART,
    LIST_AND,
    NAMED,
    Reference,
    joined_lists,
    names_only,
    names_unknown,
    ordered,
    places_a_task,
    says_all,
    shares_most,
    tasks_meant,
)
from tale.records import Task

BOTH: Final = 2
MOST_PARTS: Final = 20
PARTS: Final = re.compile(rf"\b{LIST_AND}\b|[,\uff0c、&和及与]")


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
    text, first = joined_lists(text), min(numbered, default=1)
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
    is_whole = _is_whole(clause, meant, tasks, first)
    is_sure = not goes_on and is_whole and _is_sure(clause, meant, tasks, wanted, unfinished)
    return Stop(wanted, meant.how, is_sure and (not is_elsewhere or len(unfinished) <= 1))


def _is_whole(text: str, meant: Reference, tasks: list[Task], first: int) -> bool:
    """Whether the tasks that are meant are those that the parts of a message name: "the essay", "and the last one"."""
    if meant.how in ("all", "all but") or has("keep", text):
        return True
    parts = [tasks_meant(part, tasks, first_number=first) for part in PARTS.split(text, maxsplit=MOST_PARTS)]
    named = [task for part in parts if part.how in NAMED for task in part.tasks]
    return not named or {task.id for task in named} == {task.id for task in meant.tasks}


def _is_sure(
    text: str, meant: Reference, tasks: list[Task], wanted: Mapping[int, Task], unfinished: Mapping[int, Task]
) -> bool:
    if says("urgent", text):
        return True
    if has("both", text) and len(wanted) != BOTH:
        return False
    if meant.how in ("none", "pronoun"):
        return len(unfinished) <= 1 and not names_unknown(text, tasks)
    names_no_more = names_only(text, tasks, beside=("stop", "stop_at_once"))
    if len(wanted) > 1 or says_all(text):
        return names_no_more
    is_placed = meant.how != "order" or places_a_task(text)
    if not names_no_more and (COUNTED_PART.search(text) or not is_placed):
        return False  # the third verse
    if meant.how in ("id", "number") or wanted == unfinished:
        return True
    return not has("doubt", text) and (meant.how != "topic" or shares_most(text, meant.tasks[0]))
