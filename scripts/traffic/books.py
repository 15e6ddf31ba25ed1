"""Five sets of books on the same calls, and where they do not agree."""

import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from tale.storage.database import Database
from tale.storage.rollups import Rollups
from traffic.engine import CountingEngine

COUNTED = ("calls", "completed", "failed", "cancelled", "unreported", "fallbacks")
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
FIGURES = (*COUNTED, *TOKENS)
AHEAD_S = 3_600  # the last minutes are rolled up as if they had closed an hour ago

Books = dict[str, int]


def engine_books(engine: CountingEngine) -> Books:
    """What the engine says. It does not know in whose place it was asked."""
    books = {name: engine.books[name] for name in (*COUNTED, *TOKENS) if name != "fallbacks"}
    books["unreported"] += books["failed"] + books["cancelled"]
    return books


def table_books(database: Path) -> Books:
    """What the rows of the calls add up to."""
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in TOKENS)
    query = f"""SELECT count(*), sum(error_class IS NULL), coalesce(sum(error_class != 'Cancelled'), 0),
        coalesce(sum(error_class = 'Cancelled'), 0), sum(input_tokens IS NULL AND output_tokens IS NULL),
        sum(model != requested_model), {sums} FROM model_calls"""
    return dict(zip(FIGURES, rows_of(database, query)[0], strict=True))


async def rollup_books(database: Path) -> tuple[Books, tuple[int, ...]]:
    """What the sums by the minute add up to, all minutes closed; and the minutes that a verification finds wrong."""
    opened = Database.open(f"sqlite:///{database}")
    try:
        rollups = Rollups(opened)
        await rollups.catch_up(time.time() + AHEAD_S)
        wrong = (await rollups.verify()).wrong_minutes
    finally:
        await opened.close()
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in ("calls", *COUNTED[2:], *TOKENS))
    calls, failed, cancelled, *rest = rows_of(database, f"SELECT {sums} FROM rollup_minute")[0]
    values = (calls, calls - failed - cancelled, failed, cancelled, *rest)
    return dict(zip(FIGURES, values, strict=True)), wrong


def metrics_books(pages: Sequence[str]) -> Books:
    """What the pages of all processes add up to."""
    found: Counter[str] = Counter()
    for page in pages:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                found[sample.name] += int(sample.value)
                if sample.name == "tale_model_calls_total":
                    found[sample.labels["outcome"]] += int(sample.value)
    books = {"calls": found["tale_model_calls_total"]}
    books |= {name: found[name] for name in ("completed", "failed", "cancelled")}
    books |= {
        "unreported": found["tale_model_calls_unreported_total"],
        "fallbacks": found["tale_model_fallbacks_total"],
    }
    return books | {name: found[f"tale_model_{name}_total"] for name in TOKENS}


def export_books(file: Path) -> Books:
    """What the rows of an exported file add up to."""
    rows = pl.read_parquet(file)
    error, asked = pl.col("error_class"), pl.col("requested_model")
    told = rows.select(
        calls=pl.len(),
        completed=error.is_null().sum(),
        failed=(error != "Cancelled").sum(),
        cancelled=(error == "Cancelled").sum(),
        unreported=(pl.col("input_tokens").is_null() & pl.col("output_tokens").is_null()).sum(),
        fallbacks=(asked != pl.col("model")).sum(),
        **{name: pl.col(name).sum() for name in TOKENS},
    )
    return {name: int(value) for name, value in told.row(0, named=True).items()}


def compared(books: Mapping[str, Books]) -> list[str]:
    """The figures on which the books do not agree; one that a book does not know is not asked of it."""
    return [name for name in FIGURES if len({book[name] for book in books.values() if name in book}) != 1]


def show(books: Mapping[str, Books]) -> None:
    """Print the books beside each other."""
    wrong = compared(books)
    table = Table(title="A day of traffic", title_justify="left")
    table.add_column("figure")
    for name in (*books, ""):
        table.add_column(name, justify="right")
    for figure in FIGURES:
        cells = [f"{book[figure]:,}" if figure in book else "-" for book in books.values()]
        table.add_row(figure.replace("_", " "), *cells, "DIFFERS" if figure in wrong else "ok")
    Console(width=110).print(table)


def rows_of(database: Path, query: str) -> list[Any]:
    """What a query finds in a SQLite file."""
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()
