"""Finds out which tasks a message speaks of: "the second one", "#3", "the essay", "it", "all of them"; pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Literal

from tale.conversation.phrases import alternatives, folded, has, plain
from tale.records import Task

ORDINALS: Final = ("first_one", "second_one", "third_one", "fourth_one", "fifth_one")
NAMED: Final = ("id", "number", "order", "topic", "all but")  # ways in which particular tasks are meant
PLACES: Final = (*ORDINALS, "oldest", "latest")
AND: Final = r"(?:\s*(?:,|and|und|et|y|e|i|и|&)\s*#?\d{1,4})*"
TASK_WORDS: Final = r"tasks?|jobs?|aufgaben?|t[âa]ches?|tareas?|tarefas?|zadani[ea]|задач[^\W\d]*+|g[öo]rev"
NUMBERED: Final = re.compile(
    rf"(?:(?<!\b[cf])#\s*+|\b(?:{TASK_WORDS}|number|no|nr|nummer|num|n[úu]mero)\s*+(?:\.\s*+)?(?:#\s*+)?"
    rf"|(?:任务|タスク)\s*+)(?:\d{{1,4}}{AND})(?!\d)"
    r"|第\s*+\d{1,4}(?:\s*+[,\uff0c、和及与]\s*+第?\s*+\d{1,4})*+"
    r"(?=\s*+(?:[个個項项番号]|[をはと和]|任务|タスク|つ目|[^\w\s]|$))"  # no third verse
    r"|(?<!\d)\d{1,4}\s*+(?:番目|番|つ目|号)(?!の(?!タスク|もの|方|依頼|結果|回答|答))"
)
# The third of something: 个 counts anything, so a task is meant only where it, or what is done to it, comes behind.
COUNTED_PART: Final = re.compile(
    r"第\s*+[\d一二三四五]{1,4}\s*+[个個](?!\s*+(?:$|[^\w\s]|的?(?:任务|结果|请求|回答)|一下|[和与跟及吧了掉也都先再]"
    r"|取消|停|终止|中止|删|翻译|改|缩|变|写|做|加|扩|重|转|用|换))"
)
TIME: Final = re.compile(r"\b\d{1,2}[:.h]\d{2}\b")
BEFORE_A_TIME: Final = (
    r"(?:until|till|at|after|before|by|for|in|bis|um|nach|fur|a|apres|hasta|dopo|ate|po|в|до|после)\b"
)
# Numbers by themselves: "stop 2", "cancel 2 and 3 please"; not "pause until 10".
ALONE: Final = re.compile(
    rf"(?:(?!{BEFORE_A_TIME})[^\W\d]+ ){{0,2}}\d{{1,3}}(?: (?:(?:and|und|et|y|e|i|и|or) )?[1-9]\d{{0,2}})*"
    r"(?: (?:again|please|first|last|now|bitte|nochmal))*"
)
LIST_AND: Final = r"(?:and|und|et|y|e|i|и|or|oder|ou|o)"
LIST_COMMA: Final = re.compile(r"\s*[,、]\s*")
NUMBER: Final = re.compile(r"\d+")
A_MOMENT: Final = re.compile(
    r"\b(?:an?|une?|eine?[nr]?|um|uma|jednu|just|one) (?:second|seconde?|sekunde|segundo|secondo)s?\b"
)
# Words of quantity and place that name no task.
IDIOMS: Final = re.compile(
    r"\b(?:after all|at all|all right|all good|all fine|that's all|that is all|first of all|above all|all in all"
    r"|(?:on )?second thoughts?|in the first place|at first|at last|first half|tout de suite|tout a l'heure|tout a fait"
    r"|apres tout|pas du tout|tout le monde|tout va bien|tout est|alles (?:klar|gut|ok|okay|bestens|prima)"
    r"|wszystko (?:jedno|w porzadku|ok|dobrze)|mimo wszystko|everything(?:'s| is| looks| was) \w+)\b"
)
CLAUSE: Final = re.compile(r"[,.;:!?\n…。，、！？]+")  # noqa: RUF001 - signs of all languages
COUNTS: Final = {
    **dict.fromkeys(
        ["2", "two", "zwei", "beiden", "deux", "dos", "due", "dois", "duas", "dwa", "dwie", "два", "две"], 2
    ),
    **dict.fromkeys(["3", "three", "drei", "trois", "tres", "tre"], 3),
    **dict.fromkeys(["4", "four"], 4),
}
ID: Final = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8}\b"
)
UNPARTED: Final = re.compile("[\u3040-\u30ff\u4e00-\u9fff]{2,}")  # words of Chinese and Japanese
FILLERS: Final = frozenset(
    plain(
        """
        the one ones task tasks number and with about of or to on in a an it an its no nr die der das den dem und mit
        von la le les el los las il lo gli i e y et con de del di du des avec na o z ab up off stop cancel yes please
        only just both
        """
    ).split()
)
PARTICLES: Final = re.compile(
    "[のをはがもにとでへ]|して|ください|下さい|お願い|だけ|[第个号番目和请把了吧掉那这]|一下|任务|タスク"
)
ENGLISH_PLACES: Final = r"(?:first|second|third|fourth|fifth|last|[1-5](?:st|nd|rd|th))"
PARTS_IN_PARTS: Final = 3  # "the first and the second verse": the second first
STEM: Final = 6  # letters by which a word is known: translate, translation
TOPIC_CHARACTERS: Final = 1_000  # of a task's text, in which it says what it is about
SHORTEST_WORD: Final = 4  # letters of a word by which a task may be named
# Words that name no task, though a task's text may have them.
COMMON: Final = frozenset(
    plain(
        """
        task request please cancel stop with from that this about which what where when have make write create could
        would your mine there them they status check result again into list show tell give look done doing going ready
        finished still running waiting wait queue queued front move pause paused resume retry continue kill abort start
        ended take than thought long longer hold drop everything aufgabe bitte tâche tarea alles
        取消 停止 暂停 任务 中止 一下 请把 キャ ャン ンセ セル タス スク ルし して くだ ださ さい
        """
    ).split()
)


@dataclass(frozen=True, slots=True)
class Reference:
    """The tasks that are meant. `how` says how they were found; "none" where the message names none."""

    tasks: tuple[Task, ...]
    how: Literal["id", "number", "all", "all but", "order", "topic", "pronoun", "none"]


def tasks_meant(text: str, tasks: Sequence[Task], *, first_number: int = 1) -> Reference:
    """The tasks that a message speaks of; `tasks` are oldest first, numbered from `first_number`.

    Only what is named: a message without any such word gives an empty reference.
    """
    text = TIME.sub(" ", text)
    lower, words = text.lower(), IDIOMS.sub(" ", A_MOMENT.sub(" ", plain(text)))
    left_out = re.search(alternatives("but_not"), words)
    if has("all", words) and left_out and not has("stop", words[left_out.end() :]):
        return _all_but(lower, words[left_out.end() :], tasks, first_number)
    if found := re.search(rf"(?:{alternatives('keep')})", words):
        kept = tasks_meant(words[found.end() :], tasks, first_number=first_number).tasks
        meant = tasks_meant(words[: found.start()], tasks, first_number=first_number)
        return replace(meant, tasks=tuple(task for task in meant.tasks if task not in kept))
    if named := [task for task in tasks if any(task.id.startswith(found) for found in ID.findall(lower))]:
        return Reference(tuple(named), "id")
    if numbers := _numbers_of(lower):
        return Reference(_numbered(numbers, tasks, first_number), "number")
    if has("all", words):
        topic = _by_topic(re.sub(alternatives("all"), " ", words), tasks)
        return Reference(topic, "topic") if topic else Reference(tuple(tasks), "all")
    return _by_words(words, tasks, first_number)


def _by_words(words: str, tasks: Sequence[Task], first_number: int) -> Reference:
    """The tasks that a message names by what they are about, by their place, by a bare number, or by "it"."""
    if _placed().search(words) and (order := by_order(words, tasks, first_number)):
        return order
    topic = _by_topic(words, tasks)
    if len(topic) == 1:
        return Reference(topic, "topic")
    if order := by_order(words, topic or tasks, 1 if topic else first_number):
        return order
    if numbers := _numbers_alone(words):
        return Reference(_numbered(numbers, tasks, first_number), "number")
    leans = tasks and any(has(meaning, words) for meaning in ("back_again", "it", "it_or_else"))
    return Reference(tuple(tasks[-1:]), "pronoun") if leans else Reference((), "none")


@cache
def _placed() -> re.Pattern[str]:
    """The second one, the last task, the first of them."""
    return re.compile(rf"(?:{places()}) (?:{alternatives('task_word')}|of (?:them|these|those)\b)")


def places_a_task(text: str) -> bool:
    """Whether a message says the place of a task as such.

    >>> places_a_task("Why did the last one fail?"), places_a_task("What was the last error?")
    (True, False)
    """
    return _placed().search(plain(text)) is not None


@cache
def places() -> str:
    """The words for places as a regular expression for plain text."""
    return "|".join(alternatives(meaning) for meaning in PLACES)


def tasks_of_request(text: str, tasks: Sequence[Task], *, first_number: int = 1) -> Reference:
    """The tasks that a request to make something names as such: "the second one", not "a third verse".

    A place counts where a word for a task stands behind it, or none that it could be the place of; a number where it
    stands beside a word for a task.
    """
    text = COUNTED_PART.sub(" ", text)
    if numbers_named(text, alone=False):
        return tasks_meant(text, tasks, first_number=first_number)
    words = ", ".join(_without_parts(plain(clause)) for clause in CLAUSE.split(text))
    meant = tasks_meant(words, tasks, first_number=first_number)
    return Reference((), "none") if meant.how == "number" else meant


def numbers_named(text: str, *, alone: bool = True) -> list[int]:
    """The numbers by which a message names tasks; not `alone`, only those beside a word for a task.

    >>> numbers_named("retry 2"), numbers_named("retry 2", alone=False), numbers_named("retry #2", alone=False)
    ([2], [], [2])
    """
    text = TIME.sub(" ", text)
    return _numbers_of(text.lower()) or (_numbers_alone(plain(text)) if alone else [])


def _without_parts(words: str) -> str:
    """A clause without the places within a thing, which name no task: the third verse, the last two lines."""
    for _ in range(PARTS_IN_PARTS):
        words = " ".join(_of_a_part().sub(" ", words).split())
    return words


@cache
def _of_a_part() -> re.Pattern[str]:
    """A place behind which stands what it is the place of, or one of a new thing: "a second one"."""
    article, goes_on, word = alternatives("article"), alternatives("it_goes_on"), alternatives("task_word")
    alone = (
        rf"(?!(?:{LIST_AND}|but|so)\b)(?:{goes_on})|{LIST_AND} (?:(?:{article}) )?(?:{places()})|of (?:them|these)\b"
    )
    unparted = " ?(?:一?[个個]|の?(?:タスク|もの|方|依頼|結果|答え|回答)|任务|请求|结果|回答|[をはと])"
    parted = rf" (?:(?:{'|'.join(COUNTS)})\b ?)?(?:{word}|{alone}|$)"
    new = rf"\b(?:(?:a|another) {ENGLISH_PLACES}|(?:eine?\w*|une?|una|uma?) (?:{places()}))\b(?: (?:{word}))?"
    return re.compile(rf"{new}|(?:{places()})(?!{unparted}|{parted}|$)")


def says_all(text: str) -> bool:
    """Whether a message speaks of all tasks, or of all of some kind: not "after all", "all right".

    >>> says_all("stop all of it"), says_all("all right, stop it")
    (True, False)
    """
    return has("all", IDIOMS.sub(" ", plain(text)))


def _all_but(lower: str, left_out: str, tasks: Sequence[Task], first_number: int) -> Reference:
    """All tasks but those that a message leaves out; none where these cannot be told."""
    left_out = re.sub(alternatives("all"), " ", left_out)
    placed = by_order(left_out, tasks, first_number)
    numbers = _numbers_of(lower) or [int(number) for number in NUMBER.findall(left_out)]
    named = [
        *_by_topic(left_out, tasks),
        *_numbered(numbers, tasks, first_number),
        *(placed.tasks if placed else ()),
    ]
    return Reference(tuple(task for task in tasks if task not in named), "all but") if named else Reference((), "none")


def _numbers_of(lower: str) -> list[int]:
    """The numbers that stand behind a word for a task, or before one."""
    return [int(number) for found in NUMBERED.finditer(lower) for number in NUMBER.findall(found[0])]


def _numbers_alone(words: str) -> list[int]:
    return [int(number) for number in NUMBER.findall(words)] if ALONE.fullmatch(words) else []


def by_order(words: str, tasks: Sequence[Task], first_number: int = 1) -> Reference | None:
    """The tasks that plain words name by their place: the first, the last two; None where they name none."""
    count = _count_beside_place(words)
    if has("oldest", words):
        return Reference(tuple(tasks[:count]), "order")
    numbers, is_last = [place for place, ordinal in enumerate(ORDINALS, 1) if has(ordinal, words)], has("latest", words)
    if not numbers and not is_last:
        return None
    if not _counted_place().search(words) and _listed().fullmatch(words):
        numbers += [int(number) for number in NUMBER.findall(words)]
    found = tasks[:count] if numbers == [1] and count > 1 else _numbered(numbers, tasks, first_number)
    return Reference(tuple(dict.fromkeys([*found, *(tasks[-count:] if is_last else ())])), "order")


def _count_beside_place(words: str) -> int:
    """How many are meant by "the last two", "the two last ones"; one where no number stands beside the place."""
    found = _counted_place().search(words)
    return COUNTS[found[1] or found[2]] if found else 1


@cache
def _counted_place() -> re.Pattern[str]:
    number = "|".join(COUNTS)
    return re.compile(rf"(?:{places()}) ({number})\b|\b({number}) (?:{places()})")


@cache
def _one_named() -> str:
    """One task of a list: a number, or a place."""
    article, word = alternatives("article"), alternatives("task_word")
    return rf"(?:(?:{article}) )?(?:[1-9]\d{{0,2}}\b|{places()})(?: (?:{word}))?"


@cache
def _listed() -> re.Pattern[str]:
    """Numbers and places, and no more but two words before and some behind: "stop 3 and 4 and the last"."""
    following = rf"(?: (?:{LIST_AND} )?{_one_named()}){{0,9}}(?: (?:{alternatives('lead_out')})){{0,3}}"
    return re.compile(rf"(?:[^\W\d]+ ){{0,2}}{_one_named()}{following}")


def joined_lists(text: str) -> str:
    """A message in small letters in which "and" stands for the commas between numbers and places of tasks.

    >>> joined_lists("Stop 3, 4 and the last"), joined_lists("Stop it, 2 lines are enough")
    ('stop 3 and 4 and the last', 'stop it, 2 lines are enough')
    """
    return _list().sub(lambda found: LIST_COMMA.sub(" and ", found[0]), folded(text))


@cache
def _list() -> re.Pattern[str]:
    """Numbers and places with commas between them, and no more in their clause."""
    return re.compile(
        rf"#?(?<!\d){_one_named()}(?:\s*+[,、]\s*+#?{_one_named()})+(?=\s*+(?:$|[,.!?、。]|{LIST_AND}\b))"
    )


def ordered(text: str) -> str:
    """The part of a message that gives an order to stop, where it is one clause of several; else all of it.

    >>> ordered("Everything is fine, just cancel the last one."), ordered("the essay, please")
    ('just cancel the last one', 'the essay, please')
    """
    orders = [clause.strip() for clause in CLAUSE.split(text) if has("stop", clause)]
    return orders[0] if len(orders) == 1 and len(orders[0].split()) > 1 else text


def names_unknown(text: str, tasks: Sequence[Task]) -> bool:
    """Whether a message names a thing that no task is about: "stop the music"."""
    told = substance(" ".join(_beginning(task) for task in tasks))
    named = {word for word in _definite().findall(plain(text)) if len(word) >= SHORTEST_WORD} - FILLERS - COMMON
    return any(
        not substance(word) & told and not any(has(meaning, word) for meaning in ("all", "stop", *PLACES))
        for word in named
    )


@cache
def _definite() -> re.Pattern[str]:
    return re.compile(rf"(?:{alternatives('article')}) (\w+)")


def names_only(text: str, tasks: Sequence[Task], *, beside: Sequence[str] = ()) -> bool:
    """Whether a message names tasks and says nothing else, but for phrases of the meanings `beside`.

    >>> names_only("the second one", ()), names_only("how far is the first one?", ())
    (True, False)
    >>> names_only("please cancel the last two", (), beside=("stop",))
    True
    """
    known = {word for task in tasks for word in _beginning(task).split()[1:]}
    words = _counted_place().sub(" ", IDIOMS.sub(" ", plain(text)))
    for meaning in ("all", "but_not", *beside, *PLACES, "it", "back_again", "lead_out", "lead_in"):
        words = re.sub(alternatives(meaning), " ", words)
    left = {word for word in PARTICLES.sub(" ", words).split() if not word.isdigit()} - FILLERS - known
    stems = {word[:STEM] for word in known}
    return "?" not in text and not {word for word in left if word[:STEM] not in stems}


def shares_most(text: str, task: Task) -> bool:
    """Whether a task has most of the words that an order to stop names: not "my lesson plan", of "Plan a party"."""
    words = plain(text)
    for meaning in ("stop", "stop_at_once", "lead_out", "lead_in"):
        words = re.sub(alternatives(meaning), " ", words)
    told = substance(_beginning(task))
    other = (
        substance(re.sub(alternatives("thing"), " ", words)) - told
    )  # "the text about rivers": a text may be any task
    return len(substance(words) & told) > len(other)


def without_place(text: str) -> str:
    """An order to move a task, without the place at its end, which names no task.

    >>> without_place("put the last one first"), without_place("move 3 to the end of the queue, please")
    ('put the last one', 'move 3')
    """
    return _place_at_end().sub("", plain(text)).strip()


@cache
def _place_at_end() -> re.Pattern[str]:
    return re.compile(rf"(?:{alternatives('places')})(?: (?:{alternatives('lead_out')}))*$")


def shares_words(text: str, other: str, *, least: int = 2) -> bool:
    """Whether two texts have that many words of substance in common."""
    return len(substance(plain(text)) & substance(plain(other))) >= least


def _numbered(numbers: Iterable[int], tasks: Sequence[Task], first_number: int) -> tuple[Task, ...]:
    places = [number - first_number for number in numbers]
    return tuple(tasks[place] for place in places if 0 <= place < len(tasks))


def _by_topic(words: str, tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks that share most words with the message; none where all share as many."""
    said = {word for word in substance(words) if not any(has(meaning, word) for meaning in PLACES)}
    scored = [(len(said & substance(_beginning(task))), task) for task in tasks]
    best = max((score for score, _ in scored), default=0)
    found = [task for score, task in scored if score == best]
    return tuple(found) if best and (len(found) == 1 or len(found) < len(tasks)) else ()


def _beginning(task: Task) -> str:
    return plain(task.text[:TOPIC_CHARACTERS])


def substance(words: str) -> set[str]:
    """The beginnings of words long enough to name something; pairs of signs where words are not parted."""
    found = {word.removesuffix("s") for word in words.split() if len(word) >= SHORTEST_WORD and word not in COMMON}
    pairs = {run[at : at + 2] for run in UNPARTED.findall(words) for at in range(len(run) - 1)}
    return {word[:STEM] for word in found - COMMON if not UNPARTED.search(word)} | pairs - COMMON
