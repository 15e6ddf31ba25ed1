"""What control messages order, what questions are about, and which tasks a message speaks of."""

import subprocess
import sys
from dataclasses import replace

import pytest
from fakes.three_tasks import IDS, tasks

from tale.conversation.leaning import points_back
from tale.conversation.orders import Order, order_of, order_told
from tale.conversation.phrases import LETTER, alternatives, has, plain, says
from tale.conversation.questions import topic_of
from tale.conversation.references import tasks_meant, without_place
from tale.records import Action, Detection, TaskStatus


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
        ("取消2个任务", [], "none"),
        ("取消第2段", [], "none"),
        ("1, 3", [1, 3], "number"),
        ("stop 1 and the last", [1, 3], "order"),
        ("stop the last 2", [2, 3], "order"),
        ("pause until 10:30", [], "none"),
        ("hold at 14:15", [], "none"),
        ("stop at 1.30", [], "none"),
        ("pause until 2", [], "none"),
        ("retry 1, 3", [1, 3], "number"),
        ("取消第1和第3个", [1, 3], "number"),
        ("取消第1和3个", [1, 3], "number"),
        ("取消第1、3个", [1, 3], "number"),
        ("取消第1,3个", [1, 3], "number"),
        ("取消第1和第3段", [], "none"),
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


def test_phrases_are_found_as_whole_words_in_any_script() -> None:
    assert plain("  Don\u2019t STOP — it's «fine»! ") == "don't stop it's fine"
    assert has("stop", "bitte stopp") and not has("stop", "the stopover was long")
    assert says("just_chat", "No, just chat.") and not says("just_chat", "just chat with me about cats")
    assert says("yes", "Ja, bitte!") and says("do_it", "ok do it now please")
    assert points_back("make it longer") and not points_back("write a poem about rain")


REPEATED = """
from tale.conversation.orders import order_of
from tale.conversation.phrases import _phrases, has, says
from tale.conversation.references import tasks_meant, tasks_of_request
from tale.conversation.state import settled_by_words
from tale.conversation.stopping import stop_meant
from tale.records import ConversationTurn

book = {meaning: [each.strip().rstrip("*") for each in phrases.split("|")] for meaning, phrases in _phrases().items()}
beside = [*book["lead_in"], *book["lead_out"]]
for meaning, phrases in book.items():
    for phrase in (*phrases, *beside):
        assert not says(meaning, f"{phrase} " * 40 + "x")
stars = [each.strip().rstrip("*") for phrases in _phrases().values() for each in phrases.split("|") if "*" in each]
for phrase in (*beside, *stars, "derniere"):
    for text in (f"{phrase} " * 40 + "x", phrase + "\u0915" * 40 + " x"):
        order_of(text)
        tasks_meant(text, ())
for text in ("task" + " " * 1_900 + "x", "again " + "1" * 900 + " " * 900 + "x"):
    order_of(text)
    tasks_meant(text, ())
for text in ("last and " * 220 + "verse", "ilk i " * 330 + "x", "1, " * 660 + "x", "stop 1 , " * 220 + "x"):
    tasks_of_request(text, ())
    stop_meant(text, {})
said = [ConversationTurn("c", 0, "user", "Hi", 0.0, kind="chat")]
said.append(ConversationTurn("c", 1, "assistant", "Hello", 0.0, kind="chat"))
for phrase in ("s\u00ec ", "please ", "no then ", "last ", "keep ", "1, "):
    settled_by_words(phrase * (9_990 // len(phrase)) + "x", said)
said[1] = ConversationTurn("c", 1, "assistant", "Which one?", 0.0, kind="which")
for phrase in ("1, ", "the last, ", "first 1 , ", "no, "):
    settled_by_words(phrase * (9_990 // len(phrase)), said)
"""


def test_no_message_keeps_a_pattern_busy_however_often_it_says_a_thing() -> None:
    """In a process of its own: a pattern that is busy can hardly be stopped."""
    subprocess.run([sys.executable, "-c", REPEATED], check=True, timeout=120)


def test_every_meaning_of_the_phrase_book_can_be_looked_for() -> None:
    import tomllib
    from pathlib import Path

    import tale.conversation

    book = tomllib.loads((Path(tale.conversation.__file__).parent / "phrases.toml").read_text())
    for meaning, phrases in book.items():
        said = alternatives(meaning).replace(LETTER, "*").split("|")
        assert len(set(said)) == len(said), meaning
        first = plain(phrases.strip().partition("|")[0].strip().rstrip("*"))
        assert has(meaning, first), meaning


def test_a_task_that_ended_keeps_its_place_among_the_numbers() -> None:
    listed = [replace(tasks()[0], status=TaskStatus.CANCELLED), *tasks()[1:]]
    assert tasks_meant("the second one", listed).tasks == (listed[1],)
