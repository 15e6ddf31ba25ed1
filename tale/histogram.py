"""Log-spaced histograms: small, mergeable, and good for percentiles with a known error. Pure.

A value x falls into the bucket floor(log(x) / log(GROWTH)); a percentile is told as the geometric middle of its bucket,
so it is off by at most `ERROR` of the true value (for values from SMALLEST to LARGEST; others count as the nearer one).
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

GROWTH: Final = 1.04  # of a bucket's bounds
ERROR: Final = math.sqrt(GROWTH) - 1  # largest relative error of a percentile: just below 2 %
SMALLEST, LARGEST = 1e-6, 1e15
ROUNDING: Final = 1e-9  # 0.07 of 100 are 7, which is not what multiplying gives

Histogram = Mapping[int, int]  # how many values there are in each bucket


def bucket_of(value: float) -> int:
    """The bucket of a value.

    >>> bucket_of(1.0), bucket_of(1.05), bucket_of(0.0) == bucket_of(SMALLEST)
    (0, 1, True)
    >>> bucket_of(math.inf) == bucket_of(LARGEST)  # tokens a second of an engine that took no time
    True
    """
    return math.floor(math.log(min(max(value, SMALLEST), LARGEST)) / math.log(GROWTH))


def histogram_of(values: Iterable[float]) -> Histogram:
    """The histogram of finite values."""
    return Counter(map(bucket_of, values))


def merged_histogram(histograms: Iterable[Histogram]) -> Histogram:
    """The histogram of all values together: exactly that which all of them had made at once."""
    total: Counter[int] = Counter()
    for each in histograms:
        total.update(each)
    return total


def percentile(histogram: Histogram, share: float) -> float | None:
    """The value below or at which that share (0 to 1) of all values lies, by nearest rank; None where there are none.

    >>> percentile(histogram_of([1.0, 2.0, 3.0]), 0.5)
    1.9864765274757066
    """
    rank = max(1, math.ceil(share * sum(histogram.values()) - ROUNDING))
    for bucket in sorted(histogram):
        rank -= histogram[bucket]
        if rank <= 0:
            return GROWTH ** (bucket + 0.5)
    return None


def encoded(histogram: Histogram) -> str:
    """The histogram as text.

    >>> encoded({3: 2, -1: 1})
    '-1:1 3:2'
    """
    return " ".join(f"{bucket}:{histogram[bucket]}" for bucket in sorted(histogram))


def decoded(text: str) -> Histogram:
    """The histogram that a text tells; raises ValueError for another text.

    >>> decoded("-1:1 3:2") == {3: 2, -1: 1}
    True
    """
    pairs = (pair.split(":") for pair in text.split())
    return {int(bucket): int(count) for bucket, count in pairs}
