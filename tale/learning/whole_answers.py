"""Of which answers the length is known: of those that ended by themselves, and not where somebody's limit cut them."""

from typing import Final

CUT: Final = "length"  # the finish reason of an answer that reached its limit
ENDLESS_TOKENS: Final = 2_048  # of an answer that is as good as endless, whatever its limit


def is_whole(output_tokens: int, finish_reason: str | None) -> bool:
    """Whether an answer of so many tokens is all that there was to be written.

    >>> is_whole(16, "stop"), is_whole(16, "length"), is_whole(2_048, "length"), is_whole(16, None)
    (True, False, True, True)
    """
    return finish_reason != CUT or output_tokens >= ENDLESS_TOKENS
