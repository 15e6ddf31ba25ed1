"""What does each part of the learning core bring: every method alone, and all but one, on unseen texts?

python benchmarks/learning_ablation.py [--data ../shared/data]

Only the train part of the public data is used: each text is predicted by models that had not seen it (5 folds).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import polars as pl
from peers.public_data import Embedded, Lengths, Pair, Told, lengths_of, pair_of
from rich.console import Console
from rich.table import Table

from tale.learning.evaluation import apgr, kendall_tau, mean_absolute_error, r2_of_log, routing_curve
from tale.learning.features import Request
from tale.learning.router import METHODS, SuccessRouter
from tale.learning.token_budget import TokenBudgetModel

LABELS = 1_500
SEEDS = 3


def variants() -> dict[str, tuple[str, ...]]:
    """Each method alone, all but one, and all, by name."""
    alone = {f"{name} alone": (name,) for name in METHODS}
    without = {f"without {name}": tuple(other for other in METHODS if other != name) for name in METHODS}
    return {**alone, **without, "all": METHODS}


def length_figures(train: Lengths, methods: tuple[str, ...]) -> list[float]:
    """MAE, R2 of the log and tau of lengths of texts not seen; kinds are told, as in the budgets of all sources."""
    model = TokenBudgetModel(methods=methods).fit(train.requests, train.tokens.tolist())
    guess = np.expm1(model.lengths_.unseen_.centre)
    figures = [mean_absolute_error(train.tokens, guess), r2_of_log(train.tokens, guess)]
    return [*figures, kendall_tau(train.tokens, guess, train.groups)]


def routing_figure(pair: Pair, methods: tuple[str, ...], told: Told) -> float:
    """APGR on texts not seen, the mean of some draws of labels."""
    found: list[float] = []
    for seed in range(SEEDS):
        some = pair.taken(np.random.default_rng(seed).permutation(len(pair.weak))[:LABELS])
        requests = told([Request(text, "", kind) for text, kind in zip(some.prompts, some.kinds, strict=True)])
        router = SuccessRouter(methods=methods, seed=seed)
        router.fit(requests, list(zip(some.weak.tolist(), some.strong.tolist(), strict=True)))
        latest = {text: row for row, text in enumerate(dict.fromkeys(reversed(some.prompts)))}
        rows = [latest[text] for text in some.prompts]
        likely = router.heads_.unseen_[rows]
        found.append(apgr(routing_curve(likely[:, 1] - likely[:, 0], some.weak, some.strong)))
    return float(np.mean(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    chosen = parser.parse_args()
    if not (chosen.data / "lengths.parquet").exists():
        sys.exit(f"There is no public data in {chosen.data}; name the folder that holds it with --data.")
    frame = pl.read_parquet(chosen.data / "routing_routellm.parquet")
    frame = frame.filter(~pl.col("contaminated"), bench="mmlu", split="train")
    mmlu = pair_of(frame, "domain", "weak_ok", "strong_ok")
    table = Table(title="Unseen texts of the train part", title_justify="left")
    for heading in ("methods", "AlpacaEval MAE", "R2 of log", "tau", f"MMLU, {LABELS:,} labels: APGR"):
        table.add_column(heading, justify="right")
    rows: list[tuple[str, tuple[str, ...], Told]] = [(*each, list[Request]) for each in variants().items()]
    for name, methods, told in (*rows, ("all, and embeddings", METHODS, Embedded())):
        alpaca = lengths_of(chosen.data, source="alpaca_eval", part="train", told=told)
        error, r2, tau = length_figures(alpaca, methods)
        table.add_row(name, f"{error:.1f}", f"{r2:.3f}", f"{tau:.3f}", f"{routing_figure(mmlu, methods, told):.3f}")
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
