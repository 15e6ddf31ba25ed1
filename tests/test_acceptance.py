"""Answers are checked as they were asked to be, and no pattern, schema or answer can hold up or bring down a server."""

import json
from typing import Any

import pytest

from tale.acceptance import code_of, failure_of, fault_of, parse_expect
from tale.exceptions import ValidationException
from tale.orchestration import checking

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("expect", "answer"),
    [
        ({"regex": "^yes$"}, "yes"),
        ({"regex": "(?m)^total: [0-9]+$"}, "Here:\ntotal: 42\nbye"),
        ({"json_schema": PERSON}, '{"age": 3}'),
        ({"json_schema": PERSON}, 'Here it is:\n```json\n{"age": 3}\n```\nDone.'),
        ({"json_schema": {"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}}}, "[1, 2]"),
        ({"python": True}, "x = 1"),
        ({"python": True}, "Run it:\n```sh\npip install (\n```\nthen\n```python\ndef f():\n    return 1\n```"),
        ({"python": True}, "Here:\n  ~~~\nx = 1\n  ~~~\n"),
        ({"python": True, "regex": "print"}, "```py\nprint('\\d')\n```"),
    ],
)
def test_an_answer_that_is_as_it_should_be_passes(expect: dict[str, Any], answer: str) -> None:
    assert failure_of(expect, answer) is None


@pytest.mark.parametrize(
    ("expect", "answer", "reason"),
    [
        ({"regex": "^yes$"}, "no", "regex: the answer has no match for ^yes$"),
        ({"json_schema": PERSON}, "I am 3", "json_schema: the answer is not JSON"),
        ({"json_schema": PERSON}, '{"age": "3"}', "json_schema: '3' is not of type 'integer' (at $.age)"),
        ({"json_schema": PERSON}, "[" * 100_000, "json_schema: the answer is not JSON"),
        ({"json_schema": {"pattern": "^a"}}, '"b"', "json_schema: 'b' does not match '^a'"),
        (
            {"python": True},
            "```python\nprint(1\n```",
            "python: the code does not compile: '(' was never closed (line 1)",
        ),
        ({"python": True}, "```python\nx = 1\n```\n```python\ny =\n```", "python: the code does not compile"),
        ({"python": True}, "```python\ncut off", "python: the code does not compile"),
        ({"python": True}, "x = '\x00'", "python: the code does not compile"),
        ({"python": True}, " ", "python: the answer has no Python code"),
        ({"python": True}, "```sh\nls\n```", "python: the answer has no Python code"),
        ({"regex": "x", "python": True}, "x =", "python: the code does not compile"),
    ],
)
def test_an_answer_that_is_not_is_told_by_which_check_and_why(expect: dict[str, Any], answer: str, reason: str) -> None:
    assert (failure_of(expect, answer) or "").startswith(reason)


@pytest.mark.parametrize(
    ("expect", "fault"),
    [
        ({"regex": "("}, "regular expression is not valid"),
        ({"json_schema": {"type": "strin"}}, "JSON schema is not valid"),
        ({"json_schema": {"pattern": "("}}, "JSON schema is not valid"),
        ({"json_schema": {"$ref": "https://example.org/x.json"}}, "only refer to its own parts"),
        ({"json_schema": {"properties": {"a": [{"$ref": "file:///etc/passwd"}]}}}, "not valid"),
        ({"json_schema": {"allOf": [{"$ref": "#/$defs/gone"}]}}, "which is not there"),
        ({"json_schema": {"$ref": "#"}}, "without end"),
    ],
)
async def test_a_check_that_cannot_be_used_is_refused_with_the_reason(expect: dict[str, Any], fault: str) -> None:
    assert fault in (fault_of(expect) or "")
    with pytest.raises(ValidationException, match=fault):
        await checking.refuse_invalid([json.dumps({"python": True}), json.dumps(expect)])


@pytest.mark.parametrize(
    "expect",
    [
        None,
        "regex",
        [],
        {},
        {"regexp": "x"},
        {"regex": 1},
        {"python": False},
        {"json_schema": "{}"},
        {"regex": "x" * 30_000},
    ],
)
def test_what_names_no_check_is_refused(expect: object) -> None:
    with pytest.raises(ValidationException, match="expect"):
        parse_expect(expect)


def test_a_text_without_fences_has_no_blocks_and_an_unlabelled_block_counts_where_none_is_labelled() -> None:
    assert code_of("x = 1", names=["py"]) is None
    assert code_of("```\na\n```\n```py\nb\n```", names=["py"]) == ["b\n"]
    assert code_of("````\n```\na\n```\n````", names=["py"]) == ["```\na\n```\n"]


async def test_a_pattern_that_would_take_for_ever_is_given_up() -> None:
    expect = json.dumps({"regex": "(a+)+$"})
    failure = await checking.failure_of(expect, "a" * 50 + "b", cpu_limit_s=1)
    assert failure == "it took too long, or too much memory"


async def test_an_answer_that_would_exhaust_the_interpreter_only_fails_its_check() -> None:
    assert await checking.failure_of(json.dumps({"python": True}), "-" * 1_000_000 + "1")
    bomb = {"json_schema": {"$defs": {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(30)}}}
    bomb["json_schema"]["$defs"]["30"] = {"type": "string"}
    bomb["json_schema"]["$ref"] = "#/$defs/0"
    assert await checking.failure_of(json.dumps(bomb), '"s"', cpu_limit_s=1) == "it took too long, or too much memory"
    assert await checking.failure_of(json.dumps({"python": True}), "x = 1") is None
