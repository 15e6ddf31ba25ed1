"""What of a conversation goes along when a task is handed in: the words or the result that it leans on; pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tale.conversation.context import shortened
from tale.conversation.kinds import CHAT, CLARIFY
from tale.conversation.leaning import LOST, head_of, names_again, points_back
from tale.conversation.phrases import plain
from tale.conversation.references import NAMED, shares_words, tasks_of_request
from tale.records import Attachment, ConversationTurn, Task

TALK_BYTES: Final = 4_000  # about a thousand tokens of what was said
RESULT_BYTES: Final = 16_000
TURNS_TAKEN: Final = 4
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
    else:
        turns = _before(text, turns)
        leans, is_all = _leans_on(text, turns, numbered or {})
        files += [_told(task, place, len(leans)) for place, task in enumerate(leans, 1) if task.status.is_final]
        after = tuple(task.id for task in leans if not task.status.is_final)
        if not is_all and (talk := _talk(text, turns)):
            files.append(Attachment("conversation.txt", talk))
    if wishes:
        files.append(Attachment("wishes_of_the_user.txt", "\n".join(wishes)))
    return HandOff(text, tuple(files), after)


def _leans_on(
    text: str, turns: Sequence[ConversationTurn], numbered: Mapping[int, Task]
) -> tuple[Sequence[Task], bool]:
    """The earlier tasks that a request goes on with, if it points back at some; and whether it goes on with no more.

    What it names is meant; else what was told or said last. Where that was talk, it may have been mere thanks for a
    task: so that goes along, too.
    """
    tasks = list(numbered.values())
    useful = [task for task in tasks if task.status not in LOST]
    if again := names_again(text, tasks):
        return again, True
    if not useful or not points_back(text):
        return [], False
    meant = tasks_of_request(head_of(text), tasks, first_number=min(numbered))
    if meant.how in NAMED and meant.how != "topic":  # a language or a verb may be shared by chance
        named = [task for task in meant.tasks if task in useful]
        return named, bool(named)
    if PLURAL.search(plain(text)) and len(useful) > 1:
        return useful[-2:], True
    own = [turn for turn in turns if turn.task_id or (turn.role == "assistant" and turn.kind == CHAT)]
    if own and not own[-1].task_id:
        return _told_last(turns[-TURNS_TAKEN:], useful), False
    return _told_last(turns, useful) or useful[-1:], True


def _before(text: str, turns: Sequence[ConversationTurn]) -> Sequence[ConversationTurn]:
    """What was said before a request: it may be one that tale asked about, and that is confirmed only now."""
    place = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=None)
    if place is None or turns[place].content != text or all(turn.kind != CLARIFY for turn in turns[place:]):
        return turns
    return turns[:place]


def _told_last(turns: Sequence[ConversationTurn], tasks: Sequence[Task]) -> Sequence[Task]:
    """The one of some tasks of which these turns told last, if they told of any."""
    told = [task for turn in reversed(turns) for task in tasks if task.id == turn.task_id]
    return told[:1]


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
