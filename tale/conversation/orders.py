"""What a control message orders: stop, pause, resume, retry, reorder, another model, a fresh start, a wish; pure."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from tale.conversation.phrases import alternatives, has, plain

Action = Literal["stop", "pause", "resume", "retry", "first", "small_model", "large_model", "clear", "wish"]

# The first that is found. "From now on" goes before the verbs: "from now on stop apologising" is a wish.
IN_ORDER: Final[tuple[tuple[Action, str], ...]] = (
    ("wish", "from_now_on"),
    ("retry", "retry"),
    ("resume", "resume"),
    ("pause", "pause"),
    ("stop", "stop"),
    ("first", "first"),
)
TOKENS: Final = re.compile(r"(\d[\d.,]*)\s*(k?)\s*tok")


@dataclass(frozen=True, slots=True)
class Order:
    """What is ordered; `max_output_tokens` where a retry names a limit of its own."""

    action: Action
    max_output_tokens: int | None = None


def order_of(text: str) -> Order:
    """The order that a control message gives; a wish for what comes where no verb tells otherwise.

    >>> order_of("cancel the second one").action, order_of("Bitte pausieren").action, order_of("shorter answers").action
    ('stop', 'pause', 'wish')
    >>> order_of("run 12 again with 4000 tokens")
    Order(action='retry', max_output_tokens=4000)
    """
    words = plain(text)
    if verb := _begins_with_stop().match(words):  # it decides: "stop waiting", but not "stop … in every message"
        return Order("wish" if has("wish", words[verb.end() :]) else "stop")
    if has("clear", words):
        return Order("clear")
    if size := _model_size(words):
        return Order("small_model" if size == "small" else "large_model")
    for action, meaning in IN_ORDER:
        if has(meaning, words):
            return Order(action, _tokens(text) if action == "retry" else None)
    return Order("wish")


@cache
def _begins_with_stop() -> re.Pattern[str]:
    return re.compile(rf"(?:{alternatives('stop_at_once')})")


@cache
def _of_size(size: str) -> re.Pattern[str]:
    named, model = alternatives(size), alternatives("model")
    return re.compile(rf"(?:{named}) ?(?:{model})|(?:{model}) (?:más |plus |più )?(?:{named})")


def _model_size(words: str) -> str | None:
    return next((size for size in ("small", "large") if _of_size(size).search(words)), None)


def _tokens(text: str) -> int | None:
    found = TOKENS.search(text.lower())
    if found is None:
        return None
    return int(re.sub(r"\D", "", found[1])) * (1_000 if found[2] else 1) or None
