"""Terms that are kept in few bytes."""

from hypothesis import given
from hypothesis import strategies as st

from tale.learning.terms import Terms


@given(st.lists(st.text(), unique=True), st.lists(st.text()))
def test_terms_stand_where_they_stood(terms: list[str], others: list[str]) -> None:
    kept = Terms(terms)
    assert list(kept) == terms
    assert len(kept) == len(terms)
    assert kept.places_of(terms) == list(range(len(terms)))
    assert kept.places_of(others) == [terms.index(each) if each in terms else None for each in others]


class LikeA(str):
    """A term whose hash is that of "a"."""

    def __hash__(self) -> int:
        return hash("a")


def test_another_term_of_the_same_hash_is_not_found() -> None:
    assert Terms(["a", "b"]).places_of([LikeA("c"), LikeA("a")]) == [None, 0]


def test_halves_of_characters_are_terms_like_others() -> None:
    assert list(Terms(["\ud800", "b"])) == ["\ud800", "b"]
