"""How likely requests end in each of several outcomes: calibrated heads over the ensemble of text methods."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tale.learning.encoding import Encoder
from tale.learning.features import FloatArray, Request
from tale.learning.neighbours import History, same_text_key
from tale.learning.text_ensemble import TextEnsemble

SURENESS: Final = 0.002  # no head is ever surer than that of either outcome, and with few answers far less
HALF_SURE_ANSWERS: Final = 2.0  # to the same text weigh as much as what the text suggests
SMALLEST_LEAF: Final = 16  # answers: single outcomes are mostly chance
CALIBRATION_HOLD: Final = 10.0  # rows' worth of belief that the ensemble is calibrated as it is


class OutcomeHeads:
    """Probabilities (n, heads) of outcomes that are each 0 to 1, learned from requests and outcomes (n, heads).

    An outcome that is NaN is unknown; a request without any is left out, and one with some takes the mean for the rest.
    The ensemble's predictions for unseen texts are calibrated by a line on the log-odds (Platt 1999), head by head.
    """

    def __init__(
        self,
        *,
        methods: Sequence[str],
        trees: int,
        most_texts: int,
        use_history: bool,
        contrasts: FloatArray | None,
        seed: int,
    ) -> None:
        self.methods = methods
        self.trees = trees
        self.most_texts = most_texts
        self.use_history = use_history
        self.contrasts = contrasts
        self.seed = seed

    def fit(
        self, requests: Sequence[Request], outcomes: FloatArray, *, encoder: Encoder | None = None
    ) -> "OutcomeHeads":
        """Learn from one or more rows, as an encoder that was fitted tells them, or one of its own."""
        keys, latest, sums, counts = _by_text(requests, outcomes, most=self.most_texts)
        self.encoder_ = encoder or Encoder()
        encoded = encoder.encode_again(latest) if encoder else self.encoder_.fit(latest, seed=self.seed)
        overall = sums.sum(axis=0) / np.maximum(counts.sum(axis=0), 1)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
        answers = counts.max(axis=1)
        self.sureness_: FloatArray = np.maximum(1 / (counts.sum(axis=0) + 2), SURENESS)  # rule of succession
        kinds = [request.kind for request in latest]
        told = [kind for kind in kinds if kind is not None]
        self.ensemble_ = TextEnsemble(
            methods=self.methods,
            trees=self.trees,
            smallest_leaf=SMALLEST_LEAF,
            word_penalty=4.0,
            kernel_penalty=1.0,
            contrasts=self.contrasts,
            seed=self.seed,
        )
        kinds_of = told if len(told) == len(kinds) and len(set(told)) > 1 else None
        self.ensemble_.fit(encoded, means, weights=answers / (answers + 1), kinds=kinds_of)
        self.lines_ = np.array(
            [_line(self.ensemble_.unseen_[:, head], means[:, head], counts[:, head]) for head in range(means.shape[1])]
        )
        self.unseen_ = self._calibrated(self.ensemble_.unseen_)
        surprises = np.where(counts > 0, means - self.unseen_, 0.0)
        self.history_ = History(keys, encoded, surprises=surprises, answers=answers, half_sure=HALF_SURE_ANSWERS)
        return self

    def probabilities(self, requests: Sequence[Request]) -> FloatArray:
        """The probability of each outcome, shape (n, heads)."""
        encoded = self.encoder_.encode(requests)
        likely = self._calibrated(self.ensemble_.predict(encoded))
        if self.use_history and len(requests):
            found = self.history_.evidence([same_text_key(request.text) for request in requests], encoded)
            likely = np.where((found.same >= 0)[:, None], self.unseen_[found.same], likely)
            trust = (found.answers / (found.answers + HALF_SURE_ANSWERS))[:, None]
            likely = likely + trust * found.surprises
        return np.clip(likely, self.sureness_, 1 - self.sureness_)

    def _calibrated(self, raw: FloatArray) -> FloatArray:
        odds = self.lines_[:, 0] + self.lines_[:, 1] * _log_odds(raw)
        return np.asarray(1 / (1 + np.exp(-odds)), dtype=np.float64)


def _log_odds(shares: FloatArray) -> FloatArray:
    inside = np.clip(shares, SURENESS, 1 - SURENESS)
    return np.log(inside / (1 - inside))


def _line(unseen: FloatArray, means: FloatArray, counts: FloatArray) -> tuple[float, float]:
    """Offset and slope on the log-odds that fit outcomes best (Newton's method), held towards leaving them alone."""
    offset, slope = 0.0, 1.0
    odds = _log_odds(unseen)
    rows = np.stack([np.ones_like(odds), odds], axis=1)
    for _ in range(20):
        likely = 1 / (1 + np.exp(-(offset + slope * odds)))
        error = counts * (means - likely)
        curvature = counts * likely * (1 - likely)
        pull = np.array([-offset, 1 - slope]) * CALIBRATION_HOLD
        step = np.linalg.solve(
            rows.T @ (rows * curvature[:, None]) + CALIBRATION_HOLD * np.eye(2), rows.T @ error + pull
        )
        offset, slope = offset + float(step[0]), max(slope + float(step[1]), 0.0)
    return offset, slope


def _by_text(
    requests: Sequence[Request], outcomes: FloatArray, *, most: int
) -> tuple[list[str], list[Request], FloatArray, FloatArray]:
    """The latest distinct texts with any known outcome: keys, a request of each, sums and counts (texts, heads)."""
    numbers: dict[str, int] = {}
    latest: list[Request] = []
    rows: list[NDArray[np.float64]] = []
    owners: list[int] = []
    for request, row in zip(reversed(requests), outcomes[::-1], strict=True):
        key = same_text_key(request.text)
        if np.isnan(row).all() or (key not in numbers and len(latest) >= most):
            continue
        if key not in numbers:
            numbers[key] = len(latest)
            latest.append(request)
        owners.append(numbers[key])
        rows.append(row)
    table = np.array(rows).reshape(len(rows), outcomes.shape[1])
    sums, counts = np.zeros((len(latest), outcomes.shape[1])), np.zeros((len(latest), outcomes.shape[1]))
    np.add.at(sums, owners, np.nan_to_num(table))
    np.add.at(counts, owners, (~np.isnan(table)).astype(np.float64))
    return list(numbers), latest, sums, counts
