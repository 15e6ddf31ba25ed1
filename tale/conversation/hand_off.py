"""What of a conversation goes along when a task is handed in: the words or the result that it leans on; pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tale.conversation.context import shortened
from tale.conversation.leaning import names_again, points_back
from tale.conversation.phrases import plain
from tale.conversation.references import NAMED, shares_words, tasks_meant
from tale.conversation.state import CHAT, CLARIFY
from tale.records import Attachment, ConversationTurn, Task, TaskStatus

TALK_BYTES: Final = 4_000  # about a thousand tokens of what was said
RESULT_BYTES: Final = 16_000
TURNS_TAKEN: Final = 4
LOST: Final = (TaskStatus.CANCELLED, TaskStatus.FAILED)
PLURAL: Final = re.compile(r"\b(?:them|these|those|both|the two|beide|les deux|ambos|las dos|los dos|entrambi|oba)\b")


@dataclass(frozen=True, slots=True)
class HandOff:
    """A task as it is handed in: files that the model reads, and tasks whose results it gets when they are done."""

    text: str
    files: tuple[Attachment, ...] = ()
    after: tuple[str, ...] = ()


def hand_off_of(
    text: str,
    *,
    material: str | None = None,
    turns: Sequence[ConversationTurn] = (),
    numbered: Mapping[int, Task] | None = None,
    wishes: Sequence[str] = (),
) -> HandOff:
    """What goes along with a request: `material` that it is about, else what it leans on, and the standing wishes.

    A request that stands for itself takes nothing of the talk along: it would cost tokens and mislead small models.
    """
    files: list[Attachment] = []
    after: tuple[str, ...] = ()
    if material is not None:
        files.append(Attachment("message.txt", material))
    elif leans := _leans_on(text, turns, numbered or {}):
        files += [_told(task, place, len(leans)) for place, task in enumerate(leans, 1) if task.status.is_final]
        after = tuple(task.id for task in leans if not task.status.is_final)
    elif talk := _talk(text, turns):
        files.append(Attachment("conversation.txt", talk))
    if wishes:
        files.append(Attachment("wishes_of_the_user.txt", "\n".join(wishes)))
    return HandOff(text, tuple(files), after)


def _leans_on(text: str, turns: Sequence[ConversationTurn], numbered: Mapping[int, Task]) -> list[Task]:
    """The earlier tasks that a request goes on with, if it points back at some.

    What was said last goes before what was made last, unless the request names a task.
    """
    useful = [task for task in numbered.values() if task.status not in LOST]
    if again := names_again(text, useful):
        return again
    if not useful or not points_back(text):
        return []
    meant = tasks_meant(text, list(numbered.values()), first_number=min(numbered))
    was_said = bool(turns) and turns[-1].kind == CHAT
    if meant.how in NAMED and meant.how != "topic":  # a language or a verb may be shared by chance
        return [task for task in meant.tasks if task in useful]
    if PLURAL.search(plain(text)) and len(useful) > 1:
        return useful[-2:]
    return [] if was_said else useful[-1:]


def _talk(text: str, turns: Sequence[ConversationTurn]) -> str | None:
    """The latest turns of chat, if the request points at them or speaks of the same things."""
    said = [turn for turn in turns if turn.kind in (None, CHAT, CLARIFY)][-TURNS_TAKEN:]
    told = "\n".join(f"{'User' if turn.role == 'user' else 'tale'}: {turn.content}" for turn in said)
    if not said or not (points_back(text) or shares_words(text, told)):
        return None
    return shortened(told, TALK_BYTES)


def _told(task: Task, place: int, of: int) -> Attachment:
    told = f"The request: {task.text}\n\nThe result:\n{shortened(task.result or '', RESULT_BYTES // of)}"
    return Attachment("earlier_task.txt" if of == 1 else f"earlier_task_{place}.txt", told)
