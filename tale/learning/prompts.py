"""Which instructions a task goes out with: a few variants, of which each model and kind of task finds its own; pure.

A task gets the one with the fewest tokens of those that succeed as often as the default, as far as can be told; now and
then a checked task gets another, by Thompson sampling (Thompson 1933; Chapelle and Li 2011). How long answers are with
each is told by the model of lengths; here is counted how many there were, and how many were right.

What a kind of task borrows from the others is how much more often a variant is right than the default; by random
effects (DerSimonian and Laird 1986), so that it says less where kinds differ. Nothing is borrowed where it would not
tell: by kinds whose right answers are not short, and for tasks whose answers are longer than those that were judged.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

DEFAULT: Final = "default"
STATED: Final = "limited"
VARIANTS: Final[Mapping[str, str]] = {
    DEFAULT: "",  # a task's own instructions
    "sentence": "Answer in one sentence, or with code alone.",
    "direct": "Give only the answer, code in a fenced block.",
    STATED: "Give only the answer, code in a fenced block, in at most {words} words.",
}
DEFAULT_CHARACTERS: Final = 148  # of a task's own instructions
CHARACTERS_A_TOKEN: Final = 4.5  # of English, roughly, in the vocabularies of today's models
WORDS_A_TOKEN: Final = 0.75
ROUND_WORDS: Final = (5, 10, 15, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800)

LEAST_TRIED: Final = 20  # answers of known success, before a variant is more than a trial
LEAST_OF_KIND: Final = 5  # of them with tasks of the kind, before it is known for that kind
LEAST_BETWEEN: Final = 0.05  # of success, by which what a variant brings may differ between kinds, whatever was seen
SURE: Final = 0.84  # standard errors against a variant, where nobody checks: four times of five it is no worse
USUAL: Final = 1.28  # standard deviations above the mean log, which nine of ten answers stay within
OPEN: Final = frozenset({"story", "document", "explain"})  # kinds that borrow nothing: a right answer is no short one
TRIED_SHARE: Final = 0.2  # of checked tasks, the most that are not given what seems best
AS_GOOD: Final = 0.03  # of success, by which a variant may seem to do worse than the default
FREE_OF_A_KEY: Final = 10  # judged answers of one key to a variant that count in any case
SHARE_OF_A_KEY: Final = 0.1  # of a variant's judged answers: one key that has as many brings no more
DEVIATION: Final = 0.8  # of the log of an answer's tokens about what was expected
ALL_KINDS: Final = ""

Gap = tuple[float, float]  # how much more often a variant is right than the default, and the variance of that
UNKNOWN: Final[Gap] = (0.0, math.inf)


def instruction_of(variant: str, stated_tokens: int | None) -> str | None:
    """What a model is told in place of a task's own instructions; None where these stay.

    >>> instruction_of("limited", 60), instruction_of("default", None), instruction_of("unheard of", None)
    ('Give only the answer, code in a fenced block, in at most 60 words.', None, None)
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

    >>> known_as("large", "default"), known_as("large", "direct")
    ('large', 'large (direct)')
    """
    return model if variant == DEFAULT else f"{model} ({variant})"


@dataclass
class Arm:
    """What came of a variant: answers in all, and those known to be right and wrong.

    `measured` of these have a known length; of its log are the sums. `of_key` is how many each key judged.
    """

    answers: int = 0
    right: int = 0
    wrong: int = 0
    measured: int = 0
    log_sum: float = 0.0
    log_squares: float = 0.0
    of_key: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def judged(self) -> int:
        """Answers of which it is known whether they were right."""
        return self.right + self.wrong

    @property
    def usual_tokens(self) -> float:
        """Tokens that nine of ten judged answers stay within, were their logs normal; 0 where there is none."""
        if not self.measured:
            return 0.0
        mean = self.log_sum / self.measured
        variance = max(self.log_squares / self.measured - mean**2, 0.0)
        return math.expm1(mean + USUAL * math.sqrt(variance))

    def has_share(self, key_name: str | None) -> bool:
        """Whether that key judged as many answers as it may."""
        return self.of_key.get(key_name or "", 0) >= max(FREE_OF_A_KEY, SHARE_OF_A_KEY * self.judged)

    def observe(self, *, succeeded: bool | None, key_name: str | None, tokens: int | None) -> None:
        """Count an answer."""
        self.answers += 1
        if succeeded is None:
            return
        self.right += succeeded
        self.wrong += not succeeded
        if key_name is not None:
            self.of_key[key_name] = self.of_key.get(key_name, 0) + 1
        if tokens is not None:
            self.measured += 1
            self.log_sum += math.log1p(tokens)
            self.log_squares += math.log1p(tokens) ** 2


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
        self._gaps: dict[tuple[str, str, str], Gap] = {}  # by model, kind and variant, until the next answer

    def as_json(self) -> dict[str, Any]:
        """All that is known, as JSON can hold it."""
        return {
            model: {kind: {name: asdict(arm) for name, arm in arms.items()} for kind, arms in kinds.items()}
            for model, kinds in self._arms.items()
        }

    def observe(
        self,
        model: str,
        kind: str,
        variant: str,
        *,
        succeeded: bool | None,
        key_name: str | None,
        tokens: int | None,
        is_bounded: bool = True,
    ) -> None:
        """Take in an answer, whether it was right and how long it was (None: unknown).

        A key that has its share of the variant judges no more of it, if that `is_bounded` and others have judged, too.
        """
        if variant not in VARIANTS:
            return  # of a later tale, or one that was given up
        is_held = is_bounded and key_name is not None and succeeded is not None and self._others_judged(key_name)
        kinds = self._arms.setdefault(model, {})
        for name in (kind, ALL_KINDS):
            arm = kinds.setdefault(name, {}).setdefault(variant, Arm())
            if not is_held or not arm.has_share(key_name):
                arm.observe(succeeded=succeeded, key_name=key_name, tokens=tokens)
        self._gaps.clear()

    def choose(
        self,
        model: str,
        kind: str,
        *,
        tokens: Mapping[str, float],
        default_mean_tokens: float,
        has_check: bool,
        randomness: random.Random | None,
    ) -> Chosen:
        """The variant for a task whose answer has so many tokens with each of them, by the median.

        With a check a bad answer is noticed: what is likely is enough then, and now and then another one is tried;
        nothing is without randomness.
        """
        costs = {name: instruction_tokens(name) + tokens[name] for name in VARIANTS}
        others = [name for name in VARIANTS if name != DEFAULT]
        doubt = 0.0 if has_check else SURE
        is_judged = self._is_judged(model, kind, default_mean_tokens)
        good = [name for name in others if is_judged and self._is_as_good(model, kind, name, doubt=doubt)]
        best = min((DEFAULT, *good), key=lambda name: costs[name])
        if not has_check or randomness is None or randomness.random() >= TRIED_SHARE:
            return Chosen(best)
        new = [name for name in others if not self._is_known(model, kind, name)]
        tried = randomness.choice(new) if new else self._drawn(model, kind, costs, randomness)
        return Chosen(tried, explored=tried != best)

    def gap(self, model: str, kind: str, variant: str) -> Gap:
        """By how much more often a variant is right than the default, and the variance of that.

        What the kind's own answers say is held towards what other kinds say of one that is not among them, by how sure
        either is. By how much kinds differ, all of them tell: one that is plainly unlike the others borrows less.
        """
        if variant == DEFAULT:
            return 0.0, 0.0
        key = (model, kind, variant)
        if key not in self._gaps:
            self._gaps[key] = self._estimated(*key)
        return self._gaps[key]

    def _estimated(self, model: str, kind: str, variant: str) -> Gap:
        kinds = [name for name in self._arms.get(model, {}) if name != ALL_KINDS]
        arms = {name: (self._arm(model, name, variant), self._arm(model, name, DEFAULT)) for name in kinds}
        gaps = {name: _difference(*both) for name, both in arms.items() if all(arm.judged for arm in both)}
        between = _between(list(gaps.values()))
        own = gaps.pop(kind, None)
        mean, variance = UNKNOWN if kind in OPEN else _elsewhere(list(gaps.values()), between)
        if own is None:
            return mean, variance
        if math.isinf(variance):
            return own
        trust = variance / (variance + own[1])
        return mean + trust * (own[0] - mean), (1 - trust) * variance

    def _others_judged(self, key_name: str) -> bool:
        """Whether not all that was judged so far is of that key."""
        every = (arm for kinds in self._arms.values() for arm in kinds.get(ALL_KINDS, {}).values())
        return any(arm.judged > arm.of_key.get(key_name, 0) for arm in every)

    def _is_judged(self, model: str, kind: str, default_tokens: float) -> bool:
        """Whether answers as long as that by default were judged; of all kinds, where few of the kind were."""
        own = self._arm(model, kind, DEFAULT)
        arm = own if own.measured >= LEAST_OF_KIND else self._arm(model, ALL_KINDS, DEFAULT)
        return default_tokens <= arm.usual_tokens

    def _is_as_good(self, model: str, kind: str, variant: str, *, doubt: float) -> bool:
        """Whether a variant is right as often as the default, with so many standard errors against it."""
        if self._arm(model, ALL_KINDS, variant).judged < LEAST_TRIED:
            return False
        if kind in OPEN and self._arm(model, kind, variant).judged < LEAST_OF_KIND:
            return False
        mean, variance = self.gap(model, kind, variant)
        return math.isfinite(variance) and mean - doubt * math.sqrt(variance) >= -AS_GOOD

    def _is_known(self, model: str, kind: str, variant: str) -> bool:
        own, every = self._arm(model, kind, variant), self._arm(model, ALL_KINDS, variant)
        return own.judged >= LEAST_OF_KIND and every.judged >= LEAST_TRIED

    def _drawn(self, model: str, kind: str, costs: Mapping[str, float], randomness: random.Random) -> str:
        """What would be best, were costs and gaps as they well may be."""
        drawn: dict[str, float] = {}
        for name, cost in costs.items():
            mean, variance = self.gap(model, kind, name)
            error = DEVIATION / math.sqrt(self._arm(model, kind, name).answers + 1)
            maybe = cost * randomness.lognormvariate(0, error)
            if name == DEFAULT or randomness.gauss(mean, math.sqrt(variance)) >= -AS_GOOD:
                drawn[name] = maybe
        return min(drawn, key=lambda name: drawn[name])

    def _arm(self, model: str, kind: str, variant: str) -> Arm:
        return self._arms.get(model, {}).get(kind, {}).get(variant, Arm())


def _difference(new: Arm, old: Arm) -> Gap:
    """How much more often one of two arms is right, and the variance of that, were both right equally often.

    An answer of either outcome is added to those that tell the variance: where all were right, it is not nothing.
    """
    share = (new.right + old.right + 1) / (new.judged + old.judged + 2)
    variance = share * (1 - share) * (1 / new.judged + 1 / old.judged)
    return new.right / new.judged - old.right / old.judged, variance


def _between(gaps: Sequence[Gap]) -> float:
    """The variance by which kinds truly differ, by moments (DerSimonian and Laird 1986); at least what is assumed."""
    least = LEAST_BETWEEN**2
    if len(gaps) < 2:  # noqa: PLR2004 - one does not differ
        return least
    weights = [1 / variance for _, variance in gaps]
    mean = _weighted_mean(gaps, weights)
    excess = sum(weight * (gap - mean) ** 2 for weight, (gap, _) in zip(weights, gaps, strict=True)) - len(gaps) + 1
    room = sum(weights) - sum(weight**2 for weight in weights) / sum(weights)
    return max(least, excess / room)


def _elsewhere(gaps: Sequence[Gap], between: float) -> Gap:
    """What these kinds say of one that is not among them, where kinds differ by that variance."""
    if not gaps:
        return UNKNOWN
    weights = [1 / (variance + between) for _, variance in gaps]
    return _weighted_mean(gaps, weights), between + 1 / sum(weights)


def _weighted_mean(gaps: Sequence[Gap], weights: Sequence[float]) -> float:
    return sum(weight * gap for weight, (gap, _) in zip(weights, gaps, strict=True)) / sum(weights)
