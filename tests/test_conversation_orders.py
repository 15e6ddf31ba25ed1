"""What control messages order, what questions are about, and which tasks a message speaks of."""

from dataclasses import replace

import pytest

from tale.conversation.hand_off import hand_off_of
from tale.conversation.leaning import points_back
from tale.conversation.orders import Order, order_of, order_told
from tale.conversation.phrases import has, plain, says
from tale.conversation.questions import topic_of
from tale.conversation.references import tasks_meant, without_place
from tale.records import Action, ConversationTurn, Detection, Task, TaskStatus

TEXTS = ("Write an essay about whales", "Translate the contract into German", "Make a table of planets")
IDS = (
    "11111111-aaaa-4aaa-8aaa-111111111111",
    "22222222-bbbb-4bbb-8bbb-222222222222",
    "3333333c-cccc-4ccc-8ccc-333333333333",
)


def tasks(*statuses: str) -> list[Task]:
    """Three tasks, oldest first."""
    told = [*statuses, *["running"] * len(TEXTS)]
    return [
        Task(task_id, text, TaskStatus(status), float(place), result=f"Result {place}")
        for place, (task_id, text, status) in enumerate(zip(IDS, TEXTS, told, strict=False))
    ]


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("stop", "stop"),
        ("STOP!!", "stop"),
        ("cancel the second one", "stop"),
        ("Never mind the essay.", "stop"),
        ("scratch that, I found it", "stop"),
        ("Brich das bitte ab", "stop"),
        ("annule tout", "stop"),
        ("İptal et.", "stop"),
        ("取り消します", "stop"),
        ("रद्द करो", "stop"),
        ("pause", "pause"),
        ("Please hold the queue", "pause"),
        ("mets en pause", "pause"),
        ("一時停止して", "pause"),
        ("ok, resume", "resume"),
        ("mach weiter", "resume"),
        ("再開してください", "resume"),
        ("run the last one again", "retry"),
        ("noch einmal bitte", "retry"),
        ("もう一度", "retry"),
        ("put the poem first", "first"),
        ("move it to the end of the queue", "last"),
        ("Hör auf!", "stop"),
        ("hor auf", "stop"),
        ("cancélalo", "stop"),
        ("отмена", "stop"),
        ("cancel it, it takes longer than I thought", "stop"),
        ("please cancel the big one", "stop"),
        ("could you kill the small one", "stop"),
        ("clear all my tasks", "stop"),
        ("please don't continue", "stop"),
        ("please don't run it again", "stop"),
        ("Hervat de taak", "resume"),
        ("pauzeer alles", "pause"),
        ("use the big model from now on", "large_model"),
        ("switch to the small one", "small_model"),
        ("nimm das kleine Modell", "small_model"),
        ("clear this conversation", "clear"),
        ("let's start over", "clear"),
        ("answer in German from now on", "wish"),
        ("from now on stop apologising", "wish"),
        ("no more emojis", "wish"),
        ("No emojis with me ever again, thank you.", "wish"),
        ("Responde más corto para todos los mensajes", "wish"),
        ("stop using emojis", "wish"),
        ("put the kettle on", "unclear"),
    ],
)
def test_the_verb_of_an_order_is_found_in_many_languages(text: str, action: str) -> None:
    assert order_of(text).action == action


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("again with 4000 tokens", 4_000),
        ("retry, 2k tokens", 2_000),
        ("rerun with 1,500 tokens", 1_500),
        ("again", None),
    ],
)
def test_a_retry_may_name_its_limit(text: str, tokens: int | None) -> None:
    assert order_of(text) == Order("retry", tokens)


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("what was my first request?", "last_request"),
        ("was the glossary ever picked up", "tasks"),
        ("what is the hold up with the cover letter", "tasks"),
        ("What was my last request?", "last_request"),
        ("was habe ich gefragt?", "last_request"),
        ("Check the status of my task", "tasks"),
        ("done?", "tasks"),
        ("How many are ahead of me?", "queue"),
        ("wie lang ist die Warteschlange", "queue"),
        ("How many tokens have I used?", "budget"),
        ("why did it fail?", "error"),
        ("is the server up?", "servers"),
        ("which model is busy?", "servers"),
        ("show me the result", "result"),
    ],
)
def test_a_question_about_one_s_work_is_about_something(text: str, topic: str) -> None:
    assert topic_of(text) == topic


