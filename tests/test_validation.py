"""What comes in from outside is accepted clean or refused in a sentence that says what would be right."""

import contextlib
import json
import uuid
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tale.exceptions import ValidationException
from tale.validation import (
    MAX_TASK_CHARACTERS,
    validate_json_request,
    validate_port_number,
    validate_task_id,
    validate_task_text,
    validate_timeout_seconds,
)

TASK_ID = "3f2b8c1e-9d4a-4b6f-8e21-0a1b2c3d4e5f"


class Port(IntEnum):
    PROXY = 9000


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Write a haiku", "Write a haiku"),
        ("  \n Write a haiku\t\n", "Write a haiku"),
        ("x", "x"),
        ("x" * MAX_TASK_CHARACTERS, "x" * MAX_TASK_CHARACTERS),
        (" " * 50 + "x" * MAX_TASK_CHARACTERS, "x" * MAX_TASK_CHARACTERS),
        ("Schreib ein Gedicht über Bäume 🌳", "Schreib ein Gedicht über Bäume 🌳"),
        ("两行\n文字", "两行\n文字"),
    ],
)
def test_a_good_task_text_comes_back_stripped(text: str, clean: str):
    assert validate_task_text(text) == clean


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "must be a string, not null"),
        (7, "must be a string, not int"),
        (True, "must be a string, not bool"),
        (b"bytes", "must be a string, not bytes"),
        (["a"], "must be a string, not list"),
        ("", "is empty; say what is to be done"),
        (" \n\t\u3000", "is empty; say what is to be done"),
        ("x" * (MAX_TASK_CHARACTERS + 1), "has 10,001 characters; at most 10,000 are accepted"),
        ("x" * 20_000, "has 20,000 characters; at most 10,000 are accepted"),
        ("nul\x00byte", "not valid UTF-8"),
        ("lone surrogate \udc80", "not valid UTF-8"),
    ],
)
def test_a_bad_task_text_is_refused(value: object, complaint: str):
    with pytest.raises(ValidationException, match=complaint):
        validate_task_text(value)


@pytest.mark.parametrize("value", [TASK_ID, TASK_ID.upper(), f"  {TASK_ID}\n"])
def test_a_good_task_id_comes_back_in_its_canonical_form(value: str):
    assert validate_task_id(value) == TASK_ID


@pytest.mark.parametrize(
    "value",
    [
        "",
        "12",
        "not-a-uuid",
        TASK_ID[:-1],
        TASK_ID + "0",
        TASK_ID.replace("-", ""),
        f"{{{TASK_ID}}}",
        f"urn:uuid:{TASK_ID}",
        TASK_ID.replace("3", "３"),  # noqa: RUF001 - a full-width digit is the point
        str(uuid.UUID(int=0)),
        str(uuid.UUID(TASK_ID, version=1)),
        str(uuid.UUID(TASK_ID, version=5)),
        "x" * 5_000,
    ],
)
def test_a_string_that_is_no_uuid4_is_refused(value: str):
    with pytest.raises(ValidationException, match=r"is not a task id .*`tale list`") as caught:
        validate_task_id(value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("value", [None, 5, True, uuid.UUID(TASK_ID), b"x"])
def test_a_task_id_of_the_wrong_type_is_refused(value: object):
    with pytest.raises(ValidationException, match="must be a string"):
        validate_task_id(value)


@pytest.mark.parametrize(
    ("check", "low", "high"), [(validate_port_number, 1_024, 65_535), (validate_timeout_seconds, 1, 3_600)]
)
def test_whole_numbers_are_accepted_from_bound_to_bound(check: Callable[[object], int], low: int, high: int):
    assert [check(low), check(high)] == [low, high]
    for value in (low - 1, high + 1, -high, 10**30, -(10**5_000)):
        with pytest.raises(ValidationException, match=f"out of range; use {low} to {high}") as caught:
            check(value)
        assert len(str(caught.value)) < 250
    for wrong in (None, True, False, 2_000.0, "2000", [2_000], b"2000", float("nan")):
        with pytest.raises(ValidationException, match="must be a whole number"):
            check(wrong)


def test_a_number_comes_back_as_a_plain_int():
    assert type(validate_port_number(Port.PROXY)) is int


def test_a_request_with_all_its_keys_comes_back_as_a_dict():
    assert validate_json_request({"text": "x", "n": 0, "flag": False}, ["text", "n", "flag"]) == {
        "text": "x",
        "n": 0,
        "flag": False,
    }
    assert validate_json_request({}, []) == {}


@pytest.mark.parametrize("data", [None, [], "{}", b"{}", 5, True, [("text", "x")]])
def test_a_request_that_is_no_object_is_refused(data: object):
    with pytest.raises(ValidationException, match="must be a JSON object, not"):
        validate_json_request(data, [])


@pytest.mark.parametrize("key", [0, 1, None, False, b"text", ("a",)])
def test_a_request_with_a_key_that_is_no_string_is_refused(key: object):
    with pytest.raises(ValidationException, match="keys must be strings, not"):
        validate_json_request({"text": "x", key: "y"}, ["text"])


def test_missing_and_null_keys_are_all_named():
    with pytest.raises(ValidationException, match="lacks id, text; add it") as caught:
        validate_json_request({"text": None, "other": 1}, ["id", "text", "other"])
    assert caught.value.context == {"missing": ["id", "text"]}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.none(), inner),
    max_leaves=8,
)


@given(st.text())
def test_an_accepted_text_can_be_stored_and_is_accepted_again(text: str):
    with contextlib.suppress(ValidationException):
        clean = validate_task_text(text)
        assert clean.encode() and clean == clean.strip() and len(clean) <= MAX_TASK_CHARACTERS
        assert validate_task_text(clean) == clean


@given(st.uuids(version=4))
def test_every_uuid4_is_a_task_id(task_id: uuid.UUID):
    assert validate_task_id(str(task_id).upper()) == str(task_id)


@given(st.integers())
def test_a_port_is_accepted_exactly_within_its_range(value: int):
    with contextlib.nullcontext() if 1_024 <= value <= 65_535 else pytest.raises(ValidationException):
        assert validate_port_number(value) == value


@given(st.integers())
def test_a_timeout_is_accepted_exactly_within_its_range(value: int):
    with contextlib.nullcontext() if 1 <= value <= 3_600 else pytest.raises(ValidationException):
        assert validate_timeout_seconds(value) == value


@given(ANYTHING)
def test_whatever_comes_is_accepted_or_refused_with_a_printable_reason(value: object):
    checks: list[Callable[[object], object]] = [
        validate_task_text,
        validate_task_id,
        validate_port_number,
        validate_timeout_seconds,
        lambda data: validate_json_request(data, ["text"]),
    ]
    for check in checks:
        try:
            check(value)
        except ValidationException as refusal:
            assert str(refusal).startswith("Invalid input: ")
            json.dumps(refusal.context)


@given(st.dictionaries(st.text(), st.integers() | st.none()), st.lists(st.text(), max_size=4))
def test_a_request_passes_exactly_when_every_required_key_holds_a_value(data: Mapping[str, Any], keys: list[str]):
    complete = all(data.get(key) is not None for key in keys)
    with contextlib.nullcontext() if complete else pytest.raises(ValidationException):
        assert validate_json_request(data, keys) == data
