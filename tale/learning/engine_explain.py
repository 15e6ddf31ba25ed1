"""Says why a task is expected to be as it is: what of its text matters, which tasks were like it, what else it costs.

What a part matters is found by leaving it out: the expected length with the part at its average, against that with it.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, get_args

import numpy as np

from tale.learning.encoding import Encoded
from tale.learning.features import FEATURE_NAMES, Request
from tale.learning.model_weights import small_cost
from tale.learning.performance_engine import PerformanceEngine
from tale.predictions import TaskQuestion
from tale.records import Role

MOST_PARTS: Final = 6
LEAST_FACTOR: Final = 1.02  # below which a part does not matter
PARTS: Final = {
    "the length of the text": ("log_characters", "log_words", "log_lines", "log_instruction", "sentences"),
    "the text that comes with it": ("log_material", "has_material"),
    "the length it asks for": ("log_asked_length", "asks_length", "asks_count"),
    "how it begins": ("opening_",),
    "the form it asks for": ("form",),
    "code in it": ("code",),
    "numbers in it": ("numbers",),
    "formulas in it": ("formulas", "digits"),
    "choices in it": ("choices",),
    "questions in it": ("questions", "ends_in_question"),
    "the conversation": ("log_turns", "log_context_tokens", "log_last_answer"),
}


@dataclass(frozen=True)
class Part:
    """A part of a task and what it does: the expected length is `factor` times that without it."""

    name: str
    factor: float


@dataclass(frozen=True)
class Alternative:
    """What the model of a role is expected to take, in its own tokens and as many of the task model's."""

    role: Role
    model: str | None
    output_tokens: int
    upper_tokens: int
    weighted_tokens: float
    success: float | None


@dataclass(frozen=True)
class LikeTask:
    """A task whose text is like the one in question; `likeness` from 0 to 1."""

    id: str
    likeness: float


@dataclass(frozen=True)
class EngineExplanation:
    """Why a task is expected to be as it is."""

    parts: list[Part]
    alternatives: list[Alternative]
    like: list[LikeTask]


def explain(engine: PerformanceEngine, question: TaskQuestion) -> EngineExplanation:
    """What mattered for the prediction that the engine makes now."""
    like = [LikeTask(task, likeness) for task, likeness in engine.like(question.text)]
    alternatives = [_alternative(engine, question, role) for role in get_args(Role)]
    return EngineExplanation(parts_of(engine, question.text), alternatives, like)


def parts_of(engine: PerformanceEngine, text: str) -> list[Part]:
    """The parts of a text that matter most for the length of the answer, the greatest first."""
    lengths = engine.budget_.lengths_
    whole = lengths.encoder_.encode([Request(text, "")])
    named = _columns()
    without = [_without_words(whole), *(_without(whole, columns) for columns in named.values())]
    base = float(lengths.texts_.predict(whole)[0, 0])
    names = ["its words", *named]
    factors = [math.exp(base - float(lengths.texts_.predict(each)[0, 0])) for each in without]
    found = [Part(name, round(factor, 3)) for name, factor in zip(names, factors, strict=True)]
    found.append(Part("earlier answers to the same text", round(math.exp(engine.correction(text)), 3)))
    weighty = [part for part in found if max(part.factor, 1 / part.factor) >= LEAST_FACTOR]
    return sorted(weighty, key=lambda part: -abs(math.log(part.factor)))[:MOST_PARTS]


def _alternative(engine: PerformanceEngine, question: TaskQuestion, role: Role) -> Alternative:
    expected = engine.predict(replace(question, role=role))
    success = expected.ux_success if role == "ux" else expected.task_success
    names = engine.names_of(question)
    cost = question.small_cost or small_cost(names["ux"], names["task"])
    tokens = (expected.output_tokens, expected.upper_tokens)
    weighted = expected.output_tokens * (cost if role == "ux" else 1.0)
    return Alternative(role, names[role] or None, *tokens, round(weighted, 1), success)


def _columns() -> dict[str, list[int]]:
    """The columns of each part, by the beginnings of their names; cues are parts of their own."""
    found: dict[str, list[int]] = {}
    for column, feature in enumerate(FEATURE_NAMES):
        part = next((part for part, begins in PARTS.items() if feature.startswith(begins)), None)
        if feature.startswith(("cue_", "instruction_")):
            part = f"words of {feature.partition('_')[2].replace('_', ' ')}"
        found.setdefault(part or feature.replace("_", " "), []).append(column)
    return found


def _without(whole: Encoded, columns: list[int]) -> Encoded:
    features = whole.features.copy()
    features[:, columns] = 0.0  # standardised: that is the average
    return replace(whole, features=features)


def _without_words(whole: Encoded) -> Encoded:
    return replace(whole, words=whole.words * 0, vectors=np.zeros_like(whole.vectors))
