"""What a request takes along of a conversation: nothing, what was said, or the tasks that it goes on with."""

from dataclasses import replace

import pytest
from fakes.three_tasks import IDS, TEXTS, tasks

from tale.conversation.hand_off import hand_off_of
from tale.conversation.leaning import points_back
from tale.records import ConversationTurn, TaskStatus


def test_a_request_that_stands_for_itself_takes_nothing_of_the_talk_along() -> None:
    said = [ConversationTurn("c", 0, "user", "My cat is called Tom", 0.0, kind="chat")]
    said.append(ConversationTurn("c", 1, "assistant", "A fine name.", 0.0, kind="chat"))
    assert hand_off_of("Write hello world in Python", turns=said).files == ()


def test_a_request_that_points_back_takes_along_what_was_said() -> None:
    said = [ConversationTurn("c", 0, "user", "What is a monad?", 0.0, kind="chat")]
    said.append(ConversationTurn("c", 1, "assistant", "A monoid.", 0.0, kind="chat"))
    (file,) = hand_off_of("Translate that into German", turns=said).files
    assert (file.name, file.text) == ("conversation.txt", "User: What is a monad?\ntale: A monoid.")


def test_a_request_about_the_same_things_takes_along_what_was_said() -> None:
    said = [ConversationTurn("c", 0, "user", "My project uses Django with PostgreSQL", 0.0, kind="chat")]
    (file,) = hand_off_of("Write a Django model for PostgreSQL", turns=said).files
    assert "My project uses Django" in file.text


def test_a_change_of_an_earlier_task_takes_its_result_along_or_waits_for_it() -> None:
    ended = dict(enumerate(tasks("completed", "completed", "completed"), 1))
    (file,) = hand_off_of("Make it shorter", numbered=ended).files
    assert file.text == "The request: Make a table of planets\n\nThe result:\nResult 2"
    (file,) = hand_off_of("make the first one shorter, please", numbered=ended).files
    assert "whales" in file.text
    running = dict(enumerate(tasks("completed", "completed", "running"), 1))
    given = hand_off_of("Now make it shorter", numbered=running)
    assert (given.files, given.after) == ((), (IDS[2],))


def test_what_was_cancelled_or_failed_is_nothing_to_build_on() -> None:
    numbered = dict(enumerate(tasks("completed", "failed", "cancelled"), 1))
    (file,) = hand_off_of("Make it shorter", numbered=numbered).files
    assert "whales" in file.text


@pytest.mark.parametrize(
    "text",
    [
        "Write a python function to calculate fibonacci numbers",
        "Write a function that reverses a string",
        "Write a letter to my landlord",
        "Schreib einen Brief an das Finanzamt",
        "a poem in which the hero dies",
        "Summarise this: The tenants met on Monday and agreed on nothing.",
        "¿Cuál es la capital de Francia? Escribe un poema sobre ella",
        "Write a python script that prints the result",
        "Write a function that returns the result of a division",
        "Write a poem about a bird flying above the clouds",
        "Write a regex that matches the same word twice",
    ],
)
def test_a_request_that_names_what_it_is_about_neither_waits_nor_takes_along(text: str) -> None:
    numbered = dict(enumerate(tasks("completed", "completed", "running"), 1))
    given = hand_off_of(text, numbered=numbered)
    assert (given.files, given.after) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        "Make it rhyme",
        "now translate that into Finnish",
        "write a test for it",
        "the same for my sister, please",
        "Put it in a table",
        "Mach es kürzer",
        "Skróć to do pięciu zdań",
        "Ponlo en una tabla",
        "la même chose en allemand",
        "Add comments to the code",
        "Translate the text into German",
        "Make the text shorter",
        "Übersetze den Text ins Englische",
    ],
)
def test_a_request_that_goes_on_with_another_is_told_in_many_languages(text: str) -> None:
    assert points_back(text)


def test_a_request_names_what_was_made_before_and_gets_it() -> None:
    numbered = dict(enumerate(tasks("completed", "completed", "running"), 1))
    (file,) = hand_off_of("make the essay shorter", numbered=numbered).files
    assert "whales" in file.text
    given = hand_off_of("Add a column to the table", numbered=numbered)
    assert (given.files, given.after) == ((), (IDS[2],))
    assert hand_off_of("Write a letter about whales", numbered=numbered).files == ()


