"""What `tale chat` is made of: the order of answers, their blocks, cards, completion, the history of what was typed."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from tale.cli.chat_cards import card_lines
from tale.cli.chat_history import TypedHistory
from tale.cli.chat_input import CommandCompleter
from tale.cli.chat_recovery import Sent, answer_among
from tale.cli.chat_text import complete_length
from tale.cli.chat_transcript import Part, Transcript

MARKDOWN = st.text("ab1.-*` \n", max_size=80)


def card(number: int, **known: Any) -> dict[str, Any]:
    """One task of a conversation."""
    empty = {"id": str(number), "text": f"Task {number}", "status": "running", "line": "queued"}
    return {"number": number, **empty, "created_at": 0.0, "ended_at": None, **known}


def turn(position: int, role: str, content: str, kind: str = "chat") -> dict[str, Any]:
    """One message of a conversation."""
    return {"position": position, "role": role, "content": content, "kind": kind}


def test_a_block_is_written_when_the_next_begins_and_the_rest_at_the_end() -> None:
    transcript = Transcript()
    entry = transcript.begin("> Hello")
    entry.heard("One\n\nTw")
    assert transcript.take_written() == [Part("heading", "> Hello"), Part("text", "One")]
    assert entry.parts_left() == [Part("text", "Tw")]
    entry.heard("o")
    assert transcript.take_written() == []
    entry.completed("One\n\nTwo.")
    assert transcript.take_written() == [Part("text", "Two.")]
    assert not transcript.entries


def test_a_later_answer_waits_until_the_earlier_is_whole() -> None:
    transcript = Transcript()
    first, second = transcript.begin("> First"), transcript.begin("> Second")
    second.completed("Done.")
    assert transcript.take_written() == [Part("heading", "> First")]
    assert second.parts_left() == [Part("heading", "> Second"), Part("text", "Done.")]
    first.ended("Stopped.")
    written = transcript.take_written()
    assert written == [Part("note", "Stopped."), Part("heading", "> Second"), Part("text", "Done.")]


def test_an_answer_that_begins_anew_leaves_what_was_written_and_says_so() -> None:
    transcript = Transcript()
    entry = transcript.begin("> Hello")
    entry.heard("One\n\nTw")
    transcript.take_written()
    entry.restart()
    entry.completed("Uno\n\nDos")
    assert transcript.take_written() == [
        Part("heading", "The answer broke off; it begins anew."),
        Part("text", "Uno\n\nDos"),
    ]


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("One\n\n", ""),
        ("One\n\nT", "One\n\n"),
        ("One\n\n    code", ""),
        ("- one\n\n- two\n\nT", "- one\n\n- two\n\n"),
        ("- one\n\n-", ""),
        ("1. one\n\n2", ""),
        ("One\n\n- two\n\n  more", "One\n\n"),
        ("```\na\n\nb", ""),
        ("~~~\na\n\n```\n\nb\n~~~\n\nT", "~~~\na\n\n```\n\nb\n~~~\n\n"),
    ],
)
def test_only_blocks_that_nothing_can_change_are_complete(text: str, complete: str) -> None:
    assert text[: complete_length(text)] == complete


@settings(max_examples=50)
@given(MARKDOWN, MARKDOWN)
def test_what_is_complete_stays_so_whatever_follows(text: str, more: str) -> None:
    assert complete_length(text) <= complete_length(text + more)


@settings(max_examples=50)
@given(MARKDOWN, st.integers(1, 7))
def test_every_piece_of_an_answer_is_written_once(text: str, size: int) -> None:
    transcript = Transcript()
    entry = transcript.begin("")
    written: list[Part] = []
    for start in range(0, len(text), size):
        entry.heard(text[start : start + size])
        written += transcript.take_written()
    entry.completed(text)
    written += transcript.take_written()

    assert "".join("".join(part.text for part in written).split()) == "".join(text.split())


@pytest.mark.parametrize("width", [10, 40, 71, 72, 120])
def test_no_card_is_wider_than_the_terminal_and_those_beyond_the_first_are_counted(width: int) -> None:
    cards = [card(number, text="漢字 " * 30, line="writing, 120 tokens so far " * 4) for number in range(1, 8)]
    cards.append(card(8, status="completed", text="Ended"))

    lines = card_lines(cards, {}, spinner="x", width=width)

    assert max(line.cell_len for line in lines) <= width
    assert "and 3 more"[: width - 3] in lines[-1].plain
    assert not any("Ended" in line.plain for line in lines)


def test_what_is_typed_is_kept_for_its_owner_alone_and_only_the_latest_of_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "chat_history"
    history = TypedHistory(path, most=3)
    for text in ("one", "two\nlines", "three", "four", "five", "six", "seven"):
        history.append_string(text)
    with path.open("a") as file:
        file.write('17\n"cut o\n')  # neither is a text
    path.chmod(0o644)

    again = TypedHistory(path, most=4)
    assert list(again.load_history_strings()) == ["seven", "six"]
    assert len(path.read_text().splitlines()) == 4
    again.append_string("eight\nlines")
    assert list(TypedHistory(path, most=4).load_history_strings()) == ["eight\nlines", "seven"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_history_that_cannot_be_kept_says_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = TypedHistory(tmp_path / "file" / "chat_history")

    assert list(history.load_history_strings()) == []
    history.append_string("Hello")

    assert history.get_strings() == ["Hello"]
    assert history.unkept is not None
    assert "not kept for later" in history.unkept


@pytest.mark.parametrize(
    ("text", "completions"),
    [
        ("/h", ["/help", "/history"]),
        ("/qu", ["/quit"]),
        ("/model ", ["small", "large"]),
        ("/model l", ["large"]),
        ("/save no", ["tes.md"]),
        ("//h", []),
        ("Hello /h", []),
        ("/h\n", []),
    ],
)
def test_commands_their_sizes_and_files_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, completions: list[str]
) -> None:
    (tmp_path / "notes.md").write_text("")
    monkeypatch.chdir(tmp_path)

    found = CommandCompleter().get_completions(Document(text), CompleteEvent())

    assert [completion.text for completion in found] == completions


def test_the_answer_to_a_message_that_broke_off_is_found_among_the_turns() -> None:
    sent = Sent("Again", 17.0, after=1)
    earlier = [turn(0, "user", "Again"), turn(1, "assistant", "Old.")]

    assert answer_among(earlier, sent) is None
    assert answer_among([*earlier, turn(2, "user", "Again")], sent) is None
    after = [*earlier, turn(2, "user", "Again"), turn(3, "assistant", "Done.", "result"), turn(4, "assistant", "New.")]
    assert answer_among(after, sent) == after[-1]


def test_the_answer_to_a_message_is_told_from_that_to_another_that_was_said_beside_it() -> None:
    both = [turn(0, "user", "Write", "task"), turn(1, "user", "How far?", "status")]
    handed, far = turn(2, "assistant", "On it", "hand_off"), turn(3, "assistant", "Far", "status")
    for answers in ([handed], [far], [handed, far], [far, handed]):
        assert answer_among([*both, *answers], Sent("Write", 1.0, -1)) == (handed if handed in answers else None)
        assert answer_among([*both, *answers], Sent("How far?", 1.0, -1)) == (far if far in answers else None)
    tasks = [turn(0, "user", "Write", "task"), turn(1, "user", "Make", "task"), {**handed, "task_id": "1"}]
    assert answer_among(tasks, Sent("Make", 1.0, -1)) is None  # the servers know whose task it is
