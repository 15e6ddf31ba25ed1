"""What an order to stop means, and when it is asked about."""

import pytest

from tale.conversation.state import settled_by_words
from tale.conversation.stopping import stop_meant
from tale.records import ConversationTurn, Task, TaskStatus

FOUR = (
    "Write an essay about the French Revolution",
    "Translate the attached contract into German",
    "Write a Python script that renames files",
    "Write a reminder email to the tenants",
)


def numbered(*texts: str, ended: int = 0) -> dict[int, Task]:
    """Tasks from number 1 on, of which the first have ended."""
    statuses = [TaskStatus.COMPLETED] * ended + [TaskStatus.QUEUED] * len(texts)
    return {
        number: Task(f"{number}1111111-aaaa-4aaa-8aaa-111111111111", text, status, float(number))
        for number, (text, status) in enumerate(zip(texts, statuses, strict=False), 1)
    }


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ("stop", [1, 2, 3, 4]),
        ("stop everything right now", [1, 2, 3, 4]),
        ("cancela todo", [1, 2, 3, 4]),
        ("取消全部", [1, 2, 3, 4]),
        ("cancel the second one", [2]),
        ("stop task 3", [3]),
        ("cancel tasks 2 and 3", [2, 3]),
        ("never mind the email", [4]),
        ("cancel the translation", [2]),
        ("取消第二个任务", [2]),
        ("I would ask you to discontinue the second of them.", [2]),
        ("kill everything except the essay", [2, 3, 4]),
        ("cancel everything except the first one and the email", [2, 3]),
        ("cancel the first and the last one", [1, 4]),
        ("cancel 2, 3 and the last", [2, 3, 4]),
        ("cancel tasks 1, 3 and 4", [1, 3, 4]),
        ("cancel the first, the third and the last one", [1, 3, 4]),
        ("All right, cancel the last one", [4]),
        ("Everything is fine, just cancel the last one", [4]),
        ("alles klar, brich die zweite ab", [2]),
        ("annule le deuxième tout de suite", [2]),
        ("the first one is great, cancel the second", [2]),
        ("cancel the last one, it has been running for 3 hours", [4]),
        ("I was wrong about the second one, keep it, cancel the third", [3]),
        ("stop, please, 2", [2]),
        ("取消第2个", [2]),
        ("取消第1个和第3个", [1, 3]),
    ],
)
def test_what_is_clear_is_stopped(said: str, numbers: list[int]) -> None:
    stop = stop_meant(said, numbered(*FOUR))
    assert (list(stop.tasks), stop.is_sure) == (numbers, True)


@pytest.mark.parametrize(
    "said",
    [
        "I don't need it after all, cancel it",
        "arrête ça tout de suite",
        "cancel both",
        "cancel all waiting tasks",
        "cancel all failed tasks",
        "annule toutes les traductions",
        "cancel everything after the essay",
        "the first one is fine. Cancel the rest",
        "when the essay is done, cancel the rest",
        "最初のだけ残して他はキャンセル",
        "cancel the first one, no wait, the second one",
        "cancel 1, no, 3",
        "cancel the second one, the first one is fine",
        "取消2个任务",
        "cancel the thing please",
        "scrap the email campaign",
        "on second thought, cancel it",
        "cancel the essay, the last one",
        "cancel the essay, 2 and 3",
        "cancel the essay and the last one",
        "cancel task 2 and the essay",
        "cancel 2 and the essay",
        "cancel the first two and the last",
        "cancel the third verse",
        "cancel the second version",
        "取消第三个例子",
        "取消第3个例子",
        "please stop at 2:30",
    ],
)
def test_what_could_stop_too_much_is_asked_about(said: str) -> None:
    assert not stop_meant(said, numbered(*FOUR)).is_sure


@pytest.mark.parametrize(
    ("reply", "numbers"),
    [
        ("no, the second one", [2]),
        ("ok, the second one", [2]),
        ("yes, 2", [2]),
        ("1, 3", [1, 3]),
        ("#1, #3", [1, 3]),
        ("3, 4 and the last", [3, 4]),
        ("1 and the third one", [1, 3]),
        ("1, 3, and 4", [1, 3, 4]),
        ("2, please", [2]),
        ("第2个", [2]),
        ("第1个和第3个", [1, 3]),
    ],
)
def test_a_reply_to_which_one_stops_what_it_names(reply: str, numbers: list[int]) -> None:
    known = numbered(*FOUR)
    asked = [ConversationTurn("c", 0, "user", "cancel the thing please", 0.0, kind="control")]
    asked.append(ConversationTurn("c", 1, "assistant", "Which one shall I stop?", 0.0, kind="which"))
    decided = settled_by_words(reply, asked, list(known.values()))
    assert decided is not None and decided.act == "control"
    stop = stop_meant(decided.text, known)
    assert (list(stop.tasks), stop.is_sure) == (numbers, True)


@pytest.mark.parametrize(("said", "is_sure"), [("stop it", True), ("cancel", True), ("I don't need it any more", True)])
def test_where_one_task_is_open_it_is_meant(said: str, *, is_sure: bool) -> None:
    stop = stop_meant(said, numbered("Translate the contract", "Write an essay about whales", ended=1))
    assert (list(stop.tasks), stop.is_sure) == ([2], is_sure)


@pytest.mark.parametrize("said", ["stop the poem", "stop the music", "delete the failed tasks"])
def test_a_thing_that_no_task_is_about_does_not_stand_for_the_one_that_is_open(said: str) -> None:
    assert not stop_meant(said, numbered("Translate the contract", "Write an essay about whales", ended=1)).is_sure


def test_a_task_that_has_ended_is_meant_where_it_is_named() -> None:
    stop = stop_meant("cancel the translation", numbered("Translate the contract", "Write an essay", ended=1))
    assert (list(stop.tasks), stop.is_sure) == ([1], True)
