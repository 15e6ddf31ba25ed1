"""Figures with their intervals beside the goals that they are held to."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tale.learning.evaluation import Interval


@dataclass(frozen=True)
class Result:
    """One row: a figure with its interval, those of the baselines, and the goal, if it has one."""

    what: str
    measured: Interval
    baselines: str = ""
    goal: str = ""
    met: bool | None = None


def least(what: str, measured: Interval, baselines: str, goal: float) -> Result:
    """A row whose figure is to be at least the goal."""
    return Result(what, measured, baselines, f">= {goal:g}", measured.value >= goal)


def most(what: str, measured: Interval, baselines: str, goal: float) -> Result:
    """A row whose figure is to be at most the goal."""
    return Result(what, measured, baselines, f"<= {goal:g}", measured.value <= goal)


def show(title: str, results: Sequence[Result]) -> int:
    """Print the table; returns how many goals were missed."""
    table = Table(title=title, title_justify="left")
    for heading in ("what", "measured", "baselines", "goal", ""):
        table.add_column(heading, overflow="fold")
    for row in results:
        found = row.measured
        verdict = "" if row.met is None else "met" if row.met else "MISSED"
        text = f"{found.value:.4g} \\[{found.low:.4g}, {found.high:.4g}]"
        table.add_row(row.what, text, row.baselines, row.goal, verdict)
    Console(width=150).print(table)
    return sum(row.met is False for row in results)