@pytest.mark.parametrize(
    ("text", "numbers", "how"),
    [
        ("cancel the second one", [2], "order"),
        ("stop #3", [3], "number"),
        ("kill task 1", [1], "number"),
        ("stop 2", [2], "number"),
        ("stoppe die zweite", [2], "order"),
        ("cancel the last one", [3], "order"),
        ("stop them all", [1, 2, 3], "all"),
        ("cancel both", [1, 2, 3], "all"),
        ("how is the essay about whales?", [1], "topic"),
        ("cancel the contract", [2], "topic"),
        (f"stop {IDS[1]}", [2], "id"),
        (f"stop {IDS[2][:8]}", [3], "id"),
        ("stop it", [3], "pronoun"),
        ("stop", [], "none"),
        ("stop #9", [], "number"),
        ("kill everything except the essay", [2, 3], "all but"),
        ("cancel all but the second one", [1, 3], "all but"),
        ("stop everything except what I like", [], "none"),
        ("cancel all my tasks", [1, 2, 3], "all"),
        ("cancel all except task 2", [1, 3], "all but"),
        ("brich alles außer Aufgabe 2 ab", [1, 3], "all but"),
        ("отмени всё, кроме задачи 2", [1, 3], "all but"),
        ("cancel all except the first two", [3], "all but"),
        ("cancel the second one, keep the first one", [2], "order"),
        ("stop the first one, not the second", [1], "order"),
        ("cancel the last two", [2, 3], "order"),
        ("stop, wait a second", [], "none"),
        ("cancel it, I only wanted 2 lines", [3], "pronoun"),
        ("cancel task 2 and 3", [2, 3], "number"),
        ("stop 2 and 3 please", [2, 3], "number"),
        ("取消任务2", [2], "number"),
        ("取消第2个任务", [2], "number"),
        ("タスク3をキャンセル", [3], "number"),
        ("rerun with 1,500 tokens", [], "none"),
        ("cancela todo", [1, 2, 3], "all"),
    ],
)
def test_the_tasks_that_are_meant_are_found(text: str, numbers: list[int], how: str) -> None:
    listed = tasks()
    meant = tasks_meant(text, listed)
    assert ([listed.index(task) + 1 for task in meant.tasks], meant.how) == (numbers, how)


@pytest.mark.parametrize(
    ("said", "number"),
    [("取消翻译合同", 2), ("クジラのエッセイをキャンセルして", 1)],
)
def test_tasks_are_named_where_words_are_not_parted(said: str, number: int) -> None:
    texts = ("クジラについてエッセイを書いて", "把合同翻译成德语", "Make a table of planets")
    listed = [replace(task, text=text) for task, text in zip(tasks(), texts, strict=True)]
    assert tasks_meant(said, listed).tasks == (listed[number - 1],)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("put the last one first", 3),
        ("do the second one first", 2),
        ("mets la dernière en premier", 3),
        ("pon la última primero", 3),
        ("move the first one to the end of the queue", 1),
    ],
)
def test_the_place_that_a_task_is_put_to_names_no_task(said: str, number: int) -> None:
    listed = tasks()
    assert tasks_meant(without_place(said), listed).tasks == (listed[number - 1],)


