"""What dies, when, by a fixed seed: the plan of a run, and what has become of it."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

AT_ONCE: Final = 0.2  # share of the deaths that do not wait until all have recovered from the one before
LONGEST_AIM_S: Final = 0.4
HARMLESS: Final = ("watcher", "backend", "learning")  # whose deaths end no attempt


@dataclass(frozen=True, slots=True)
class Death:
    """One kill: of what, how long after a task was seen at work, or at once, whatever is under way."""

    target: str
    aim_s: float
    at_once: bool


@dataclass
class Toll:
    """The kills that were carried out."""

    kills: Counter[str] = field(default_factory=Counter)
    at_work: Counter[str] = field(default_factory=Counter)  # of these, those that came while tasks ran

    def note(self, target: str, *, at_work: bool) -> None:
        """One more."""
        self.kills[target] += 1
        self.at_work[target] += at_work


def planned(targets: Sequence[str], count: int, seed: int) -> list[Death]:
    """So many deaths, each target in its turn of a shuffled round, so that none is left out.

    >>> [death.target for death in planned(["a", "b"], 4, 1)].count("a")
    2
    """
    draw = random.Random(seed)
    found: list[Death] = []
    while len(found) < count:
        found.extend(
            Death(target, draw.uniform(0, LONGEST_AIM_S), draw.random() < AT_ONCE)
            for target in draw.sample(list(targets), len(targets))
        )
    return found[:count]
