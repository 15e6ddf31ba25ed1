"""What a control message orders: stop, pause, resume, retry, reorder, another model, a fresh start, a wish; pure."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from tale.conversation.phrases import alternatives, has, plain, says
from tale.conversation.references import CLAUSE
from tale.records import Action, Detection

SURE: Final = 0.55  # of an action, from which on it is done and not asked about
SURE_CLEAR: Final = 0.9  # of forgetting all that was said
OTHER_SIZE: Final[dict[Action, Action]] = {"small_model": "large_model", "large_model": "small_model"}
NOT_USED: Final = re.compile(
    r"\b(?:don't|dont|do not|never|stop|not|no more|nicht|ne|no|non|não) (?:\w+ )?(?:us|tak|nehm|nutz|nimm|prend)\w*"
)

# The first that is found.
IN_ORDER: Final[tuple[Action, ...]] = ("retry", "resume", "pause", "stop", "last", "first", "wish")
ANY_MORE: Final = re.compile(r"\b(?:any ?more|always|sempre|immer)\b")  # "I don't need it any more" is no wish
TOKENS: Final = re.compile(r"(?<!\d)(\d[\d.,]*+)\s*+(k?)\s*+tok")
LIMIT: Final = re.compile(rf"(?:\b[^\W\d]+\s)?{TOKENS.pattern}\w*")


@dataclass(frozen=True, slots=True)
class Order:
    """What is ordered, "unclear" where that cannot be told; `max_output_tokens` where a retry names a limit."""

    action: Action | Literal["unclear"]
    max_output_tokens: int | None = None


def order_told(text: str, detection: Detection) -> Order:
    """The order that a message gives by what was detected in it, and by its words where nothing was."""
    if detection.source != "model" or detection.action is None:
        return order_of(text)
    words, action, sure = plain(text), detection.action, detection.action_confidence or 0.0
    if has("not_stop", words) or sure < (SURE_CLEAR if action == "clear" and not has("clear", words) else SURE):
        return Order("unclear")
    is_habit = _habit().search(words) is not None or has("standing", ANY_MORE.sub(" ", words))
    if action in ("stop", "wish") and _begins_with_stop().match(words):
        return Order("wish" if is_habit else "stop")
    if action == "stop" and is_habit:
        return Order("wish")
    if action in OTHER_SIZE and _is_refused(text):
        return Order(OTHER_SIZE[action])
    return _order(action, text)


def order_of(text: str) -> Order:
    """The order that a control message gives by its words alone.

    >>> order_of("cancel the second one").action, order_of("Bitte pausieren").action, order_of("shorter answers").action
    ('stop', 'pause', 'wish')
    >>> order_of("run 12 again with 4000 tokens")
    Order(action='retry', max_output_tokens=4000)
    """
    words = plain(text)
    if has("not_stop", words):
        return Order("unclear")
    if _begins_with_stop().match(words):  # it decides: "stop waiting", "cancel it, it takes longer than I thought"
        return Order("wish" if _habit().search(words) or has("standing", words) else "stop")
    if size := next((size for size in ("small", "large") if _of_size(size).search(words)), None):
        action: Action = "small_model" if size == "small" else "large_model"
        return Order(OTHER_SIZE[action] if _is_refused(text) else action)
    if has("standing", words):  # before the verbs: "from now on stop at ten lines"
        return Order("wish")
    if has("clear", words) or says("clear_alone", text):
        return Order("clear")
    if has("not_on", words):
        return Order("pause" if has("pause", words) else "stop")
    return next((_order(action, text) for action in IN_ORDER if has(action, words)), Order("unclear"))


def _is_refused(text: str) -> bool:
    """Whether it is said what is not to be used: "don't use the big model", but not "no, use the big model"."""
    return any(NOT_USED.search(plain(clause)) for clause in CLAUSE.split(text))


def _order(action: Action, text: str) -> Order:
    return Order(action, _tokens(text) if action == "retry" else None)


@cache
def _begins_with_stop() -> re.Pattern[str]:
    return re.compile(rf"(?:(?:{alternatives('lead_in')}) )*(?:{alternatives('stop_at_once')})")


@cache
def _habit() -> re.Pattern[str]:
    return re.compile(rf"(?:{alternatives('stop_at_once')}|quit) (?:{alternatives('habit')})")


@cache
def _of_size(size: str) -> re.Pattern[str]:
    named, model, use = alternatives(size), alternatives("model"), alternatives("use")
    chosen = rf"(?:{use}) (?:\w+ ){{0,3}}(?:{named}) ones?\b"
    return re.compile(rf"(?:{named}) ?(?:{model})|(?:{model}) (?:mas |plus |piu )?(?:{named})|{chosen}")


def without_limit(text: str) -> str:
    """An order without the limit that it names, whose number is no task's.

    >>> without_limit("retry 2 with 4000 tokens"), without_limit("again")
    ('retry 2 ', 'again')
    """
    return LIMIT.sub("", text.lower())


def _tokens(text: str) -> int | None:
    found = TOKENS.search(text.lower())
    if found is None:
        return None
    return int(re.sub(r"\D", "", found[1])) * (1_000 if found[2] else 1) or None
