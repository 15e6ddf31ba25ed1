"""Checks of what comes in from outside: each returns the clean value or raises ValidationException."""

import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final, cast

from tale.exceptions import ValidationException

MAX_TASK_CHARACTERS: Final = 10_000
PORT_RANGE: Final = (1024, 65_535)
TIMEOUT_RANGE_S: Final = (1, 3_600)
UUID_VERSION: Final = 4
PRINTABLE_BITS: Final = 64
UNITS_S: Final = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
LONGEST_AGE_S: Final = 10_000 * UNITS_S["d"]


def validate_task_text(value: object) -> str:
    """Return the text without surrounding white space; 1 to 10,000 characters that can be stored as UTF-8."""
    if not isinstance(value, str):
        raise ValidationException(f"The task text must be a string, not {_kind(value)}.")
    text = value.strip()
    if not text:
        raise ValidationException('The task text is empty; say what is to be done, as in tale submit "Write a haiku".')
    if len(text) > MAX_TASK_CHARACTERS:
        raise ValidationException(
            f"The task text has {len(text):,} characters; at most {MAX_TASK_CHARACTERS:,} are accepted. Shorten it.",
            {"characters": len(text), "limit": MAX_TASK_CHARACTERS},
        )
    if "\x00" in text or not _is_encodable(text):
        raise ValidationException("The task text holds bytes that are not valid UTF-8 text; send plain UTF-8.")
    return text


def validate_task_id(value: object) -> str:
    """Return the id in its canonical lower-case form; it must be a UUID of version 4."""
    hint = "`tale list` shows the ids there are"
    if not isinstance(value, str):
        raise ValidationException(f"A task id must be a string, not {_kind(value)}; {hint}.")
    text = value.strip().lower()
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.version != UUID_VERSION or str(parsed) != text:
        raise ValidationException(f"{value[:80]!r} is not a task id (a UUID of version 4); {hint}.")
    return text


def validate_port_number(value: object) -> int:
    """Return a TCP port an ordinary user may bind: an int from 1024 to 65535."""
    return _int_in_range(value, "port", *PORT_RANGE)


def validate_timeout_seconds(value: object) -> int:
    """Return a time limit in whole seconds, from 1 to 3600."""
    return _int_in_range(value, "timeout in seconds", *TIMEOUT_RANGE_S)


def validate_age(value: str) -> float:
    """Return an age in seconds, given as a whole number and a unit.

    >>> validate_age("90d"), validate_age("36h")
    (7776000.0, 129600.0)
    """
    found = re.fullmatch(r"(\d{1,9})([mhdw])", value.strip().lower())
    if found is None or (age_s := float(int(found[1]) * UNITS_S[found[2]])) > LONGEST_AGE_S:
        raise ValidationException(f"{value[:40]!r} is no age; use a number and a unit, such as 90d, 36h, 15m or 2w.")
    return age_s


def validate_day(value: str, now: float) -> tuple[float, float]:
    """Return the beginning and the end of a day in this machine's time zone, in Unix seconds.

    The day is given as YYYY-MM-DD, `today` or `yesterday`.
    """
    named = {"today": 0, "yesterday": 1}.get(value.strip().lower())
    try:
        day = date.fromisoformat(value.strip()) if named is None else date.fromtimestamp(now) - timedelta(days=named)
        begin, end = (datetime(each.year, each.month, each.day) for each in (day, day + timedelta(days=1)))
        return begin.timestamp(), end.timestamp()
    except (ValueError, OverflowError) as error:
        raise ValidationException(f"{value[:40]!r} is no day; use YYYY-MM-DD, today or yesterday.") from error


def validate_moment(value: str, now: float) -> float:
    """Return a point in time in Unix seconds, given as a date, a date and time (ISO 8601), or an age such as 24h.

    Without a time zone it is this machine's.
    """
    text = value.strip()
    if re.fullmatch(r"\d+[a-zA-Z]", text):
        return now - validate_age(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValidationException(
            f"{value[:40]!r} is no point in time; use 2026-11-24, 2026-11-24T10:30 or an age such as 24h."
        ) from error


def validate_json_request(data: object, required_keys: Iterable[str]) -> dict[str, Any]:
    """Return `data` as a dict that holds every required key with a value that is not null."""
    if not isinstance(data, Mapping):
        raise ValidationException(f"The request must be a JSON object, not {_kind(data)}.")
    mapping = cast("Mapping[object, Any]", data)
    if wrong := [_kind(key) for key in mapping if not isinstance(key, str)]:
        raise ValidationException(f"The request's keys must be strings, not {wrong[0]}.")
    request = cast("dict[str, Any]", dict(mapping))
    missing = [key for key in required_keys if request.get(key) is None]
    if missing:
        raise ValidationException(f"The request lacks {', '.join(missing)}; add it.", {"missing": missing})
    return request


def _int_in_range(value: object, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValidationException(f"The {name} must be a whole number, not {_kind(value)}.")
    if not low <= value <= high:
        # Python refuses to print integers of thousands of digits, so a huge one is described instead.
        shown = str(value) if value.bit_length() <= PRINTABLE_BITS else "with that many digits"
        raise ValidationException(f"The {name} {shown} is out of range; use {low} to {high}.", {"value": shown})
    return int(value)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
