"""What a message is taken for, where a conversation stands, and what the model reads of it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tale.conversation import wording
from tale.conversation.context import (
    CHAT_INSTRUCTIONS,
    HOW_IT_ENDED,
    Memory,
    messages_for,
    shortened,
    size,
    summary_messages,
    system_text,
    to_summarize,
)
from tale.conversation.state import Learned, decide, settled_by_words, state_of
from tale.records import ConversationTurn, Detection, Intent, Task, TaskStatus


def turns(*said: tuple[str, str, str], **more: Any) -> list[ConversationTurn]:
    """Messages given as (role, kind, content)."""
    roles: dict[str, Any] = {"u": "user", "t": "assistant"}
    return [
        ConversationTurn("c", place, roles[role], content, float(place), kind=kind, **more)
        for place, (role, kind, content) in enumerate(said)
    ]


def detection(label: Intent, confidence: float = 0.9, **probabilities: float) -> Detection:
    return Detection(label, confidence, (), "model", probabilities)


def task(status: str, number: int = 1, **more: Any) -> Task:
    return Task(f"id{number}", f"Task text {number}", TaskStatus(status), 0.0, **more)


def test_what_is_sure_is_done() -> None:
    assert decide("Hi", detection("chat"), []).act == "chat"
    assert decide("Write a poem", detection("task"), []).act == "hand_off"
    assert decide("done?", detection("status", 0.4), []).act == "status"
    assert decide("stop", detection("control"), []).act == "control"


@pytest.mark.parametrize(
    ("found", "question"),
    [
        (detection("ambiguous"), "what_to_do"),
        (detection("task", 0.5), "task_or_chat"),
        (detection("chat", 0.6, task=0.38), "task_or_chat"),
        (detection("control", 0.4), "what_to_do"),
    ],
)
def test_what_is_unsure_is_asked_about_once(found: Detection, question: str) -> None:
    first = decide("report.pdf", found, [])
    assert (first.act, first.question) == ("clarify", question)
    asked = turns(("u", first.kind, "report.pdf"), ("t", "clarify", "What with it?"))
    assert decide("that file there", found, asked).act != "clarify"


def test_material_that_came_first_goes_with_the_order_that_follows() -> None:
    asked = turns(("u", "ambiguous", "def f(): return 1"), ("t", "clarify", "What with it?"))
    decided = decide("explain it", detection("task"), asked)
    assert (decided.act, decided.text, decided.material) == ("hand_off", "explain it", "def f(): return 1")


@pytest.mark.parametrize(("reply", "act", "label"), [("do it", "hand_off", "task"), ("yes please", "hand_off", "task")])
def test_a_question_is_answered_in_a_word(reply: str, act: str, label: Intent) -> None:
    asked = turns(("u", "task", "Maybe a poem"), ("t", "clarify", "Shall I?"))
    decided = settled_by_words(reply, asked)
    assert decided is not None
    assert (decided.act, decided.text) == (act, "Maybe a poem")
    assert decided.learned == Learned("Maybe a poem", label, "task")


@pytest.mark.parametrize("reply", ["just chat", "no", "No, I was just asking!", "nur eine Frage"])
def test_a_question_is_declined_in_a_word(reply: str) -> None:
    decided = settled_by_words(reply, turns(("u", "task", "Maybe a poem"), ("t", "clarify", "Shall I?")))
    assert decided is not None
    assert (decided.act, decided.learned) == ("chat", Learned("Maybe a poem", "chat", "task"))


def test_a_task_that_was_not_meant_is_withdrawn_and_answered() -> None:
    said = [*turns(("u", "task", "How would one write a poem?")), ConversationTurn("c", 1, "assistant", "On it", 0.0)]
    said[1] = ConversationTurn("c", 1, "assistant", "On it", 0.0, kind="hand_off", task_id="t1")
    decided = settled_by_words("no, just chat", said)
    assert decided is not None
    assert (decided.act, decided.text, decided.withdraws) == ("chat", "How would one write a poem?", "t1")
    assert decided.learned == Learned("How would one write a poem?", "chat", "task")


def test_a_request_that_was_taken_for_talk_is_done_after_all() -> None:
    decided = settled_by_words("no, do it", turns(("u", "chat", "A poem would be nice"), ("t", "chat", "Indeed.")))
    assert decided is not None
    assert (decided.act, decided.text) == ("hand_off", "A poem would be nice")
    assert decided.learned == Learned("A poem would be nice", "task", "chat")


def test_do_it_is_said_of_what_was_answered_last_though_another_message_came_in_between() -> None:
    said = [("u", "chat", "Rename?"), ("u", "status", "How far?"), ("t", "status", "x"), ("t", "chat", "So you do")]
    decided = settled_by_words("do it", turns(*said))
    assert decided is not None
    assert (decided.act, decided.text, decided.learned) == ("hand_off", "Rename?", Learned("Rename?", "task", "chat"))


@pytest.mark.parametrize(
    ("second", "answer", "reply", "act"),
    [
        ("task", "hand_off", "no, just chat", "chat"),
        ("task", "clarify", "yes", "hand_off"),
        ("ambiguous", "clarify", "just chat", "chat"),
    ],
)
def test_a_reply_finds_what_it_replies_to_though_an_earlier_answer_ended_since(
    second: str, answer: str, reply: str, act: str
) -> None:
    said = [("u", "chat", "Why?"), ("u", second, "A poem"), ("t", answer, "…"), ("t", "chat", "Because")]
    decided = settled_by_words(reply, turns(*said))
    assert decided is not None
    assert (decided.act, decided.text) == (act, "A poem")


@pytest.mark.parametrize(
    ("reply", "act", "text"),
    [
        ("2", "control", "stop 2"),
        ("the second one", "control", "stop the second one"),
        ("both", "control", "stop both"),
        ("2 and 1", "control", "stop 2 and 1"),
        ("none of them", "status", "none of them"),
        ("never mind", "status", "never mind"),
        ("let them all run", "status", "let them all run"),
        ("yes", "control", "cancel the thing please"),
        ("no", "status", "no"),
    ],
)
def test_which_one_is_answered_in_a_word_and_teaches_nothing(reply: str, act: str, text: str) -> None:
    asked = turns(("u", "control", "cancel the thing please"), ("t", "which", "Which one shall I stop?"))
    decided = settled_by_words(reply, asked, [task("running"), task("running", 2)])
    assert decided is not None
    assert (decided.act, decided.text, decided.label, decided.learned) == (act, text, act, None)
    assert state_of(asked, []) == "clarify"


@pytest.mark.parametrize(
    "reply",
    [
        "thanks, that's all",
        "how far is the first one?",
        "Write a poem about everything",
        "no, keep both",
        "nein, lass beide laufen",
        "not the first one",
        "pause all",
        "retry the first one",
        "show me all of them",
    ],
)
def test_what_says_more_than_which_one_stops_nothing(reply: str) -> None:
    asked = turns(("u", "control", "cancel the thing please"), ("t", "which", "Which one shall I stop?"))
    decided = settled_by_words(reply, asked, [task("running"), task("running", 2)])
    assert decided is None or decided.act == "status"


def test_a_result_that_comes_between_a_question_and_its_answer_takes_nothing_away() -> None:
    asked = turns(("u", "task", "Maybe a poem"), ("t", "clarify", "Shall I?"), ("t", "result", "Task 1 is done"))
    decided = settled_by_words("do it", asked)
    assert decided is not None and (decided.act, decided.text) == ("hand_off", "Maybe a poem")


@pytest.mark.parametrize("reply", ["yes", "no", "do it in Rust", "thanks"])
def test_other_words_stand_for_themselves(reply: str) -> None:
    assert settled_by_words(reply, turns(("u", "chat", "Hi"), ("t", "chat", "Hello!"))) is None
    assert settled_by_words(reply, []) is None


def test_where_a_conversation_stands_is_read_off_its_messages_and_tasks() -> None:
    assert state_of([], []) == "chat"
    assert state_of(turns(("u", "ambiguous", "x"), ("t", "clarify", "?")), []) == "clarify"
    assert state_of(turns(("t", "hand_off", "On it")), [task("queued")]) == "hand_off"
    assert state_of(turns(("t", "hand_off", "On it")), [task("completed"), task("running", 2)]) == "progress"
    assert state_of(turns(("t", "result", "Done")), [task("completed")]) == "result"
    assert state_of(turns(("t", "result", "Done"), ("u", "chat", "Hi"), ("t", "chat", "Hi")), []) == "chat"


def test_the_model_reads_the_instructions_the_wishes_the_summary_and_the_talk() -> None:
    said = turns(("u", "chat", "Old"), ("t", "chat", "Old too"), ("u", "chat", "Hi"), ("t", "chat", "Hello"))
    memory = Memory(["Answer in German"], "They met.", 2)
    system, *rest = messages_for("And?", said, memory=memory, tasks=[], room_tokens=5_000)
    assert system.content.startswith(CHAT_INSTRUCTIONS)
    assert "- Answer in German" in system.content
    assert "Earlier in this conversation: They met." in system.content
    assert [(each.role, each.content) for each in rest] == [("user", "Hi"), ("assistant", "Hello"), ("user", "And?")]


def test_a_request_is_read_with_its_result_and_what_was_said_about_it_is_not() -> None:
    said = turns(
        ("u", "task", "Write a poem"),
        ("t", "hand_off", "I'm on it"),
        ("u", "status", "done?"),
        ("t", "status", "Not yet"),
        ("u", "chat", "Hello"),
        ("t", "chat", "Hi"),
        ("t", "result", "Task 1 is done:\n\nRoses are red"),
    )
    said = [replace(turn, task_id="id1") if turn.kind in ("hand_off", "result") else turn for turn in said]
    _, *rest = messages_for("Nice", said, memory=Memory(), tasks=[], room_tokens=5_000)
    assert [(each.role, each.content) for each in rest] == [
        ("user", "Hello"),
        ("assistant", "Hi"),
        ("user", "Write a poem"),
        ("assistant", "Roses are red"),
        ("user", "Nice"),
    ]
    _, *rest = messages_for("Nice", said[:-1], memory=Memory(), tasks=[], room_tokens=5_000)
    assert [each.content for each in rest] == ["Hello", "Hi", "Nice"]


def with_tasks(steps: Sequence[str]) -> list[ConversationTurn]:
    """Talk in which tasks begin ("task") and the oldest of them ends ("end"), between exchanges of chat."""
    said: list[tuple[str, str, str]] = []
    tasks: list[str | None] = []
    under_way: list[str] = []
    for number, step in enumerate(steps):
        if step == "chat":
            said += [("u", "chat", f"Question {number:02}".ljust(60)), ("t", "chat", f"Answer {number:02}".ljust(60))]
            tasks += [None, None]
        elif step == "task":
            said += [("u", "task", f"Request {number:02}".ljust(60)), ("t", "hand_off", "I'm on it")]
            tasks += [None, str(number)]
            under_way.append(str(number))
        elif under_way:
            ended = under_way.pop(0)
            said.append(("t", "result", f"Task is done:\n\nResult {int(ended):02}".ljust(60)))
            tasks.append(ended)
    return [replace(turn, task_id=task_id) for turn, task_id in zip(turns(*said), tasks, strict=True)]


def read_after(block: Sequence[ConversationTurn], said: Sequence[ConversationTurn]) -> str:
    """What is read in words once a block has been summed up."""
    memory = Memory(summary="They talked.", summarized=block[-1].position + 1 if block else 0)
    return "\n".join(each.content for each in messages_for("?", said, memory=memory, tasks=[], room_tokens=99_999))


@given(steps=st.lists(st.sampled_from(["chat", "chat", "task", "end"]), max_size=40), room=st.integers(600, 4_000))
def test_all_that_is_not_summed_up_is_still_read(steps: list[str], room: int) -> None:
    said = with_tasks(steps)
    block = to_summarize(said, memory=Memory(), room_tokens=room)
    told, read = "\n".join(turn.content for turn in block), read_after(block, said)
    open_ones = {turn.task_id for turn in said if turn.kind == "hand_off"} - {
        turn.task_id for turn in said if turn.kind == "result"
    }
    for turn, following in pairwise([*said, *turns(("u", "chat", ""))]):
        words = turn.content.rpartition("\n")[2].strip()
        if following.kind == "hand_off" and following.task_id in open_ones and words not in told:
            assert turn.position > block[-1].position if block else True
        elif turn.kind != "hand_off":
            assert (words in told) != (words in read)


def test_a_request_and_its_result_are_summed_up_together_or_not_at_all() -> None:
    for before in range(30):
        said = with_tasks([*["chat"] * before, "task", *["chat"] * 4, "end", *["chat"] * (30 - before)])
        block = to_summarize(said, memory=Memory(), room_tokens=6_000)
        told, read = "\n".join(turn.content for turn in block), read_after(block, said)
        assert ("Request" in told) == ("Result" in told) != ("Request" in read)
        assert ("Request" in read) == ("Result" in read)


def test_a_result_whose_request_was_summed_up_is_read_alone() -> None:
    said = with_tasks(["task", *["chat"] * 20])
    block = to_summarize(said, memory=Memory(), room_tokens=3_000)
    assert block[0].content.strip() == "Request 00"
    later = with_tasks(["task", *["chat"] * 20, "end"])
    memory = Memory(summary="A request.", summarized=block[-1].position + 1)
    *_, asked, result, _ = messages_for("Nice", later, memory=memory, tasks=[], room_tokens=9_999)
    assert (asked.role, asked.content) == ("user", HOW_IT_ENDED)
    assert result.content.strip() == "Task is done:\n\nResult 00"


def test_open_tasks_are_named_behind_the_message_whatever_else_is_left_out() -> None:
    """In front of the talk they would cost an engine's cache whenever a task begins or ends."""
    said = turns(("u", "chat", "Hi"), ("t", "chat", "Hello"))
    under_way = [task("completed", 1), task("running", 2), task("queued", 3)]
    for room in (5_000, 600):
        read = messages_for("And?", said, memory=Memory(), tasks=under_way, room_tokens=room)
        assert read[0].content == CHAT_INSTRUCTIONS
        assert read[-1].content == "And?\n\n(Being worked on beside this talk: “Task text 2”, “Task text 3”.)"
    ended = messages_for("And?", said, memory=Memory(), tasks=[task("completed")], room_tokens=600)
    assert ended[-1].content == "And?"


