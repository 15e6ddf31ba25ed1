"""Texts of attempts grow piece by piece, whatever order, repetition or gap the pieces come in."""

from hypothesis import given
from hypothesis import strategies as st

from tale.orchestration.task_texts import KEPT_TEXTS, TaskTexts, TextPiece


def known(texts: TaskTexts, task_id: str = "t") -> tuple[int, str] | None:
    piece = texts.after(task_id, 0, 0)
    return piece and (piece.attempt, piece.text)


async def test_a_follower_is_woken_by_what_is_new_and_reads_on_from_where_he_is() -> None:
    texts = TaskTexts()
    with texts.follow("t") as changed:
        texts.append("t", 1, "Hello")
        assert changed.is_set()
        changed.clear()
        assert texts.add(TextPiece("t", 1, 0, "Hello"))  # a second time, from another process
        assert not changed.is_set()
        texts.append("t", 1, " world")
        assert texts.after("t", 1, 5) == TextPiece("t", 1, 5, " world")
        assert texts.after("t", 1, 11) is None


def test_a_piece_whose_beginning_is_missing_is_refused() -> None:
    texts = TaskTexts()
    assert not texts.add(TextPiece("t", 1, 3, "lo"))
    assert texts.add(TextPiece("t", 1, 0, "He"))
    assert not texts.add(TextPiece("t", 1, 3, "lo"))
    assert texts.add(TextPiece("t", 1, 1, "ello"))
    assert known(texts) == (1, "Hello")


def test_a_new_attempt_begins_anew_and_what_comes_late_of_the_old_one_changes_nothing() -> None:
    texts = TaskTexts()
    texts.append("t", 1, "first")
    texts.append("t", 2, "second")
    assert texts.add(TextPiece("t", 1, 5, " try"))
    assert known(texts) == (2, "second")
    assert texts.after("t", 1, 3) == TextPiece("t", 2, 0, "second")


def test_what_ended_is_forgotten_and_what_nobody_ends_is_not_kept_for_ever() -> None:
    texts = TaskTexts()
    texts.append("t", 1, "x")
    texts.end("t")
    assert known(texts) is None
    for number in range(KEPT_TEXTS + 1):
        texts.append(str(number), 1, "x")
    assert known(texts, "0") is None
    assert known(texts, str(KEPT_TEXTS)) == (1, "x")


@given(st.text(min_size=1, max_size=40), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
def test_pieces_in_any_cut_and_repetition_make_the_text_without_a_gap(text: str, cuts: list[tuple[int, int]]) -> None:
    texts, length = TaskTexts(), 0
    for start, size in cuts:
        piece = text[start : start + size]
        assert texts.add(TextPiece("t", 1, start, piece)) == (start <= length)
        if start <= length:
            length = max(length, start + len(piece))
    assert known(texts) == ((1, text[:length]) if length else None)
