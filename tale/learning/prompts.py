"""Which instructions a task goes out with: a few variants, of which each model and kind of task finds its own; pure.

A variant is chosen by Thompson sampling (Thompson 1933; Chapelle and Li 2011): the one with the fewest tokens of those
that succeed as often as the default. How long answers are with each is told by the model of lengths; here is counted
how many there were, and how many were right. A kind of task about which little is known borrows from all kinds that
the model was given; one about which nothing is known goes out as ever.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

DEFAULT: Final = "default"
STATED: Final = "stated"
VARIANTS: Final[Mapping[str, str]] = {
    DEFAULT: "",  # a task's own instructions
    "brief": "Answer as briefly as is right.",
    "direct": "Give only the answer, code in a fenced block.",
    STATED: "Answer in at most {words} words.",
}
DEFAULT_CHARACTERS: Final = 148  # of a task's own instructions
CHARACTERS_A_TOKEN: Final = 4.5  # of English, roughly, in the vocabularies of today's models
WORDS_A_TOKEN: Final = 0.75
ROUND_WORDS: Final = (5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800)

LEAST_TRIED: Final = 20  # answers of known success, before a variant is more than a trial
LEAST_OF_KIND: Final = 5  # of them with tasks of the kind: what suits a sum need not suit a poem
TRIED_SHARE: Final = 0.2  # of checked tasks, the most that are not given what seems best
AS_GOOD: Final = 0.03  # of success, by which a variant may seem to do worse than the default
FREE_OF_A_KEY: Final = 10  # answers of one key to a variant that count in any case
SHARE_OF_A_KEY: Final = 0.1  # of a variant's answers, that those of one key may make
BORROWED: Final = 50.0  # answers that what is known of all kinds counts for in one
DEVIATION: Final = 0.8  # of the log of an answer's tokens about what was expected
ALL_KINDS: Final = ""


def instruction_of(variant: str, stated_tokens: int | None) -> str | None:
    """What a model is told in place of a task's own instructions; None where these stay.

    >>> instruction_of("stated", 60), instruction_of("default", None), instruction_of("unheard of", None)
    ('Answer in at most 60 words.', None, None)
    """
    text = VARIANTS.get(variant, "")
    if variant == STATED and stated_tokens is None:
        return None
    return text.format(words=words_of_tokens(stated_tokens or 0)) or None


def words_of_tokens(tokens: int) -> int:
    """So many tokens as a round number of words, no fewer than they are.

    >>> words_of_tokens(6), words_of_tokens(60), words_of_tokens(2_000)
    (5, 60, 1500)
    """
    words = WORDS_A_TOKEN * tokens
    return next((number for number in ROUND_WORDS if number >= words), math.ceil(words / 100) * 100)


def instruction_tokens(variant: str) -> float:
    """About how many tokens the instructions have."""
    return (len(VARIANTS[variant]) or DEFAULT_CHARACTERS) / CHARACTERS_A_TOKEN


def known_as(model: str, variant: str) -> str:
    """The name by which lengths of a model's answers with a variant are learned: a habit of their own.

    >>> known_as("large", "default"), known_as("large", "brief")
    ('large', 'large (brief)')
    """
    return model if variant == DEFAULT else f"{model} ({variant})"


@dataclass
class Arm:
    """What came of a variant: answers in all, and those known to be right and wrong."""

    answers: int = 0
    right: int = 0
    wrong: int = 0
    of_key: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def judged(self) -> int:
        """Answers of which it is known whether they were right."""
        return self.right + self.wrong

    def observe(self, *, succeeded: bool | None, key_name: str | None) -> None:
        """Count an answer, unless its key has had its share."""
        if key_name is not None:
            count = self.of_key.get(key_name, 0)
            if count >= max(FREE_OF_A_KEY, SHARE_OF_A_KEY * self.answers):
                return
            self.of_key[key_name] = count + 1
        self.answers += 1
        self.right += succeeded is True
        self.wrong += succeeded is False


@dataclass(frozen=True)
class Belief:
    """What is believed of a variant for a task: its tokens, those of the instructions among them, with the standard
    error of their log, and a beta distribution of its success."""

    tokens: float
    error: float
    right: float
    wrong: float

    @property
    def likeliest(self) -> tuple[float, float]:
        """Tokens and success as they are expected."""
        return self.tokens, self.right / (self.right + self.wrong)

    def drawn(self, randomness: random.Random) -> tuple[float, float]:
        """Tokens and success that may well be true."""
        return self.tokens * randomness.lognormvariate(0, self.error), randomness.betavariate(self.right, self.wrong)


@dataclass(frozen=True)
class Chosen:
    """A variant; `explored` where it was chosen to learn how it does."""

    variant: str
    explored: bool = False


class PromptVariants:
    """Knows what came of variants, by model and kind of task, and chooses one for the next task."""

    def __init__(self, told: Mapping[str, Any] | None = None) -> None:
        """`told` is what `as_json` gave. Raises TypeError and AttributeError for anything else."""
        self._arms: dict[str, dict[str, dict[str, Arm]]] = {
            model: {kind: {name: Arm(**arm) for name, arm in arms.items()} for kind, arms in kinds.items()}
            for model, kinds in (told or {}).items()
        }

    def as_json(self) -> dict[str, Any]:
        """All that is known, as JSON can hold it."""
        return {
            model: {kind: {name: asdict(arm) for name, arm in arms.items()} for kind, arms in kinds.items()}
            for model, kinds in self._arms.items()
        }

    def observe(self, model: str, kind: str, variant: str, *, succeeded: bool | None, key_name: str | None) -> None:
        """Take in an answer, and whether it was right (None: unknown)."""
        if variant not in VARIANTS:
            return  # of a later tale, or one that was given up
        kinds = self._arms.setdefault(model, {})
        for name in (kind, ALL_KINDS):
            arm = kinds.setdefault(name, {}).setdefault(variant, Arm())
            arm.observe(succeeded=succeeded, key_name=key_name)

    def choose(
        self,
        model: str,
        kind: str,
        *,
        tokens: Mapping[str, float],
        may_try: bool,
        randomness: random.Random | None,
    ) -> Chosen:
        """The variant for a task whose answer is expected to have so many tokens with each of them.

        Nothing is tried without randomness.
        """
        known = [name for name in VARIANTS if name == DEFAULT or self._is_known(model, kind, name)]
        beliefs = {name: self._belief(model, kind, name, tokens[name]) for name in known}
        best = _cheapest({name: belief.likeliest for name, belief in beliefs.items()})
        if not may_try or randomness is None or randomness.random() >= TRIED_SHARE:
            return Chosen(best)
        if new := [name for name in VARIANTS if name not in known]:
            return Chosen(randomness.choice(new), explored=True)
        tried = _cheapest({name: belief.drawn(randomness) for name, belief in beliefs.items()})
        return Chosen(tried, explored=tried != best)

    def _is_known(self, model: str, kind: str, variant: str) -> bool:
        own, every = self._arm(model, kind, variant), self._arm(model, ALL_KINDS, variant)
        return own.judged >= LEAST_OF_KIND and every.judged >= LEAST_TRIED

    def _arm(self, model: str, kind: str, variant: str) -> Arm:
        return self._arms.get(model, {}).get(kind, {}).get(variant, Arm())

    def _belief(self, model: str, kind: str, variant: str, tokens: float) -> Belief:
        """What the answers of this kind say, with those of all kinds as so many more."""
        own, every = self._arm(model, kind, variant), self._arm(model, ALL_KINDS, variant)
        borrowed = min(BORROWED, every.judged) / max(every.judged, 1)
        right, wrong = own.right + borrowed * every.right, own.wrong + borrowed * every.wrong
        return Belief(
            instruction_tokens(variant) + tokens, DEVIATION / math.sqrt(own.answers + 1), right + 0.5, wrong + 0.5
        )


def _cheapest(figures: Mapping[str, tuple[float, float]]) -> str:
    """The variant with the fewest tokens of those that succeed as often as the default."""
    _, wanted = figures[DEFAULT]
    as_good = [name for name, (_, success) in figures.items() if success >= wanted - AS_GOOD]
    return min(as_good, key=lambda name: figures[name][0])
