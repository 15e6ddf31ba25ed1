"""What tale says of tasks, in plain words: from their rows, never from a model; pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from tale.conversation.state import Question
from tale.records import ConversationTurn, Task, TaskStatus

NAME_CHARACTERS: Final = 60
SHOWN_CHARACTERS: Final = 1_200  # of a result that is told whole
SHOWN_CODE_CHARACTERS: Final = 4_000  # code is of no use in part
EXCERPT_CHARACTERS: Final = 600  # of a result that cannot be summed up
MINUTE_S: Final = 60
FENCE: Final = "```"


def name_of(text: str, width: int = NAME_CHARACTERS) -> str:
    """A task's text on one line, cut.

    >>> name_of("Write a haiku\\nabout rain", 16)
    '“Write a haiku a…”'
    """
    line = " ".join(text.split())
    return f"“{line}”" if len(line) <= width else f"“{line[: width - 1]}…”"


def lasted(duration_s: float) -> str:
    """A duration as one says it.

    >>> lasted(0.2), lasted(8.4), lasted(125), lasted(7_300)
    ('a moment', '8 s', '2 min', '2 h')
    """
    if duration_s < 1:
        return "a moment"
    if duration_s < MINUTE_S:
        return f"{duration_s:.0f} s"
    minutes = int(duration_s // MINUTE_S)
    return f"{minutes} min" if minutes < MINUTE_S else f"{minutes // MINUTE_S} h"


def standing(task: Task, *, now: float, words: str | None = None) -> str:
    """How a task stands; `words` is what its runner told last."""
    if task.status is TaskStatus.QUEUED:
        waits = "waiting for other tasks" if task.open_dependencies else "waiting its turn"
        retried = f", after {task.failures} failed attempt{'s' if task.failures > 1 else ''}" if task.failures else ""
        return f"{waits} for {lasted(now - task.created_at)}{retried}"
    if task.status is TaskStatus.RUNNING:
        since = lasted(now - (task.started_at or task.created_at))
        told = words[0].lower() + words[1:] if words else "being worked on"
        return f"{told}, for {since} now"
    took = lasted((task.ended_at or now) - (task.started_at or task.created_at))
    if task.status is TaskStatus.COMPLETED:
        return f"done, in {took}"
    if task.status is TaskStatus.CANCELLED:
        return "cancelled"
    return f"failed: {task.error or 'no reason is known'}"


def begun(number: int, task: Task, *, waits: bool = False, paused: bool = False) -> str:
    """The words of a hand-off."""
    name = name_of(task.text)
    if paused:
        return f"I've taken that as task {number}: {name}. The queue is paused; “resume” lets it begin."
    if waits:
        return f"I've taken that as task {number}: {name}. It begins when the task that it builds on is done."
    return f"I'm on it, as task {number}: {name}. You can go on talking; I'll say when it's done."


def question(kind: Question, text: str) -> str:
    """The one question that is asked about a message."""
    name = name_of(text)
    if kind == "task_or_chat":
        return f"Shall I do that as a task ({name}), or just talk about it? Say “do it” or “just chat”."
    if kind == "which_task":
        return "Which one do you mean?"
    return f"What would you like me to do with {name}? Say it in a sentence, or “just chat”."


def which(tasks: Mapping[int, Task], verb: str, *, now: float) -> str:
    """Asks which of several tasks is meant."""
    lines = "\n".join(f"{number}. {name_of(task.text)}: {standing(task, now=now)}" for number, task in tasks.items())
    example = next(iter(tasks))
    return f"Which one shall I {verb}?\n{lines}\nSay “{verb} {example}”, or “{verb} all”."


def overview(tasks: Mapping[int, Task], *, now: float, words: Mapping[str, str], elsewhere: Sequence[Task] = ()) -> str:
    """How the tasks of a conversation stand, else the latest that were handed in elsewhere."""
    if not tasks:
        if not elsewhere:
            return "You have no tasks yet. Ask for something to be made, and I'll start one."
        latest = elsewhere[0]
        name = name_of(latest.text)
        return f"There is no task in this conversation. Your latest elsewhere is {name}: {standing(latest, now=now)}."
    if len(tasks) == 1:
        ((number, task),) = tasks.items()
        told = standing(task, now=now, words=words.get(task.id))
        return f"Task {number}, {name_of(task.text)}: {told}.{_where(task)}"
    lines = [
        f"{number}. {name_of(task.text)}: {standing(task, now=now, words=words.get(task.id))}"
        for number, task in tasks.items()
    ]
    return "\n".join(lines)


def last_request(
    turns: Sequence[ConversationTurn], tasks: Mapping[int, Task], *, now: float, first: bool = False
) -> str:
    """What the user asked for last, or first: a task, else a message. `turns` end before the question."""
    if not tasks:
        return last_message(turns, first=first)
    number = min(tasks) if first else max(tasks)
    task, which = tasks[number], "first" if first else "last"
    return f"Your {which} request was task {number}: {name_of(task.text, 400)}. It is {standing(task, now=now)}."


def last_message(turns: Sequence[ConversationTurn], *, first: bool = False) -> str:
    """What the user said last, or first, questions about work left out. `turns` end before the question."""
    said = [turn for turn in turns if turn.role == "user" and turn.kind != "status"]
    if not said:
        return "You have not asked for anything in this conversation yet."
    turn, which = said[0 if first else -1], "first" if first else "last"
    was_task = "" if turn.kind == "task" else " It was not for a task."
    return f"Your {which} message was {name_of(turn.content, 400)}.{was_task}"


def is_long(task: Task) -> bool:
    """Whether the result of a completed task is told in short. Code is told whole: a part of it is of no use."""
    text = task.result or ""
    most = SHOWN_CODE_CHARACTERS if FENCE in text else SHOWN_CHARACTERS
    return task.status is TaskStatus.COMPLETED and len(text) > most


def ended(number: int, task: Task, *, summary: str | None = None) -> str:
    """What is said when a task has ended; `summary` is in place of a long result."""
    name = name_of(task.text)
    if task.status is TaskStatus.CANCELLED:
        kept = f" What it had written: `tale result {task.id}`." if task.result else ""
        return f"Task {number} ({name}) was cancelled.{kept}"
    if task.status is TaskStatus.FAILED:
        return f"Task {number} ({name}) failed: {task.error or 'no reason is known'} Say “retry {number}” to try again."
    if not is_long(task):
        return f"Task {number} is done:\n\n{task.result or '(it has no text)'}"
    size = f"{len(task.result or ''):,} characters"
    told = summary or f"{(task.result or '')[:EXCERPT_CHARACTERS].rstrip()}…"
    return f"Task {number} ({name}) is done. In short:\n\n{told}\n\nThe full text ({size}): `tale result {task.id}`"


def errors(tasks: Mapping[int, Task], *, now: float, are_named: bool = False) -> str:
    """What went wrong with the tasks: with those that a question names, or with the latest of a conversation."""
    broken = {number: task for number, task in tasks.items() if task.error}
    if not tasks:
        return "There are no tasks here yet."
    if not broken and are_named:
        names = " and ".join(map(str, tasks))
        return f"Task {names} has not failed." if len(tasks) == 1 else f"Tasks {names} have not failed."
    if not broken:
        which = "the tasks in this conversation" if min(tasks) == 1 else f"the latest {len(tasks)} tasks here"
        return f"None of {which} has failed."
    return "\n".join(
        f"Task {number} ({name_of(task.text)}): {task.error} It is {standing(task, now=now).partition(':')[0]}."
        for number, task in broken.items()
    )


def _where(task: Task) -> str:
    return f" The full text: `tale result {task.id}`" if task.status is TaskStatus.COMPLETED else ""
