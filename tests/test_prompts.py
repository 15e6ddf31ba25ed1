"""Instructions are chosen by what came of them: fewer tokens, where answers are right as often."""

import random
from typing import Any

import pytest

from tale.learning.prompts import (
    DEFAULT,
    DEFAULT_CHARACTERS,
    LEAST_OF_KIND,
    LEAST_TRIED,
    SHARE_OF_A_KEY,
    TRIED_SHARE,
    VARIANTS,
    PromptVariants,
    instruction_of,
)
from tale.orchestration.task_prompt import TASK_INSTRUCTIONS

RIGHT = {DEFAULT: 8, "brief": 8, "direct": 4, "stated": 8}  # of ten answers
TOKENS = {DEFAULT: 60.0, "brief": 30.0, "direct": 15.0, "stated": 50.0}


def answered(prompts: PromptVariants, variant: str, count: int, **given: Any) -> None:
    """So many answers with a variant, as many right as such answers are."""
    for number in range(count):
        told = {"succeeded": number % 10 < RIGHT[variant], "key_name": None, **given}
        prompts.observe("large", "code", variant, **told)


def chosen(prompts: PromptVariants, *, kind: str = "code", may_try: bool = True, seed: int | None = 1) -> list[str]:
    chance = None if seed is None else random.Random(seed)
    return [
        prompts.choose("large", kind, tokens=TOKENS, may_try=may_try, randomness=chance).variant
        for _ in range(1 if seed is None else 1_000)
    ]


def test_without_a_history_tasks_go_out_as_ever_and_few_checked_ones_try_others() -> None:
    prompts = PromptVariants()
    assert chosen(prompts, seed=None) == [DEFAULT]
    assert set(chosen(prompts, may_try=False)) == {DEFAULT}
    tried = chosen(prompts)
    assert 0 < sum(name != DEFAULT for name in tried) / len(tried) < 1.3 * TRIED_SHARE


def test_the_shortest_of_those_that_succeed_as_often_is_found_by_trying() -> None:
    prompts, chance = PromptVariants(), random.Random(3)
    answered(prompts, DEFAULT, 60)
    for _ in range(300):
        found = prompts.choose("large", "code", tokens=TOKENS, may_try=True, randomness=chance)
        answered(prompts, found.variant, 10)
    assert chosen(prompts, seed=None) == ["brief"]
    latest = chosen(prompts)
    assert latest.count("brief") > 0.9 * len(latest)
    assert latest.count("direct") < 0.05 * len(latest)  # shorter, but wrong too often


def test_a_kind_or_a_model_without_a_history_goes_out_as_ever_and_a_kind_with_little_borrows() -> None:
    prompts = PromptVariants()
    for variant in VARIANTS:
        answered(prompts, variant, 100)
    assert chosen(prompts, kind="story", seed=None) == [DEFAULT]
    assert prompts.choose("other", "code", tokens=TOKENS, may_try=False, randomness=None).variant == DEFAULT
    for number in range(LEAST_OF_KIND):
        prompts.observe("large", "story", "brief", succeeded=number > 1, key_name=None)
    assert chosen(prompts, kind="story", seed=None) == ["brief"]


def test_one_key_cannot_have_a_variant_chosen_that_does_worse() -> None:
    prompts = PromptVariants()
    answered(prompts, DEFAULT, 100)
    answered(prompts, "direct", 10 * LEAST_TRIED, key_name="mallory", succeeded=True)
    assert chosen(prompts, seed=None) == [DEFAULT]
    answered(prompts, "direct", 100)
    answered(prompts, "direct", 5_000, key_name="mallory", succeeded=True)
    assert chosen(prompts, seed=None) == [DEFAULT]
    assert 100 <= prompts.as_json()["large"]["code"]["direct"]["answers"] <= 100 / (1 - SHARE_OF_A_KEY) + 1


def test_what_came_of_variants_survives_as_json_and_unknown_ones_are_left_out() -> None:
    prompts = PromptVariants()
    answered(prompts, "brief", 30)
    answered(prompts, DEFAULT, 30)
    prompts.observe("large", "code", "of a later tale", succeeded=True, key_name=None)
    again = PromptVariants(prompts.as_json())
    assert again.as_json() == prompts.as_json() and "of a later tale" not in str(again.as_json())
    assert chosen(again) == chosen(prompts)
    for broken in ({"large": {"code": {"brief": {"colour": 1}}}}, {"large": 3}):
        with pytest.raises((TypeError, AttributeError)):
            PromptVariants(broken)


def test_instructions_say_what_they_are_known_by() -> None:
    assert len(TASK_INSTRUCTIONS) == DEFAULT_CHARACTERS
    assert instruction_of("stated", 30) == "Answer in at most 30 words."
    assert instruction_of("stated", None) is None and instruction_of(DEFAULT, None) is None
