"""How complex a request is, by what came of requests like it: simple, medium or complex. Pure.

The outcome defines the class, not the look of the text:
- simple: the small model succeeds, and the answer is not long;
- medium: only the large model succeeds, or the small one does with a long answer;
- complex: neither succeeds.
"Long" is above LONG_TOKENS.
"""

import math
from collections.abc import Mapping
from typing import Final, get_args

from tale.predictions import Complexity

CLASSES: Final[tuple[Complexity, ...]] = get_args(Complexity)
LONG_TOKENS: Final = 1_000
MEAN_TO_DEVIATION: Final = math.sqrt(math.pi / 2)  # of errors that are distributed normally


def complexity_shares(
    small_ok: float | None, large_ok: float | None, *, log_tokens: float, log_error: float
) -> dict[str, float]:
    """The probabilities of the classes from those that the models succeed; none where one is not known.

    `log_tokens` is the expected log(1 + tokens) of the answer, and `log_error` the mean distance from it; errors are
    taken for normal. What the heads of success and the lengths know is calibrated, so nothing has to be learned here.
    """
    if small_ok is None or large_ok is None:
        return {}
    beyond = (math.log1p(LONG_TOKENS) - log_tokens) / max(log_error * MEAN_TO_DEVIATION, 1e-6)
    is_long = 0.5 * math.erfc(beyond / math.sqrt(2))
    simple = small_ok * (1 - is_long)
    neither = (1 - small_ok) * (1 - large_ok)
    shares = zip(CLASSES, (simple, 1 - simple - neither, neither), strict=True)
    return {name: round(share, 4) for name, share in shares}


def likeliest(shares: Mapping[str, float]) -> Complexity | None:
    """The class with the largest share; None where there are none.

    >>> likeliest({"simple": 0.2, "medium": 0.7, "complex": 0.1}), likeliest({})
    ('medium', None)
    """
    return next((name for name in CLASSES if shares and shares[name] == max(shares.values())), None)