def test_of_tasks_that_are_called_the_same_a_request_may_name_the_place() -> None:
    about = ("Write a poem about rain", "Write a poem about snow", "Write an email to Ann")
    made = [
        replace(task, text=text) for task, text in zip(tasks("completed", "completed", "completed"), about, strict=True)
    ]
    numbered = dict(enumerate(made, 1))
    for text, subjects in {
        "Make the first poem shorter": ["rain"],
        "Make the last poem shorter": ["snow"],
        "Make the poem shorter": ["snow"],
        "Make the poem shorter and drop the first verse": ["snow"],
        "Put the poem into the email": ["snow", "Ann"],
        "Make the third poem shorter": [],
    }.items():
        files = hand_off_of(text, numbered=numbered).files
        assert [each for each in ("rain", "snow", "Ann") if any(each in file.text for file in files)] == subjects, text
    lost = {**numbered, 1: replace(made[0], status=TaskStatus.FAILED)}
    assert hand_off_of("Make the first poem shorter", numbered=lost).files == ()
    assert "snow" in hand_off_of("Make the poem shorter", numbered=lost).files[0].text


def test_a_request_for_several_gets_all_of_them() -> None:
    numbered = dict(enumerate(tasks("completed", "completed", "running"), 1))
    given = hand_off_of("Compare the first and the second one", numbered=numbered)
    assert [file.name for file in given.files] == ["earlier_task_1.txt", "earlier_task_2.txt"]
    both = hand_off_of("Combine them", numbered=numbered)
    assert (len(both.files), both.after) == (1, (IDS[2],))


def test_a_request_that_names_a_lost_task_gets_no_other_in_its_place() -> None:
    numbered = dict(enumerate(tasks("cancelled", "completed", "completed"), 1))
    assert hand_off_of("Translate the first one into German", numbered=numbered).files == ()


@pytest.mark.parametrize(
    "text",
    [
        "Add a third verse to it.",
        "Shorten it to ninety words and lose the second metaphor.",
        "Translate it, but leave the first line as it is",
        "Mach es kürzer und streiche die zweite Strophe",
        "Ponlo en una tabla y quita la segunda columna",
        "Make it 90",
        "Sort it by the first letter",
        "Drop the last two lines of it",
        "Rewrite it in C# 8",
        "给它加3个例子",
        "给它加第三段",
        "给它加第三个例子",
        "给它加第3个例子",
        "把它的第3个例子删掉",
        "Write a second version of it.",
        "Write a third version of it",
        "Write a second one like it",
        "Mach es kürzer und gib mir eine zweite Antwort",
    ],
)
def test_a_place_or_number_of_another_thing_names_no_task(text: str) -> None:
    numbered = dict(enumerate(tasks("completed", "completed", "completed"), 1))
    (file,) = hand_off_of(text, numbered=numbered).files
    assert "planets" in file.text
    (file,) = hand_off_of(text, numbered={1: numbered[1]}).files
    assert "whales" in file.text


@pytest.mark.parametrize(
    ("text", "subjects"),
    [
        ("make the first one shorter", ["whales"]),
        ("Add a third verse to the first one", ["whales"]),
        ("the same for the second", ["contract"]),
        ("Compare the first with the last one", ["whales", "planets"]),
        ("Use the result of task 2 for it", ["contract"]),
        ("把第二个翻译成德语,让它更短", ["contract"]),
        ("Make task 1 shorter", ["whales"]),
        ("Translate task 2 into German", ["contract"]),
        ("Write a summary of task 2", ["contract"]),
        ("Summarise #2", ["contract"]),
        ("Summarise tasks 1 and 3", ["whales", "planets"]),
        ("把任务2翻译成英语", ["contract"]),
        ("Translate the fourth one into French", []),
        ("Fix the issue #2", []),
        ("Write a poem about task 2 of Hercules", []),
    ],
)
def test_a_place_that_is_a_task_s_names_it(text: str, subjects: list[str]) -> None:
    numbered = dict(enumerate(tasks("completed", "completed", "completed"), 1))
    files = hand_off_of(text, numbered=numbered).files
    assert [
        subject for subject in ("whales", "contract", "planets") if any(subject in file.text for file in files)
    ] == (subjects)