KINDS = st.sampled_from(
    [("u", "chat"), ("t", "chat"), ("u", "status"), ("t", "status"), ("u", "task"), ("t", "hand_off")]
)
SAID = st.lists(st.tuples(KINDS, st.text("ab ü", min_size=1, max_size=60)), max_size=60)


@given(said=SAID, room=st.integers(600, 3_000), question=st.text(min_size=1, max_size=50))
def test_what_is_read_always_fits_and_takes_turns(said: list[Any], room: int, question: str) -> None:
    kept = turns(*((role, kind, text) for (role, kind), text in said))
    read = messages_for(question, kept, memory=Memory(), tasks=[], room_tokens=room)
    assert [each.role for each in read] == ["system", *["user", "assistant"] * ((len(read) - 2) // 2), "user"]
    assert read[-1].content == question
    assert sum(size(each.content) for each in read) <= room


def test_the_start_of_what_is_read_moves_in_large_steps() -> None:
    """An engine finds in its cache what it has read before; each step of the start costs it all."""
    room, starts, said = 2_000, [], []
    for number in range(300):
        said += [("u", "chat", f"Question {number:04}"), ("t", "chat", f"Answer {number:04}")]
        read = messages_for("Next", turns(*said), memory=Memory(), tasks=[], room_tokens=room)
        starts.append(read[1].content)
    moves = sum(one != other for one, other in pairwise(starts))
    assert 1 < moves < 25


def test_tokens_that_the_engine_counted_go_before_bytes() -> None:
    said = turns(("u", "chat", "x" * 900), ("t", "chat", "y" * 900), tokens=10)
    room = size(system_text(Memory())) + 100
    assert len(messages_for("Next", said, memory=Memory(), tasks=[], room_tokens=room)) == 4
    uncounted = turns(("u", "chat", "x" * 900), ("t", "chat", "y" * 900))
    assert len(messages_for("Next", uncounted, memory=Memory(), tasks=[], room_tokens=room)) == 2


def test_old_turns_are_summed_up_in_one_block_and_the_rest_begins_with_the_user() -> None:
    said = turns(*(("ut"[place % 2], "chat", f"{place:03}" * 20) for place in range(60)))
    block = to_summarize(said, memory=Memory(), room_tokens=4_000)
    assert 0 < len(block) < len(said)
    assert said[len(block)].role == "user"
    assert to_summarize(said[len(block) :], memory=Memory(summarized=len(block)), room_tokens=4_000) == ()
    assert to_summarize(said[:10], memory=Memory(), room_tokens=4_000) == ()
    system, told = summary_messages(Memory(summary="They met."), block, room_tokens=900)
    assert told.content.startswith("Earlier: They met.\nUser: 000")
    assert size(system.content) + size(told.content) <= 900


@given(text=st.text(max_size=200), most=st.integers(0, 300))
def test_a_text_is_shortened_in_its_middle(text: str, most: int) -> None:
    assert size(shortened(text, most)) <= max(most, 5)
    if size(text) <= most:
        assert shortened(text, most) == text


def test_how_a_task_stands_is_told_in_plain_words() -> None:
    assert wording.standing(task("queued"), now=8.0) == "waiting its turn for 8 s"
    assert (
        wording.standing(task("queued", failures=2), now=130.0) == "waiting its turn for 2 min, after 2 failed attempts"
    )
    assert wording.standing(task("queued", open_dependencies=1), now=0.0) == "waiting for other tasks for a moment"
    assert wording.standing(task("running", started_at=1.0), now=9.0) == "being worked on, for 8 s now"
    told = wording.standing(task("running", started_at=1.0), now=9.0, words="Writing: 12 tokens")
    assert told == "writing: 12 tokens, for 8 s now"
    assert wording.standing(task("completed", started_at=1.0, ended_at=7_201.0), now=9e9) == "done, in 2 h"
    assert wording.standing(task("failed", error="The model broke."), now=9.0) == "failed: The model broke."
    assert wording.standing(task("cancelled"), now=9.0) == "cancelled"


def test_short_results_and_code_are_told_whole_and_long_ones_in_short() -> None:
    assert wording.ended(2, task("completed", result="42")) == "Task 2 is done:\n\n42"
    code = "\n".join(["```python", *["x = 1"] * 300, "```"])
    assert wording.ended(1, task("completed", result=code)).endswith(code)
    long = task("completed", result="word " * 1_000)
    assert wording.is_long(long)
    told = wording.ended(1, long, summary="Words.")
    assert "In short:\n\nWords.\n\nThe full text (5,000 characters): `tale result id1`" in told
    assert "word word" in wording.ended(1, long)
    assert wording.ended(1, task("completed")).endswith("(it has no text)")
    assert "“retry 1”" in wording.ended(1, task("failed", error="No."))
    assert wording.ended(1, task("cancelled", result="half")).endswith("`tale result id1`.")


def test_what_failed_is_told_of_the_tasks_that_are_named_or_of_all() -> None:
    both = {1: task("failed", error="No."), 2: task("completed", 2)}
    assert wording.errors(both, now=0.0) == "Task 1 (“Task text 1”): No. It is failed."
    assert wording.errors({2: both[2]}, now=0.0, are_named=True) == "Task 2 has not failed."
    assert wording.errors({1: both[2]}, now=0.0) == "None of the tasks in this conversation has failed."
    assert wording.errors({6: both[2], 7: both[2]}, now=0.0) == "None of the latest 2 tasks here has failed."


def test_the_last_request_is_the_latest_task_else_the_latest_message() -> None:
    said = turns(("u", "chat", "Hello"), ("t", "chat", "Hi"), ("u", "status", "done?"), ("t", "status", "no"))
    assert "Your last message was “Hello”" in wording.last_request(said, {}, now=0.0)
    assert "task 3: “Task text 3”" in wording.last_request(said, {3: task("running", 3)}, now=0.0)
    assert "have not asked" in wording.last_request([], {}, now=0.0)
