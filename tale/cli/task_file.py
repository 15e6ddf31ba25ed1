"""Many tasks in a file: one JSON object a line, checked as a whole before anything is handed in."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, cast

from pydantic import TypeAdapter, ValidationError

from tale.acceptance import fault_of
from tale.exceptions import ValidationException
from tale.orchestration.intake import new_task
from tale.servers.task_requests import TaskRequest
from tale.settings import Settings

NAMES: Final = tuple(each.name for each in fields(TaskRequest))
KEY_CHARACTERS: Final = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A task of the file, as submit_tasks takes it."""

    number: int
    request: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a line."""

    number: int
    reason: str


class TaskFile:
    """Reads the tasks of a file; `options` hold for each task that does not say otherwise.

    The key of a task comes from its line, the line's number and `salt`: the same line of a file is the same task.
    """

    def __init__(self, settings: Settings, options: Mapping[str, Any], *, salt: str = "") -> None:
        self._settings = settings
        self._options = options
        self._salt = salt
        self._adapter = TypeAdapter(TaskRequest)
        self._faults_of_checks: dict[str, str | None] = {}

    def read(self, text: str) -> tuple[list[Line], list[Fault]]:
        """The tasks, and what is wrong with lines that are none; empty lines are left out."""
        lines: list[Line] = []
        faults: list[Fault] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                lines.append(Line(number, self._request(line, number)))
            except ValidationException as error:
                faults.append(Fault(number, error.message))
        return lines, faults

    def _request(self, line: str, number: int) -> dict[str, Any]:
        try:
            value: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValidationException(f"it is not JSON: {error}.") from error
        if not isinstance(value, dict):
            raise ValidationException('it is no JSON object, such as {"text": "Write a haiku"}.')
        given = cast("dict[str, Any]", value)
        if unknown := [name for name in given if name not in NAMES]:
            raise ValidationException(f"there is no option {unknown[0]!r}; there are {', '.join(NAMES)}.")
        if "text" not in given:
            raise ValidationException('it lacks the text of the task: {"text": "Write a haiku"}.')
        request = {**self._options, **given}
        self._refuse_wrong(request)
        told = json.dumps([self._salt, number, request], sort_keys=True)
        return {"idempotency_key": hashlib.sha256(told.encode()).hexdigest()[:KEY_CHARACTERS], **request}

    def _refuse_wrong(self, request: dict[str, Any]) -> None:
        """Refuse what the gateway would refuse, but for what only it knows."""
        try:
            submission = self._adapter.validate_python(request).submission(None)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(step) for step in first["loc"])
            raise ValidationException(f"{place}: {first['msg']}.") from error
        expect = new_task(submission, self._settings, now=0.0).task.expect
        if expect is None:
            return
        if expect not in self._faults_of_checks:
            self._faults_of_checks[expect] = fault_of(json.loads(expect))
        if fault := self._faults_of_checks[expect]:
            raise ValidationException(fault)
