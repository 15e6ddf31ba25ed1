"""The targets of the service as data, and how they stand against what was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

DAY_S: Final = 86_400.0
GIB: Final = 2**30

Sense = Literal["at most", "at least"]
Status = Literal["met", "missed", "unknown"]


@dataclass(frozen=True)
class Source:
    """Where the values are found: a column of the model calls, of one role or of all (None)."""

    column: Literal["time_to_first_token_s", "load_s"]
    role: str | None = None


@dataclass(frozen=True)
class Target:
    """A limit for a percentile of what was measured within a window; with fewer values than `fewest` nothing is said.

    A target without a source is not measured by the running service: a benchmark or a test does.
    """

    name: str
    title: str
    sense: Sense
    limit: float
    unit: Literal["s", "bytes", "share"]
    percentile: float = 0.95
    window_s: float = DAY_S
    fewest: int = 20
    source: Source | None = None


@dataclass(frozen=True)
class Standing:
    """A target and how it stands; `measured` is None where there are too few values, or none at all."""

    target: Target
    values: int
    measured: float | None
    status: Status


TARGETS: Final = (
    Target(
        "ux_first_token", "First words of the chat", "at most", 1.0, "s", source=Source("time_to_first_token_s", "ux")
    ),
    Target("feedback", "Feedback during a long task", "at most", 2.0, "s"),
    Target("simple_task", "A simple task, whole", "at most", 3.0, "s"),
    Target("medium_task", "A medium task, whole", "at most", 300.0, "s"),
    Target("model_switch", "Overhead of switching models", "at most", 0.5, "s"),
    Target("model_load", "Loading or swapping a model", "at most", 10.0, "s", fewest=3, source=Source("load_s")),
    Target("models_memory", "Both models in memory", "at most", 27.0 * GIB, "bytes"),
    Target("routing", "Routing decision", "at most", 1.0, "s"),
    Target("task_detection", "Tasks told from chat", "at least", 0.8, "share"),
    Target("token_savings", "Tokens saved", "at least", 0.6, "share"),
    Target("recovery", "Recovery after a crash", "at most", 30.0, "s"),
    Target("interrupt", "Interrupting a running task", "at most", 10.0, "s"),
)


def standing_of(target: Target, values: Sequence[float]) -> Standing:
    """How a target stands by the values of its window: the nearest-rank percentile against the limit.

    >>> standing_of(Target("x", "X", "at most", 1.0, "s", fewest=2), [0.5, 0.25]).status
    'met'
    >>> standing_of(Target("x", "X", "at most", 1.0, "s", fewest=2), [0.5]).status
    'unknown'
    """
    if not values or len(values) < target.fewest:
        return Standing(target, len(values), None, "unknown")
    share = target.percentile if target.sense == "at most" else 1 - target.percentile
    measured = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    is_met = measured <= target.limit if target.sense == "at most" else measured >= target.limit
    return Standing(target, len(values), measured, "met" if is_met else "missed")