def told(*said: tuple[str, str, str | None]) -> list[ConversationTurn]:
    """Messages given as (kind, content, task), of the user where a task or a chat is asked for with a capital."""
    return [
        ConversationTurn("c", place, "user" if kind.isupper() else "assistant", content, 0.0, None, kind.lower(), task)
        for place, (kind, content, task) in enumerate(said)
    ]


def test_what_was_told_last_is_meant_by_it_and_not_what_was_handed_in_last() -> None:
    numbered = dict(enumerate(tasks("completed", "running", "queued"), 1))
    asked = [("TASK", text, None) for text in TEXTS]
    begun = [("hand_off", "On it", task_id) for task_id in IDS]
    turns = told(
        *asked, *begun, ("result", "Task 1 is done", IDS[0]), ("STATUS", "done?", None), ("status", "no", None)
    )
    given = hand_off_of("Translate that into German", turns=turns, numbered=numbered)
    assert ([file.name for file in given.files], given.after) == (["earlier_task.txt"], ())
    assert "whales" in given.files[0].text
    given = hand_off_of("Translate that into German", turns=turns[:-3], numbered=numbered)
    assert (given.files, given.after) == ((), (IDS[2],))


def test_a_request_that_is_confirmed_only_later_means_what_was_told_before_it() -> None:
    begun = [("TASK", "Write a poem", None), ("hand_off", "On it", IDS[0])]
    asked = [("CHAT", "Make it shorter", None), ("clarify", "Shall I do that as a task?", None)]
    running = {1: replace(tasks("running")[0], text="Write a poem")}
    given = hand_off_of("Make it shorter", turns=told(*begun, *asked), numbered=running)
    assert (given.files, given.after) == ((), (IDS[0],))
    done = {1: replace(running[1], status=TaskStatus.COMPLETED, result="Roses")}
    ended = [("result", "Task 1 is done", IDS[0]), ("STATUS", "done?", None), ("status", "It is", None)]
    (file,) = hand_off_of("Make it shorter", turns=told(*begun, *ended, *asked), numbered=done).files
    assert "Roses" in file.text
    thanks = [("CHAT", "Nice, thanks!", None), ("chat", "You're welcome!", None)]
    files = hand_off_of("Make it shorter", turns=told(*begun, *ended[:1], *thanks, *asked), numbered=done).files
    assert [file.name for file in files] == ["earlier_task.txt", "conversation.txt"]
    assert "Shall I" not in files[1].text


def test_thanks_for_a_task_that_was_taken_on_do_not_take_its_place() -> None:
    numbered = {1: replace(tasks("running")[0], text="Write a poem")}
    turns = told(
        ("TASK", "Write a poem", None),
        ("hand_off", "I'm on it", IDS[0]),
        ("CHAT", "Great, thanks!", None),
        ("chat", "You're welcome!", None),
    )
    assert hand_off_of("Then translate it into German.", turns=turns, numbered=numbered).after == (IDS[0],)


def test_thanks_for_a_result_do_not_take_its_place() -> None:
    numbered = {1: replace(tasks("completed")[0], text="Write a poem", result="Roses")}
    turns = told(
        ("TASK", "Write a poem", None),
        ("hand_off", "On it", IDS[0]),
        ("result", "Task 1 is done:\n\nRoses", IDS[0]),
        ("CHAT", "Nice, thanks!", None),
        ("chat", "You're welcome!", None),
    )
    files = hand_off_of("Make it shorter", turns=turns, numbered=numbered).files
    assert [file.name for file in files] == ["earlier_task.txt", "conversation.txt"]
    assert "Roses" in files[0].text


def test_what_was_just_said_goes_before_what_was_made() -> None:
    numbered = dict(enumerate(tasks("completed", "completed", "running"), 1))
    said = [ConversationTurn("c", 0, "user", "What is a monad?", 0.0, kind="chat")]
    said.append(ConversationTurn("c", 1, "assistant", "A monoid.", 0.0, kind="chat"))
    given = hand_off_of("Translate your answer into German", turns=said, numbered=numbered)
    assert ([file.name for file in given.files], given.after) == (["conversation.txt"], ())


def test_wishes_and_material_go_along() -> None:
    given = hand_off_of("Explain it", material="def f(): ...", wishes=["Answer in German"])
    assert [(file.name, file.text) for file in given.files] == [
        ("message.txt", "def f(): ..."),
        ("wishes_of_the_user.txt", "Answer in German"),
    ]
