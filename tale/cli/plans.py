"""A plan for a large task: what the model is asked for, what is made of its answer, and the tasks that carry it out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from tale.exceptions import ValidationException
from tale.orchestration.plan_keys import answer_key, step_key

TOLD_CHARACTERS: Final = 500  # of the whole task, in the text of each step
QUESTION: Final = (
    "Split the task below into at most {most} steps, which are carried out one by one. Each step must be clear to "
    'someone who reads it alone. Do not carry them out. Answer with JSON: {{"steps": [{{"task": "what is to be done", '
    '"after": [numbers of the earlier steps whose results it needs]}}]}}\n\nThe task:\n{text}'
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step, and the numbers (from 1) of the earlier ones whose results it needs."""

    task: str
    after: tuple[int, ...] = ()


def schema_of(most: int) -> dict[str, Any]:
    """The JSON schema of a plan of so many steps at most."""
    numbers = {"type": "array", "items": {"type": "integer"}}
    step = {
        "type": "object",
        "properties": {"task": {"type": "string", "minLength": 1}, "after": numbers},
        "required": ["task", "after"],
    }
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": most}
    return {"type": "object", "properties": {"steps": steps}, "required": ["steps"]}


def parse_plan(text: str, most: int, *, lenient: bool = False) -> list[Step]:
    """The steps; raises ValidationException for what is no plan. Steps can only need the results of earlier ones.

    With `lenient`, needs that cannot be met are left out: models count from 0, or from elsewhere.

    >>> parse_plan('{"steps": [{"task": "Look", "after": []}, {"task": "Tell", "after": [1]}]}', 6)
    [Step(task='Look', after=()), Step(task='Tell', after=(1,))]
    """
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise ValidationException(f"The plan is not JSON: {error}.") from error
    given = cast("dict[str, Any]", value).get("steps") if isinstance(value, dict) else None
    if not isinstance(given, list) or not 1 <= len(cast("list[Any]", given)) <= most:
        raise ValidationException(
            f'The plan must have 1 to {most} steps: {{"steps": [{{"task": "...", "after": []}}]}}.'
        )
    return [_step(each, number, lenient=lenient) for number, each in enumerate(cast("list[Any]", given), 1)]


def shown(steps: Sequence[Step]) -> list[str]:
    """The steps as lines for people.

    >>> shown([Step("Look"), Step("Tell", (1,))])
    ['1. Look', '2. Tell (after 1)']
    """
    return [
        f"{number}. {step.task}{f' (after {_numbers(step.after)})' if step.after else ''}"
        for number, step in enumerate(steps, 1)
    ]


def written(steps: Sequence[Step]) -> str:
    """The plan as JSON, as it can be edited."""
    plan = {"steps": [{"task": step.task, "after": list(step.after)} for step in steps]}
    return json.dumps(plan, indent=2, ensure_ascii=False) + "\n"


def requests_of(text: str, steps: Sequence[Step], options: Mapping[str, Any], *, key: str) -> list[dict[str, Any]]:
    """The tasks of the steps and, last, the one that puts their results together, as submit_tasks takes them.

    The checks among the options are for the last one, the files for the steps.
    """
    whole = text if len(text) <= TOLD_CHARACTERS else f"{text[:TOLD_CHARACTERS]}…"
    shared = {name: value for name, value in options.items() if name not in ("expect", "attachments")}
    files = {name: options[name] for name in ("attachments",) if name in options}
    checks = {name: options[name] for name in ("expect",) if name in options}
    requests: list[dict[str, Any]] = []
    for number, step in enumerate(steps, 1):
        told = f"{step.task}\n\n(This is step {number} of {len(steps)} of a larger task: {whole})"
        after = {"after": [f"#{each}" for each in step.after], "with_results": True} if step.after else {}
        requests.append({**shared, **files, "text": told, **after, "idempotency_key": step_key(key, number)})
    together = f"Put the results of these steps together into one complete answer to this task:\n{text}"
    everything = [f"#{number}" for number in range(1, len(steps) + 1)]
    last = {"text": together, "after": everything, "with_results": True, "idempotency_key": answer_key(key)}
    return [*requests, {**shared, **checks, **last}]


def _step(value: Any, number: int, *, lenient: bool) -> Step:
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    task, after = given.get("task"), given.get("after", [])
    if not isinstance(task, str) or not task.strip() or not isinstance(after, list):
        raise ValidationException(
            f'Step {number} of the plan must be like {{"task": "what is to be done", "after": []}}.'
        )
    needed = cast("list[Any]", after)
    wrong = [each for each in needed if not isinstance(each, int) or not 1 <= each < number]
    if wrong and not lenient:
        raise ValidationException(f"Step {number} of the plan cannot come after {wrong[0]!r}: that is no earlier step.")
    return Step(" ".join(task.split()), tuple(dict.fromkeys(each for each in needed if each not in wrong)))


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
