"""Histograms merge without loss and tell percentiles within their stated error."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tale.histogram import ERROR, SMALLEST, bucket_of, decoded, encoded, histogram_of, merged_histogram, percentile

values = st.lists(st.floats(SMALLEST, 1e6), min_size=1, max_size=50)
ROUNDING = 1e-9


@given(values, st.floats(0, 1))
def test_a_percentile_is_within_the_error_of_the_true_one(drawn: list[float], share: float) -> None:
    true = sorted(drawn)[max(1, math.ceil(share * len(drawn) - ROUNDING)) - 1]
    told = percentile(histogram_of(drawn), share)
    assert told is not None
    assert abs(told / true - 1) <= ERROR + ROUNDING


def test_the_error_is_below_two_percent() -> None:
    assert ERROR < 0.02


@given(st.lists(values, max_size=4))
def test_merging_is_as_good_as_counting_all_at_once(parts: list[list[float]]) -> None:
    together = histogram_of([value for part in parts for value in part])
    assert merged_histogram(histogram_of(part) for part in parts) == together


@given(st.dictionaries(st.integers(-500, 500), st.integers(1, 10**9)))
def test_a_histogram_survives_being_written(counts: dict[int, int]) -> None:
    assert decoded(encoded(counts)) == counts


@given(st.floats(SMALLEST, 1e6), st.floats(SMALLEST, 1e6))
def test_larger_values_are_never_in_smaller_buckets(one: float, other: float) -> None:
    assert (bucket_of(one) <= bucket_of(other)) or one > other


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-30])
def test_what_is_too_small_to_tell_counts_as_the_smallest(value: float) -> None:
    assert bucket_of(value) == bucket_of(SMALLEST)


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile({}, 0.5) is None
    assert percentile(histogram_of([]), 0.99) is None


@pytest.mark.parametrize("text", ["1", "a:b", "1:2:3"])
def test_another_text_is_no_histogram(text: str) -> None:
    with pytest.raises(ValueError):
        decoded(text)
