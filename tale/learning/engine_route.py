"""Which of the two models does a task: the small one where that is expected to lose nothing, by enough of evidence."""

import math
import random
from dataclasses import dataclass
from typing import Final

from tale.predictions import TaskQuestion
from tale.records import Role

SMALL_COST: Final = 0.32  # of a token of the small model, where one of the task model costs 1: their parameters' ratio
SUCCESS_WORTH: Final = 25.0  # calls of the task model that one success is worth
LEAST_TRIED: Final = 20  # known outcomes of the small model, before it is relied on
DOUBT: Final = 1.28  # standard errors that count against the small model: nine times of ten it is better than that
EXPLORED: Final = 0.05  # share of checked tasks that the small model tries, while little is known of it
EXPLORED_LATER: Final = 0.02  # later, and of those that the small model does, the share that the task model tries
HOPELESS: Final = 0.2  # chance of success below which nothing is tried
LEAST_SAVED: Final = 0.1  # of what the task model costs, where a failure only means to do it again


@dataclass(frozen=True)
class Chances:
    """How likely each model succeeds; None where no outcome of it is known.

    `tried` counts the small one's outcomes, as far as they are of use for such a task; `cost` is what the small model's
    call costs, where the task model's costs 1.
    """

    small: float | None
    large: float | None
    tried: int
    cost: float = SMALL_COST

    @property
    def gain(self) -> float | None:
        """How much likelier the task model is to succeed."""
        return None if self.small is None or self.large is None else self.large - self.small


@dataclass(frozen=True)
class Choice:
    """A role and why; `explored` where it was chosen to learn how its model does."""

    role: Role
    reason: str
    explored: bool = False


def choose(chances: Chances, question: TaskQuestion, *, randomness: random.Random | None = None) -> Choice:
    """The model for a task. Without `randomness` nothing is tried for the sake of learning.

    A bad answer to a checked task is noticed and the task model asked after all, so there only tokens are at stake:
    the small one's and, with the chance of its failure, the task model's. Elsewhere the task model is asked unless its
    gain, with a margin for what is not known well, is worth less than what it costs more.
    """
    if question.role is not None:
        return Choice(question.role, "no other model is in question")
    share = EXPLORED if chances.tried < LEAST_TRIED else EXPLORED_LATER
    may_try = question.has_check and (chances.small is None or chances.small >= HOPELESS)
    explores = randomness is not None and may_try and randomness.random() < share
    relied = _relied_on(chances, question)
    if relied is not None and explores:
        return Choice("task", "tried on the task model, to keep knowing how it does", explored=True)
    if relied is not None:
        return Choice("ux", relied)
    if explores:
        return Choice("ux", "tried on the small model, to learn how it does; the answer is checked", explored=True)
    return Choice("task", _why_large(chances))


def _relied_on(chances: Chances, question: TaskQuestion) -> str | None:
    """Why the small model will do; None where it is not known to."""
    small, large = chances.small, chances.large
    if small is None or large is None or chances.tried < LEAST_TRIED:
        return None
    doubt = DOUBT * math.sqrt(small * (1 - small) / chances.tried)
    if question.has_check:
        if chances.cost + (1 - small + doubt) < 1 - LEAST_SAVED:
            return f"the small model succeeds with {small:.0%}, and its answer is checked"
    elif large - small + doubt <= (1 - chances.cost) / SUCCESS_WORTH:
        return f"the small model succeeds with {small:.0%}, the task model with {large:.0%}"
    return None


def _why_large(chances: Chances) -> str:
    if chances.tried < LEAST_TRIED:
        return f"how the small model does with such tasks is not known yet ({chances.tried} of {LEAST_TRIED} outcomes)"
    if chances.large is None or chances.small is None:
        return "how the task model does is not known yet"
    return f"the task model succeeds with {chances.large:.0%}, the small one with {chances.small:.0%}"
