"""What an answer can be checked against: a regular expression, a JSON schema, that its Python compiles.

Patterns, schemas and answers come from people and models, and each can be made to take for ever or to exhaust the
interpreter. So this module is run as a program, `python -m tale.acceptance`, that limits its own time and memory: one
JSON object on stdin (`cpu_limit_s`, and `expects`, or `expect` and `text`), the findings as a JSON list on stdout.
"""

import json
import re
import resource
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from tale.exceptions import ValidationException

MAX_EXPECT_CHARACTERS: Final = 20_000
CPU_LIMIT_S: Final = 3
MEMORY_LIMIT_BYTES: Final = 2**30
SHOWN_CHARACTERS: Final = 200
KINDS: Final = ("regex", "json_schema", "python")
FENCE: Final = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[`~]*[ \t]*$", re.DOTALL | re.MULTILINE
)
PYTHON_NAMES: Final = ("python", "py", "python3")
PROBES: Final[tuple[Any, ...]] = (
    None,
    {},
    [],
    "",
    0,
)  # of each kind one, to find schemas that never end

Expect = Mapping[str, Any]


def parse_expect(value: object) -> dict[str, Any]:
    """Return the checks as a dict with one or more of regex (text), json_schema (object) and python (true).

    Raises ValidationException where it is not that. Whether pattern and schema are valid is for `fault_of` to say.
    """
    usage = 'use {"regex": "..."}, {"json_schema": {...}} or {"python": true}'
    if not isinstance(value, Mapping) or not value:
        raise ValidationException(f"`expect` must be a JSON object that names a check; {usage}.")
    expect = dict(cast("Mapping[str, Any]", value))
    if unknown := [name for name in expect if name not in KINDS]:
        raise ValidationException(f"`expect` knows no check {unknown[0]!r}; {usage}.")
    wanted = {"regex": str, "json_schema": dict, "python": bool}
    if wrong := [name for name, given in expect.items() if not isinstance(given, wanted[name]) or given is False]:
        raise ValidationException(f"The check {wrong[0]} of `expect` is not of the right kind; {usage}.")
    if (characters := len(json.dumps(expect))) > MAX_EXPECT_CHARACTERS:
        raise ValidationException(
            f"`expect` has {characters:,} characters; at most {MAX_EXPECT_CHARACTERS:,} are accepted.",
        )
    return expect


def fault_of(expect: Expect) -> str | None:
    """What is wrong with the checks themselves; None where they can be used."""
    if "regex" in expect:
        try:
            re.compile(expect["regex"])
        except (re.error, OverflowError, RecursionError) as error:
            return f"The regular expression is not valid: {error}."
    return _fault_of_schema(expect["json_schema"]) if "json_schema" in expect else None


def failure_of(expect: Expect, text: str) -> str | None:
    """Why the text does not pass, naming the check; None where it passes all of them.

    >>> failure_of({"python": True}, "Here it is:\\n```python\\nprint(1\\n```\\n")
    "python: the code does not compile: '(' was never closed (line 1)"
    >>> failure_of({"regex": "^[0-9]+$"}, "42") is None
    True
    """
    if "regex" in expect and not re.search(expect["regex"], text):
        return f"regex: the answer has no match for {_short(expect['regex'])}"
    if "python" in expect and (reason := _python_failure(text)):
        return f"python: {reason}"
    if "json_schema" in expect and (reason := _json_failure(expect["json_schema"], text)):
        return f"json_schema: {reason}"
    return None


def code_of(text: str, *, names: Sequence[str]) -> list[str] | None:
    """The fenced blocks of that language, else those without one; None where the text has no fenced block at all.

    >>> code_of("a\\n```py\\nx = 1\\n```\\n```sh\\nls\\n```", names=["py"])
    ['x = 1\\n']
    """
    blocks = [(match[2].lower(), match[3]) for match in FENCE.finditer(f"{text}\n")]
    named = [code for language, code in blocks if language in names]
    return (named or [code for language, code in blocks if not language]) if blocks else None


def _python_failure(text: str) -> str | None:
    blocks = code_of(text, names=PYTHON_NAMES)
    code = [text] if blocks is None else blocks
    if not any(block.strip() for block in code):
        return "the answer has no Python code"
    for block in code:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compile(block, "answer", "exec", dont_inherit=True)
        except SyntaxError as error:
            return f"the code does not compile: {error.msg} (line {error.lineno})"
        except (ValueError, OverflowError, RecursionError, MemoryError) as error:
            return f"the code does not compile: {error or type(error).__name__}"
    return None


def _json_failure(schema: dict[str, Any], text: str) -> str | None:
    blocks = code_of(text, names=("json",))
    try:
        value = json.loads(blocks[0] if blocks else text)
    except (ValueError, RecursionError) as error:
        return f"the answer is not JSON: {error}"
    try:
        return _mismatch(schema, value)
    except RecursionError:
        return "the answer is nested too deeply"


def _mismatch(schema: dict[str, Any], value: Any) -> str | None:
    from jsonschema import validators  # 0.1 s that only this check needs
    from referencing import Registry

    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    errors = kind(schema, registry=Registry()).iter_errors(value)  # the empty registry fetches nothing
    error = next(iter(errors), None)
    return None if error is None else f"{_short(error.message)} (at {error.json_path})"


def _fault_of_schema(schema: dict[str, Any]) -> str | None:
    from jsonschema import validators
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        validators.validator_for(schema, default=validators.Draft202012Validator).check_schema(schema)
        registry = cast("Any", Registry)().with_resource("", DRAFT202012.create_resource(schema))
        for reference in _references(schema):
            if not reference.startswith("#"):
                return f"The JSON schema refers to {_short(reference)}; it may only refer to its own parts."
            registry.resolver().lookup(reference)
        for probe in PROBES:
            _mismatch(schema, probe)
    except SchemaError as error:
        return f"The JSON schema is not valid: {_short(error.message)} (at {error.json_path})."
    except Unresolvable as error:
        return f"The JSON schema refers to {_short(str(error.ref))}, which is not there."
    except RecursionError:
        return "The JSON schema refers to itself without end."
    return None


def _references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        for name, value in cast("dict[str, object]", part).items():
            if name in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(part, list):
        for value in cast("list[object]", part):
            yield from _references(value)


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def main() -> None:
    """Answer the one question on stdin, within the limits."""
    asked = json.load(sys.stdin.buffer)
    for kind, limit in ((resource.RLIMIT_CPU, asked["cpu_limit_s"]), (resource.RLIMIT_AS, MEMORY_LIMIT_BYTES)):
        with suppress(ValueError, OSError):  # a system without such a limit, or with a lower one
            resource.setrlimit(kind, (limit, limit))
    if "expects" in asked:
        found = [fault_of(expect) for expect in asked["expects"]]
    else:
        found = [failure_of(asked["expect"], asked["text"])]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
