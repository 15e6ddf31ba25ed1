"""A history of tasks whose lengths follow their texts, by laws that a test knows."""

import random
from collections.abc import Sequence

from tale.predictions import PastAttempt
from tale.records import Role

TASKS = (("Write a haiku about", 30), ("Explain in detail the history of", 500), ("Name the capital of", 6))
THINGS = ["rain", "cats", "France", "wood", "chess", "money", "light", "water", "salt", "iron"]
MODELS: dict[Role, str] = {"ux": "small", "task": "large"}


def past(
    count: int,
    *,
    seed: int = 1,
    begin: float = 0.0,
    roles: Sequence[Role] = ("ux", "task"),
    small_succeeds: float | None = 0.95,
    stretch: float = 1.0,
    key_name: str | None = None,
    variant: str = "default",
) -> list[PastAttempt]:
    """Attempts a second apart; `small_succeeds` is the small model's rate of success (None: nobody looked)."""
    chance = random.Random(seed)
    rows: list[PastAttempt] = []
    for number in range(count):
        order, tokens = chance.choice(TASKS)
        role = chance.choice(roles)
        likely = None if small_succeeds is None else small_succeeds if role == "ux" else 0.97
        rows.append(
            PastAttempt(
                task_id=f"{seed}-{number}",
                ended_at=begin + number + 1,
                text=f"{order} {chance.choice(THINGS)}",
                role=role,
                model=MODELS[role],
                output_tokens=max(1, round(stretch * tokens * chance.lognormvariate(0, 0.2))),
                finish_reason="stop",
                succeeded=None if likely is None else chance.random() < likely,
                key_name=key_name,
                variant=variant,
            )
        )
    return rows
