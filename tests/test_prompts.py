"""Instructions are chosen by what came of them: fewer tokens, where answers are right as often."""

import random
from typing import Any

import pytest

from tale.learning.prompts import (
    DEFAULT,
    DEFAULT_CHARACTERS,
    LEAST_BETWEEN,
    LEAST_OF_KIND,
    LEAST_TRIED,
    OPEN,
    SHARE_OF_A_KEY,
    TRIED_SHARE,
    VARIANTS,
    PromptVariants,
    instruction_of,
)
from tale.orchestration.task_prompt import TASK_INSTRUCTIONS

RIGHT = {DEFAULT: 8, "sentence": 8, "direct": 4, "limited": 8}  # of ten answers
TOKENS = {DEFAULT: 60.0, "sentence": 30.0, "direct": 15.0, "limited": 50.0}


def answered(prompts: PromptVariants, variant: str, count: int, *, kind: str = "code", **given: Any) -> None:
    """So many answers with a variant, as many right as such answers are, about as long as they are."""
    for number in range(count):
        tokens = round(TOKENS[variant] * (0.8 if number % 2 else 1.25))
        told = {"succeeded": number % 10 < RIGHT[variant], "key_name": None, "tokens": tokens, **given}
        prompts.observe("large", kind, variant, **told)


def judged(prompts: PromptVariants, variant: str, right: int, wrong: int, *, kind: str) -> None:
    answered(prompts, variant, right, kind=kind, succeeded=True)
    answered(prompts, variant, wrong, kind=kind, succeeded=False)


def chosen(prompts: PromptVariants, *, kind: str = "code", has_check: bool = True, seed: int | None = 1) -> list[str]:
    chance = None if seed is None else random.Random(seed)
    told = {"tokens": TOKENS, "default_mean_tokens": TOKENS[DEFAULT], "has_check": has_check, "randomness": chance}
    return [prompts.choose("large", kind, **told).variant for _ in range(1 if seed is None else 1_000)]


def test_without_a_history_tasks_go_out_as_ever_and_few_checked_ones_try_others() -> None:
    prompts = PromptVariants()
    assert chosen(prompts, seed=None) == [DEFAULT]
    assert set(chosen(prompts, has_check=False)) == {DEFAULT}
    tried = chosen(prompts)
    assert 0 < sum(name != DEFAULT for name in tried) / len(tried) < 1.3 * TRIED_SHARE


def test_the_shortest_of_those_that_succeed_as_often_is_found_by_trying() -> None:
    prompts, chance = PromptVariants(), random.Random(3)
    answered(prompts, DEFAULT, 60)
    for _ in range(300):
        told = {"tokens": TOKENS, "default_mean_tokens": TOKENS[DEFAULT], "has_check": True, "randomness": chance}
        answered(prompts, prompts.choose("large", "code", **told).variant, 10)
    assert chosen(prompts, seed=None) == ["sentence"]
    latest = chosen(prompts)
    assert latest.count("sentence") > 0.9 * len(latest)
    assert latest.count("direct") < 0.05 * len(latest)  # shorter, but wrong too often


def test_a_model_or_a_kind_of_which_nothing_is_known_goes_out_as_ever() -> None:
    prompts = PromptVariants()
    for variant in VARIANTS:
        answered(prompts, variant, 1_000)
    told = {"tokens": TOKENS, "default_mean_tokens": 60.0, "has_check": False, "randomness": None}
    assert prompts.choose("large", "code", **told).variant == "sentence"
    assert prompts.choose("large", "list", **told).variant == DEFAULT  # one other kind tells too little
    assert prompts.choose("other", "code", **told).variant == DEFAULT


def test_what_is_likely_is_enough_where_a_bad_answer_would_be_noticed() -> None:
    prompts = PromptVariants()
    for variant in (DEFAULT, "sentence"):
        answered(prompts, variant, LEAST_TRIED)
    assert chosen(prompts, seed=None) == ["sentence"]
    assert chosen(prompts, seed=None, has_check=False) == [DEFAULT]
    judged(prompts, "sentence", 0, 2, kind="code")
    assert chosen(prompts, seed=None) == [DEFAULT]


def test_a_kind_with_few_answers_borrows_what_a_variant_brings_elsewhere_unless_kinds_differ() -> None:
    alike, unlike = PromptVariants(), PromptVariants()
    for number, kind in enumerate(("code", "question", "other", "edit", "classify")):
        for prompts in (alike, unlike):
            judged(prompts, DEFAULT, 80, 20, kind=kind)
        judged(alike, "sentence", 85, 15, kind=kind)
        judged(unlike, "sentence", 100 if number % 2 else 75, 0 if number % 2 else 25, kind=kind)
    mean, variance = alike.gap("large", "list", "sentence")
    assert mean == pytest.approx(0.05, abs=0.001)
    assert LEAST_BETWEEN**2 < variance < 1.5 * LEAST_BETWEEN**2
    assert unlike.gap("large", "list", "sentence")[1] > 5 * variance
    assert chosen(alike, kind="list", seed=None, has_check=False) == ["sentence"]
    assert chosen(unlike, kind="list", seed=None, has_check=False) == [DEFAULT]


