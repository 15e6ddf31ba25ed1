"""What a budget is: of which calls, how many tokens, for how long; and what is said of it. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tale.exceptions import BudgetException, ValidationException
from tale.records import ModelCall

Of = Literal["all", "model", "key"]
Period = Literal["day", "week", "month"]
Kind = Literal["soft", "hard"]

EMBED: Final = "embed"  # the operation that reads and writes nothing
PROCESS_DIED: Final = "ProcessDied"
LONGEST_CALL_S: Final = 7_200.0  # no call takes as long; what is older is of a host that died for good
MAX_LIMIT_TOKENS: Final = 10**15
DEFAULT_ALERT_PERCENT: Final = 80
WHOLE_PERCENT: Final = 100
MAX_NAME_CHARACTERS: Final = 200
NUMBER_FORM: Final = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)([kKmM]?)")
MULTIPLES: Final = {"": 1, "k": 1_000, "m": 1_000_000}
ZONE_FORM: Final = re.compile(r"[A-Za-z][\w+-]*(?:/[\w+-]+)*")


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens, read and written together, that calls begun in one period may use.

    `name` is that of the model or the key; empty where all calls count. Periods begin at midnight in `zone`, weeks on
    Monday, months on the first. A hard budget refuses calls, a soft one alerts; both alert at `alert_percent` and 100.
    """

    id: str
    scope: Of
    name: str
    period: Period
    kind: Kind
    limit_tokens: int
    alert_percent: int
    zone: str
    created_at: float

    @property
    def title(self) -> str:
        """The budget in words.

        >>> Budget("a", "key", "ci", "day", "hard", 5000, 80, "UTC", 0.0).title
        "the hard budget of 5,000 tokens a day for key 'ci'"
        """
        of = "all calls" if self.scope == "all" else f"{self.scope} {self.name!r}"
        return f"the {self.kind} budget of {self.limit_tokens:,} tokens a {self.period} for {of}"

    def covers(self, *, model: str | None, key_name: str | None) -> bool:
        """Whether the tokens of a call by that model, asked for with that key, count."""
        match self.scope:
            case "all":
                return True
            case "model":
                return self.name == model
            case "key":
                return self.name == key_name

    def counts(self, call: ModelCall) -> bool:
        """Whether a call's tokens count."""
        return self.covers(model=call.model, key_name=call.key_name)

    def span(self, at: float) -> tuple[float, float]:
        """The period around a point in time: its beginning, and its end, which belongs to the next. Unix seconds.

        >>> Budget("a", "all", "", "week", "soft", 1, 80, "UTC", 0.0).span(1_800_000_000.0)
        (1799625600.0, 1800230400.0)
        """
        zone = zone_of(self.zone)
        day = datetime.fromtimestamp(at, zone).date()
        match self.period:
            case "day":
                first, following = day, day + timedelta(days=1)
            case "week":
                first = day - timedelta(days=day.weekday())
                following = first + timedelta(days=7)
            case "month":
                first = day.replace(day=1)
                following = (first + timedelta(days=32)).replace(day=1)
        return _midnight(first, zone), _midnight(following, zone)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands in one period: tokens that engines reported, that are assumed of calls on which none
    reported, and that calls under way hold; and the number of ended calls of which not all tokens were reported.
    """

    budget: Budget
    starts_at: float
    resets_at: float
    reported_tokens: int = 0
    assumed_tokens: int = 0
    reserved_tokens: int = 0
    unreported: int = 0

    @property
    def used_tokens(self) -> int:
        """What counts as used."""
        return self.reported_tokens + self.assumed_tokens

    @property
    def left_tokens(self) -> int:
        """What a call may still take."""
        return max(0, self.budget.limit_tokens - self.used_tokens - self.reserved_tokens)

    def reaches(self, percent: int) -> bool:
        """Whether so much of the budget is used."""
        return self.used_tokens * WHOLE_PERCENT >= percent * self.budget.limit_tokens


@dataclass(frozen=True, slots=True)
class Alert:
    """So much of a budget is used: told once a period for each threshold. Times are Unix seconds."""

    id: str
    created_at: float
    budget_id: str
    scope: Of
    name: str
    period: Period
    kind: Kind
    starts_at: float
    resets_at: float
    percent: int
    used_tokens: int
    limit_tokens: int
    delivered_at: float | None = None  # to the webhook
    acknowledged_at: float | None = None

    @property
    def text(self) -> str:
        """The alert in one sentence."""
        of = "all calls" if self.scope == "all" else f"{self.scope} {self.name!r}"
        return (
            f"{self.used_tokens:,} of {self.limit_tokens:,} tokens a {self.period} for {of} are used "
            f"({self.kind} budget, {self.percent} %); it is reset at {moment(self.resets_at)}."
        )


def parsed_budget(
    budget_id: str,
    limit_tokens: int,
    *,
    scope: Of = "all",
    name: str = "",
    period: Period = "day",
    kind: Kind = "hard",
    alert_percent: int = DEFAULT_ALERT_PERCENT,
    zone: str = "UTC",
    now: float,
) -> Budget:
    """The budget that people ask for; raises ValidationException for one that cannot be."""
    if not 1 <= limit_tokens <= MAX_LIMIT_TOKENS:
        raise ValidationException(f"A budget must have from 1 to {MAX_LIMIT_TOKENS:,} tokens, not {limit_tokens:,}.")
    if not 1 <= alert_percent <= WHOLE_PERCENT:
        raise ValidationException(f"The percentage of an alert must be from 1 to 100, not {alert_percent}.")
    if scope == "all" and name:
        raise ValidationException("A budget for all calls has no name; say whether it is a model's or a key's.")
    if scope != "all" and not (0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable()):
        raise ValidationException(f"Name the {scope} whose budget it is, with 1 to {MAX_NAME_CHARACTERS} characters.")
    zone_of(zone)
    return Budget(budget_id, scope, name, period, kind, limit_tokens, alert_percent, zone, now)


def parsed_tokens(text: str) -> int:
    """The number of tokens that people write; raises ValidationException.

    >>> parsed_tokens("200000"), parsed_tokens("200k"), parsed_tokens("1.5M"), parsed_tokens("1,000")
    (200000, 200000, 1500000, 1000)
    """
    found = NUMBER_FORM.fullmatch(text.strip().replace(",", "").replace("_", ""))
    if found is None:
        raise ValidationException(f"{text[:40]!r} is no number of tokens; use 200000, 200k or 2M.")
    return round(float(found[1]) * MULTIPLES[found[2].lower()])


def zone_of(name: str) -> tzinfo:
    """The time zone of that name, UTC or one of the IANA's; raises ValidationException."""
    if name == "UTC":
        return UTC
    try:
        if ZONE_FORM.fullmatch(name):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:
        raise _unknown_zone(name) from error
    raise _unknown_zone(name)


