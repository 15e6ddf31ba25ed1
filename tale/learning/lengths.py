"""How long an answer will be: the model's habit, what the text suggests, and what came of nearly the same text before.

On the scale log(1 + tokens) an answer is the habit of its model, plus what its text adds, plus chance. What a text adds
is learned from texts (`text_ensemble`) and corrected by earlier answers to nearly the same text with the weight that
the spread within and between texts gives them (best linear unbiased prediction, Henderson 1975). That is the middle of
what may come; the mean is higher, by a factor that the errors of each model and kind tell (smearing, Duan 1983).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tale.learning.encoding import Encoded, Encoder
from tale.learning.features import FloatArray, Request, kind_of
from tale.learning.neighbours import History, same_text_key
from tale.learning.text_ensemble import TextEnsemble

HABIT_STRENGTH: Final = 5.0  # answers of the average model that count in the habit of each
PAIR_STRENGTH: Final = 10.0  # the same for a model's habit with one kind of task
SLOPE_STRENGTH: Final = 40.0  # answers that speak for a slope of one
ROUNDS: Final = 4  # of fitting models and texts in turn
LEAST_SPREAD: Final = 0.05
LEAST_ROWS: Final = 100  # of a kind, for variances of its own
EVERY_KIND: Final = ""
LOAD_STRENGTH: Final = 50.0  # answers that speak for a model that follows its texts as the others do
NOISE_STRENGTH: Final = 20.0  # the same for chance in its answers
LEAST_LOAD, MOST_LOAD = 0.3, 3.0
LEAST_NOISE, MOST_NOISE = 0.25, 4.0  # times the chance in answers of all models
SMEAR_STRENGTH: Final = 10.0  # answers that speak for a mean that is no more than the middle
MOST_ERROR: Final = 3.0  # of the log, as far as it counts in the mean: one that goes round in circles is not the rule
ANSWERS_HALF_SURE: Final = 1.0  # answers to a text after which their mean says as much as chance hides


@dataclass(frozen=True)
class Outlook:
    """The expected log(1 + tokens) of each request, how far off it usually is, and the kind taken for it; all (n,)."""

    centre: FloatArray
    spread: FloatArray
    kinds: NDArray[np.str_]
    answers: FloatArray  # earlier answers to nearly the same text that were counted in
    smear: FloatArray  # the mean of 1 + tokens, where exp(centre) is one


class LengthModel:
    """Learns from requests and log(1 + tokens) (n,); `unseen_` is then the outlook of each row without itself."""

    def __init__(self, *, methods: Sequence[str], trees: int, most_texts: int, use_history: bool, seed: int) -> None:
        self.methods = methods
        self.trees = trees
        self.most_texts = most_texts
        self.use_history = use_history
        self.seed = seed

    def fit(self, requests: Sequence[Request], logs: FloatArray) -> "LengthModel":
        """Learn from one or more rows."""
        text_of, latest = _distinct(requests, most=self.most_texts)
        self.encoder_ = Encoder()
        encoded = self.encoder_.fit(latest, seed=self.seed)
        self.kinds_told_ = all(request.kind is not None for request in requests)
        kinds = np.array([request.kind or kind_of(request.text) for request in latest])
        used = text_of >= 0
        models = np.array([request.model for request in requests])
        self._fit_habits(models[used], text_of[used], logs[used], texts=len(latest))
        answers = np.bincount(text_of[used], minlength=len(latest)).astype(np.float64)
        rest = logs[used] - self._habits(models[used])
        added = np.bincount(text_of[used], weights=rest, minlength=len(latest)) / answers
        self.texts_ = TextEnsemble(methods=self.methods, trees=self.trees, seed=self.seed)
        told = kinds.tolist() if self.kinds_told_ else None
        weights = answers / (answers + ANSWERS_HALF_SURE)
        self.texts_.fit(encoded, added[:, None], weights=weights, kinds=told)
        guess = self.texts_.unseen_[:, 0]
        row_kinds = kinds[np.maximum(text_of, 0)]
        self._fit_slopes(models[used], row_kinds[used], rest, guess[text_of[used]])
        centre = self._centre(models[used], row_kinds[used], guess[text_of[used]])
        errors = logs[used] - centre
        self._fit_spread(encoded, text_of[used], errors, answers, told)
        self._fit_variances(text_of[used], errors, row_kinds[used])
        pairs = _pairs(models[used], row_kinds[used])
        self._fit_smears(pairs, errors)
        self._fit_loads(pairs, text_of[used], errors, row_kinds[used])
        self._keep(latest, encoded, guess, text_of[used], errors, pairs)
        spread = self._spreads(self.spread_.unseen_[text_of[used], 0])
        smear = self._smears(models[used], row_kinds[used])
        self.unseen_ = Outlook(centre, spread, row_kinds[used], np.zeros(int(used.sum())), smear)
        self.rows_used_ = np.flatnonzero(used)
        return self

    def outlook(self, requests: Sequence[Request]) -> Outlook:
        """What is expected of new requests; a model that is not known has the average habit."""
        texts, text_of = _texts(requests)
        encoded = self.encoder_.encode(texts)
        kinds = self.kinds(texts, encoded)[text_of]
        guess = self.texts_.predict(encoded)[text_of, 0]
        spread = self._spreads(self.spread_.predict(encoded)[text_of, 0])
        models = np.array([request.model for request in requests])
        counted = np.zeros(len(requests))
        correction = np.zeros(len(requests))
        if self.use_history:
            found = self.history_.evidence([same_text_key(text.text) for text in texts], encoded)
            same, answers = found.same[text_of], found.answers[text_of]
            guess = np.where(same >= 0, self.guesses_[same], guess)
            counted = np.where(same >= 0, self.counts_[same], answers)
            within, between = self._variances(kinds)
            trust = answers * between / (within + answers * between)
            correction = trust * found.surprises[text_of, 0] * self._loads(models, kinds)
            spread = spread * np.sqrt((within + (1 - trust) * between) / (within + between))
        centre = self._centre(models, kinds, guess) + correction
        return Outlook(centre, spread, kinds, counted, self._smears(models, kinds))

    def kinds(self, requests: Sequence[Request], encoded: Encoded) -> NDArray[np.str_]:
        """The kind of each request: as told, or as learned from those that were told, or by its cues."""
        method = self.texts_.kind_method()
        if method is None:
            return np.array([request.kind or kind_of(request.text) for request in requests])
        likely = method.names_[method.probabilities(encoded).argmax(axis=1)]
        return np.array([request.kind or str(name) for request, name in zip(requests, likely, strict=True)])

    def _variances(self, kinds: NDArray[np.str_]) -> tuple[FloatArray, FloatArray]:
        """Variance within and between texts of the kind of each row."""
        found = [self.variances_.get(str(kind), self.variances_[EVERY_KIND]) for kind in kinds]
        within, between = np.array(found).reshape(-1, 2).T
        return within, between

    def _fit_habits(
        self, models: NDArray[np.str_], text_of: NDArray[np.int64], logs: FloatArray, *, texts: int
    ) -> None:
        """The habit of each model apart from which texts it was given, by fitting models and texts in turn."""
        self.overall_ = float(np.median(logs))
        self.names_, number = np.unique(models, return_inverse=True)
        answers = np.bincount(text_of, minlength=texts)
        habit, text = np.zeros(len(self.names_)), np.zeros(texts)
        for _ in range(ROUNDS):
            left = logs - self.overall_ - text[text_of]
            sums = np.bincount(number, weights=left, minlength=len(habit))
            habit = sums / (np.bincount(number, minlength=len(habit)) + HABIT_STRENGTH)
            left = logs - self.overall_ - habit[number]
            text = np.bincount(text_of, weights=left, minlength=texts) / (answers + ANSWERS_HALF_SURE)
        self.habit_of_ = {str(name): float(value) for name, value in zip(self.names_, habit, strict=True)}

    def _habits(self, models: NDArray[np.str_]) -> FloatArray:
        return self.overall_ + np.array([self.habit_of_.get(str(model), 0.0) for model in models])

    def _fit_slopes(
        self, models: NDArray[np.str_], kinds: NDArray[np.str_], rest: FloatArray, guess: FloatArray
    ) -> None:
        """How strongly each model follows what texts suggest, and its habit with each kind of task."""
        self.slope_of_: dict[str, float] = {}
        hold = SLOPE_STRENGTH * float(np.mean(guess**2)) + 1e-9
        for name in self.names_:
            own = models == name
            top, bottom = float(rest[own] @ guess[own]), float(guess[own] @ guess[own])
            self.slope_of_[str(name)] = (top + hold) / (bottom + hold)
        left = rest - guess * np.array([self.slope_of_[str(model)] for model in models])
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        for pair, value in zip(_pairs(models, kinds), left.tolist(), strict=True):
            sums[pair] += value
            counts[pair] += 1
        self.pair_of_ = {pair: total / (counts[pair] + PAIR_STRENGTH) for pair, total in sums.items()}

    def _centre(self, models: NDArray[np.str_], kinds: NDArray[np.str_], guess: FloatArray) -> FloatArray:
        slopes = np.array([self.slope_of_.get(str(model), 1.0) for model in models])
        pairs = np.array([self.pair_of_.get(pair, 0.0) for pair in _pairs(models, kinds)])
        return self._habits(models) + pairs + slopes * guess

    def _fit_spread(
        self,
        encoded: Encoded,
        text_of: NDArray[np.int64],
        errors: FloatArray,
        answers: FloatArray,
        kinds: Sequence[str] | None,
    ) -> None:
        """How far off the guess of a text is, learned on the log of the mean distance."""
        distance = np.bincount(text_of, weights=np.abs(errors), minlength=len(answers)) / answers
        targets = np.log(distance + LEAST_SPREAD)[:, None]
        weights = answers / (answers + ANSWERS_HALF_SURE)
        methods = tuple(name for name in self.methods if name in ("trees", "kinds"))
        self.spread_ = TextEnsemble(methods=methods, trees=self.trees // 2, smallest_leaf=8, seed=self.seed)
        self.spread_.fit(encoded, targets, weights=weights, kinds=kinds)

    def _spreads(self, logs: FloatArray) -> FloatArray:
        return np.maximum(np.exp(logs), LEAST_SPREAD)

    def _fit_variances(self, text_of: NDArray[np.int64], errors: FloatArray, kinds: NDArray[np.str_]) -> None:
        """How much of what a text adds is its own, and how much chance, for each kind."""
        means = (np.bincount(text_of, weights=errors) / np.maximum(np.bincount(text_of), 1))[text_of]
        chance, total = (errors - means) ** 2, errors**2
        self.variances_ = {EVERY_KIND: _parted(chance, total, len(np.unique(text_of)))}
        for kind in np.unique(kinds):
            own = kinds == kind
            if int(own.sum()) >= LEAST_ROWS:
                self.variances_[str(kind)] = _parted(chance[own], total[own], len(np.unique(text_of[own])))

    def _fit_smears(self, pairs: Sequence[str], errors: FloatArray) -> None:
        """By what factor the mean of 1 + tokens exceeds its middle, for each model and kind (Duan 1983)."""
        names, number = np.unique(np.array(pairs), return_inverse=True)
        sums = np.bincount(number, weights=np.exp(np.clip(errors, -MOST_ERROR, MOST_ERROR)))
        smears = (sums + SMEAR_STRENGTH) / (np.bincount(number) + SMEAR_STRENGTH)
        self.smear_of_ = {str(name): float(value) for name, value in zip(names, smears, strict=True)}

    def _smears(self, models: NDArray[np.str_], kinds: NDArray[np.str_]) -> FloatArray:
        return np.array([self.smear_of_.get(pair, 1.0) for pair in _pairs(models, kinds)])

    def _fit_loads(
        self, pairs: Sequence[str], text_of: NDArray[np.int64], errors: FloatArray, kinds: NDArray[np.str_]
    ) -> None:
        """How far each model, with each kind, goes with the other models' answers to a text, and its own chance.

        One common factor (Spearman 1904), fitted by moments: products of errors of different answers to one text.
        """
        within, between = self._variances(kinds)
        others = np.bincount(text_of)[text_of] - 1
        rest = np.bincount(text_of, weights=errors)[text_of] - errors
        shared = np.where(others > 0, errors * rest / np.maximum(others, 1) / between, 0.0)
        names, number = np.unique(np.array(pairs), return_inverse=True)
        load = np.bincount(number, weights=shared) + LOAD_STRENGTH
        load = np.clip(load / (np.bincount(number, weights=others > 0) + LOAD_STRENGTH), LEAST_LOAD, MOST_LOAD)
        relative = np.bincount(number, weights=errors**2 / (within + between)) + NOISE_STRENGTH
        relative = relative / (np.bincount(number) + NOISE_STRENGTH)
        chance, common = np.zeros(len(names)), np.zeros(len(names))
        chance[number], common[number] = within, between
        noise = np.clip((relative * (chance + common) - common * load**2) / chance, LEAST_NOISE, MOST_NOISE)
        self.load_of_ = {str(name): float(value) for name, value in zip(names, load, strict=True)}
        self.noise_of_ = {str(name): float(value) for name, value in zip(names, noise, strict=True)}

    def _loads(self, models: NDArray[np.str_], kinds: NDArray[np.str_]) -> FloatArray:
        return np.array([self.load_of_.get(pair, 1.0) for pair in _pairs(models, kinds)])

    def _keep(
        self,
        latest: Sequence[Request],
        encoded: Encoded,
        guess: FloatArray,
        text_of: NDArray[np.int64],
        errors: FloatArray,
        pairs: Sequence[str],
    ) -> None:
        """Keep what came of each text; answers of models that go with the others, with little chance, count more."""
        loads = np.array([self.load_of_[pair] for pair in pairs])
        noises = np.array([self.noise_of_[pair] for pair in pairs])
        answers = np.bincount(text_of, weights=loads**2 / noises, minlength=len(latest)).astype(np.float64)
        surprises = np.bincount(text_of, weights=loads * errors / noises, minlength=len(latest)) / answers
        self.guesses_ = guess
        self.counts_ = np.bincount(text_of, minlength=len(latest)).astype(np.float64)
        keys = [same_text_key(request.text) for request in latest]
        within, between = self.variances_[EVERY_KIND]
        self.history_ = History(
            keys, encoded, surprises=surprises[:, None], answers=answers, half_sure=within / between
        )


def _parted(chance: FloatArray, total: FloatArray, texts: int) -> tuple[float, float]:
    """The variance of answers to one text and that between texts, from squared errors about texts' means and at all."""
    whole = float(total.mean()) + 1e-6
    freedom = len(chance) - texts
    within = float(chance.sum()) / freedom if freedom > 0 else 0.5 * whole  # no text twice: half of it may be chance
    return within + 1e-6, max(whole - within, 0.05 * whole)


def _pairs(models: NDArray[np.str_], kinds: NDArray[np.str_]) -> list[str]:
    return [f"{model}\n{kind}" for model, kind in zip(models, kinds, strict=True)]


def _texts(requests: Sequence[Request]) -> tuple[list[Request], NDArray[np.int64]]:
    """What is asked, whichever model it is asked of, and the number of each request's: all but habits depends on it."""
    numbers: dict[Request, int] = {}
    text_of = [numbers.setdefault(replace(request, model=""), len(numbers)) for request in requests]
    return list(numbers), np.array(text_of, dtype=np.int64)


def _distinct(requests: Sequence[Request], *, most: int) -> tuple[NDArray[np.int64], list[Request]]:
    """The number of each request's text among the latest distinct ones (-1: older), and one request of each text."""
    numbers: dict[str, int] = {}
    kept: list[Request] = []
    for request in reversed(requests):
        key = same_text_key(request.text)
        if key not in numbers and len(kept) < most:
            numbers[key] = len(kept)
            kept.append(replace(request))
    return np.array([numbers.get(same_text_key(request.text), -1) for request in requests], dtype=np.int64), kept
