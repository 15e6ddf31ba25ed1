"""How long does learning from a history take, how much memory, and how soon is one prediction made from it?

python benchmarks/learning_speed.py [--rows 1000 10000 100000]
"""

import argparse
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness import Row, median, quantile, show

from tale.learning.features import Request
from tale.learning.router import SuccessRouter
from tale.learning.token_budget import TokenBudgetModel

ROWS = (1_000, 10_000, 100_000)
FIT_LIMITS_S = {10_000: 20.0, 100_000: 180.0}  # for the two models together, on one core
PREDICTION_LIMIT_MS = 10.0
MEMORY_LIMIT_MB = 1_000.0
PREDICTIONS = 300
WORDS = 4_000
VERBS = ("Write", "Explain", "List", "Classify", "Summarize", "Translate", "Fix", "Describe")
MODELS = ("small", "large")
REPEATED = 0.1  # share of the requests that were made before


@dataclass(frozen=True)
class Measured:
    """What one size took: processor time of both fits, the longest waits for a prediction by both, peak memory."""

    fit_s: float
    predictions_ms: list[float]
    memory_mb: float


def history(rows: int, *, seed: int) -> list[Request]:
    """Requests of 5 to 120 words, frequent ones more often than rare ones, as in a natural language."""
    chance = random.Random(seed)
    vocabulary = ["".join(chance.choices("abcdefghiklmnoprstuvw", k=chance.randint(2, 9))) for _ in range(WORDS)]
    weights = [1 / (rank + 5) for rank in range(WORDS)]
    requests: list[Request] = []
    for _ in range(rows):
        if requests and chance.random() < REPEATED:
            requests.append(Request(chance.choice(requests).text, chance.choice(MODELS)))
            continue
        words = chance.choices(vocabulary, weights, k=chance.randint(5, 120))
        requests.append(Request(f"{chance.choice(VERBS)} {' '.join(words)}.", chance.choice(MODELS)))
    return requests


def measured(rows: int) -> Measured:
    """Fit both models on so many rows, and predict single requests, an odd one among ten of them new and long."""
    chance = random.Random(1)
    requests = history(rows, seed=0)
    tokens = [float(round(len(each.text) * chance.lognormvariate(0, 0.5))) for each in requests]
    outcomes = [(float(chance.random() < 0.6), float(chance.random() < 0.8)) for _ in requests]
    start = time.process_time()
    budgets = TokenBudgetModel().fit(requests, tokens)
    router = SuccessRouter().fit(requests, outcomes, encoder=budgets.lengths_.encoder_)  # as the engine does it
    fit_s = time.process_time() - start
    asked = history(PREDICTIONS, seed=2)
    asked[::10] = [Request("Explain " + each.text * 20, each.model) for each in asked[::10]]
    waits: list[float] = []
    for request in asked:
        start = time.perf_counter()
        budgets.budgets([request])
        router.predict_proba([request])
        waits.append(1e3 * (time.perf_counter() - start))
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(fit_s, waits, peak_kb / 1_000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    sizes: Sequence[int] = parser.parse_args().rows
    table: list[Row] = []
    for size in sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # whose memory is that of this size alone
            found = pool.apply(measured, (size,))
        table += [
            Row(f"{size:,} rows: fit of budgets and router (processor)", found.fit_s, "s", FIT_LIMITS_S.get(size)),
            Row(f"{size:,} rows: peak memory of the process", found.memory_mb, "MB", MEMORY_LIMIT_MB),
            Row(f"{size:,} rows: budget and route of one request, median", median(found.predictions_ms), "ms"),
            Row(f"{size:,} rows: the same, p99", quantile(found.predictions_ms, 0.99), "ms", PREDICTION_LIMIT_MS),
        ]
    return show("Learning and predicting", table)


if __name__ == "__main__":
    sys.exit(main())