def known_tokens(call: ModelCall) -> int:
    """The tokens of a call as far as its engine reported them."""
    return (call.input_tokens or 0) + (call.output_tokens or 0)


def is_unreported(call: ModelCall) -> bool:
    """Whether an engine was at work, or may have been, and did not report all tokens of an ended call."""
    was_asked = call.queue_s is not None or call.error_class == PROCESS_DIED
    lacks_output = call.output_tokens is None and call.operation != EMBED
    return was_asked and (call.input_tokens is None or lacks_output)


def refusal(standing: Standing, tokens: int, *, now: float) -> BudgetException:
    """Why a call that may take so many tokens is not made."""
    budget = standing.budget
    used, limit, reset = f"{standing.used_tokens:,}", f"{budget.limit_tokens:,}", moment(standing.resets_at)
    if not standing.left_tokens and standing.used_tokens >= budget.limit_tokens:
        why = f"{_began(budget.title)} is used up ({used} of {limit})"
    else:
        held = f", {standing.reserved_tokens:,} are held by calls under way" if standing.reserved_tokens else ""
        room = f"has no room for a call of up to {tokens:,} tokens"
        why = f"{_began(budget.title)} {room}: {used} of {limit} are used{held}"
    context: Mapping[str, object] = {
        "budget": budget.id,
        "used_tokens": standing.used_tokens,
        "limit_tokens": budget.limit_tokens,
        "left_tokens": standing.left_tokens,
        "resets_at": standing.resets_at,
        "retry_after_s": max(1, round(standing.resets_at - now + 0.5)),
    }
    return BudgetException(f"{why}; it is reset at {reset}.", context)


def moment(at: float) -> str:
    """A point in time to the minute.

    >>> moment(1_800_000_000.0)
    '2027-01-15 08:00 UTC'
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _began(words: str) -> str:
    return words[0].upper() + words[1:]


def _midnight(day: date, zone: tzinfo) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def _unknown_zone(name: str) -> ValidationException:
    return ValidationException(f"{name[:40]!r} is no time zone; use UTC or a name such as Europe/Berlin.")