@pytest.mark.parametrize("has_check", [True, False])
def test_what_is_known_of_other_kinds_does_not_outweigh_the_failures_of_ones_own(has_check: bool) -> None:
    prompts = PromptVariants()
    for kind in ("code", "question", "other"):
        judged(prompts, DEFAULT, 80, 18, kind=kind)
        judged(prompts, "sentence", 28, 2, kind=kind)
    judged(prompts, DEFAULT, 10, 10, kind="list")
    assert chosen(prompts, kind="list", seed=None, has_check=has_check) == ["sentence"]
    judged(prompts, "sentence", 0, 8, kind="list")
    assert chosen(prompts, kind="list", seed=None, has_check=has_check) == [DEFAULT]


def test_a_kind_whose_right_answers_are_not_short_borrows_nothing() -> None:
    prompts = PromptVariants()
    for kind in ("code", "question", "other", "edit"):
        judged(prompts, DEFAULT, 80, 20, kind=kind)
        judged(prompts, "sentence", 100, 0, kind=kind)
    assert chosen(prompts, kind="list", seed=None, has_check=False) == ["sentence"]
    for kind in OPEN:
        assert chosen(prompts, kind=kind, seed=None) == [DEFAULT]
        judged(prompts, DEFAULT, 1_000, 0, kind=kind)
        judged(prompts, "sentence", LEAST_OF_KIND - 1, 0, kind=kind)
        assert chosen(prompts, kind=kind, seed=None) == [DEFAULT]
        judged(prompts, "sentence", 100, 0, kind=kind)
        assert chosen(prompts, kind=kind, seed=None, has_check=False) == ["sentence"]


@pytest.mark.parametrize("has_check", [True, False])
def test_a_task_whose_answer_is_longer_than_those_that_were_judged_goes_out_as_ever(has_check: bool) -> None:
    prompts = PromptVariants()
    for variant in (DEFAULT, "sentence"):
        answered(prompts, variant, 1_000)
        answered(prompts, variant, 1_000, kind="question", tokens=15)

    def told(kind: str, tokens: float) -> str:
        expected = dict.fromkeys(VARIANTS, tokens)
        given = {"tokens": expected, "default_mean_tokens": tokens, "has_check": has_check, "randomness": None}
        return prompts.choose("large", kind, **given).variant

    assert [told("question", tokens) for tokens in (10, 15, 20, 300)] == ["sentence", "sentence", DEFAULT, DEFAULT]
    assert [told("code", tokens) for tokens in (60, 300)] == ["sentence", DEFAULT]
    answered(prompts, DEFAULT, 100, kind="question", tokens=300, succeeded=None)  # nobody has judged them
    assert told("question", 300) == DEFAULT


def test_one_key_cannot_have_a_variant_chosen_that_does_worse() -> None:
    prompts = PromptVariants()
    answered(prompts, DEFAULT, 100)
    answered(prompts, "direct", 10 * LEAST_TRIED, key_name="mallory", succeeded=True)
    assert chosen(prompts, seed=None) == [DEFAULT]
    answered(prompts, "direct", 100)
    answered(prompts, "direct", 5_000, key_name="mallory", succeeded=True)
    assert chosen(prompts, seed=None) == [DEFAULT]
    assert 100 <= prompts.as_json()["large"]["code"]["direct"]["answers"] <= 100 / (1 - SHARE_OF_A_KEY) + 1


def test_the_word_of_the_only_key_counts_until_others_have_one() -> None:
    prompts = PromptVariants()
    for variant in (DEFAULT, "sentence"):
        answered(prompts, variant, 5 * LEAST_TRIED, key_name="laptop")
    assert chosen(prompts, seed=None) == ["sentence"]
    answered(prompts, DEFAULT, 1)
    before = prompts.as_json()
    answered(prompts, "sentence", 100, key_name="laptop")
    assert prompts.as_json() == before


def test_what_came_of_variants_survives_as_json_and_unknown_ones_are_left_out() -> None:
    prompts = PromptVariants()
    answered(prompts, "sentence", 30)
    answered(prompts, DEFAULT, 30)
    prompts.observe("large", "code", "of a later tale", succeeded=True, key_name=None, tokens=9)
    again = PromptVariants(prompts.as_json())
    assert again.as_json() == prompts.as_json() and "of a later tale" not in str(again.as_json())
    assert chosen(again) == chosen(prompts)
    for broken in ({"large": {"code": {"sentence": {"colour": 1}}}}, {"large": 3}):
        with pytest.raises((TypeError, AttributeError)):
            PromptVariants(broken)


def test_instructions_say_what_they_are_known_by() -> None:
    assert len(TASK_INSTRUCTIONS) == DEFAULT_CHARACTERS
    assert instruction_of("limited", 30) == "Give only the answer, code in a fenced block, in at most 30 words."
    assert instruction_of("limited", None) is None and instruction_of(DEFAULT, None) is None