@pytest.mark.parametrize(
    ("text", "action", "sure", "order"),
    [
        ("don't cancel the second one", "stop", 0.99, "unclear"),
        ("不要取消任务2", "stop", 0.99, "unclear"),
        ("stop repeating my question", "stop", 0.99, "wish"),
        ("stop writing so much", "stop", 0.9, "wish"),
        ("stop with the emojis", "stop", 0.9, "wish"),
        ("stop the poem", "stop", 0.9, "stop"),
        ("stop using the big model", "large_model", 0.99, "small_model"),
        ("don't use the small model", "small_model", 0.99, "large_model"),
        ("use the big one", "large_model", 0.99, "large_model"),
        ("Excel-Makro, das leere Zeilen löscht", "clear", 0.6, "unclear"),
        ("let's start over", "clear", 0.6, "clear"),
        ("get rid of all that was said", "clear", 0.95, "clear"),
    ],
)
def test_what_was_learned_of_an_order_is_held_against_its_words(
    text: str, action: Action, sure: float, order: str
) -> None:
    told = Detection("control", 0.99, (), "model", action=action, action_confidence=sure)
    assert order_told(text, told).action == order


def test_a_place_in_the_queue_is_no_topic_and_todo_is_a_word_of_english_too() -> None:
    texts = ("Write a haiku about rain", "List the first 10 primes", "Build a todo app", "Write a haiku about snow")
    listed = [replace(task, text=text) for task, text in zip([*tasks(), tasks()[0]], texts, strict=True)]
    for said, numbers in {
        "cancel the first one": [1],
        "cancel the todo app": [3],
        "cancel the last haiku": [4],
        "cancel all the haikus": [1, 4],
        "cancel everything except the haikus": [2, 3],
    }.items():
        meant = tasks_meant(said, listed)
        assert [number for number, task in enumerate(listed, 1) if task in meant.tasks] == numbers, said


def test_numbers_count_within_the_whole_conversation_though_only_its_latest_tasks_are_known() -> None:
    listed = tasks()
    assert tasks_meant("stop task 12", listed, first_number=11).tasks == (listed[1],)
    assert tasks_meant("stop task 2", listed, first_number=11).tasks == ()


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


def test_a_request_for_several_gets_all_of_them() -> None:
    numbered = dict(enumerate(tasks("completed", "completed", "running"), 1))
    given = hand_off_of("Compare the first and the second one", numbered=numbered)
    assert [file.name for file in given.files] == ["earlier_task_1.txt", "earlier_task_2.txt"]
    both = hand_off_of("Combine them", numbered=numbered)
    assert (len(both.files), both.after) == (1, (IDS[2],))


def test_a_request_that_names_a_lost_task_gets_no_other_in_its_place() -> None:
    numbered = dict(enumerate(tasks("cancelled", "completed", "completed"), 1))
    assert hand_off_of("Translate the first one into German", numbered=numbered).files == ()


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


def test_phrases_are_found_as_whole_words_in_any_script() -> None:
    assert plain("  Don\u2019t STOP — it's «fine»! ") == "don't stop it's fine"
    assert has("stop", "bitte stopp") and not has("stop", "the stopover was long")
    assert says("just_chat", "No, just chat.") and not says("just_chat", "just chat with me about cats")
    assert says("yes", "Ja, bitte!") and says("do_it", "ok do it now please")
    assert points_back("make it longer") and not points_back("write a poem about rain")


def test_every_meaning_of_the_phrase_book_can_be_looked_for() -> None:
    import tomllib
    from pathlib import Path

    import tale.conversation

    book = tomllib.loads((Path(tale.conversation.__file__).parent / "phrases.toml").read_text())
    for meaning, phrases in book.items():
        first = plain(phrases.strip().partition("|")[0].strip().rstrip("*"))
        assert has(meaning, first), meaning


def test_a_task_that_ended_keeps_its_place_among_the_numbers() -> None:
    listed = [replace(tasks()[0], status=TaskStatus.CANCELLED), *tasks()[1:]]
    assert tasks_meant("the second one", listed).tasks == (listed[1],)
