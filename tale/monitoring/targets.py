"""The targets of the service as data, and how they stand against what was measured. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tale.histogram import Histogram, bucket_of, percentile

DAY_S: Final = 86_400.0
GIB: Final = 2**30

Sense = Literal["at most", "at least"]
Status = Literal["met", "missed", "unknown"]


@dataclass(frozen=True)
class Target:
    """A limit for a percentile of what was measured within a window; with fewer values than `fewest` nothing is said.

    `bar` is a stricter limit that tale sets itself. `evidence` says what the running service measures it by, or which
    benchmark or script does. `action` is what to do first when it is missed.
    """

    name: str
    title: str
    sense: Sense
    limit: float
    unit: Literal["s", "bytes", "share"]
    percentile: float = 0.95
    window_s: float = DAY_S
    fewest: int = 20
    bar: float | None = None
    evidence: str = ""
    action: str = ""

    @property
    def allowed_share(self) -> float:
        """The share of values that may lie beyond the limit."""
        return 1 - self.percentile


@dataclass(frozen=True)
class Standing:
    """A target and how it stands; `measured` is None where there are too few values, or none at all.

    `beyond` of the values lie beyond the limit. The burn rate is their share as a multiple of what is allowed: at 1 the
    target is just met ("The Site Reliability Workbook", 2018, chapter 5).
    """

    target: Target
    values: int
    measured: float | None
    status: Status
    beyond: int | None = None
    burn_rate: float | None = None

    @property
    def action(self) -> str | None:
        """What to do first, where the target is missed."""
        return self.target.action if self.status == "missed" else None


TARGETS: Final = (
    Target(
        "ux_first_token",
        "First words of the chat",
        "at most",
        1.0,
        "s",
        evidence="time to first token of the small model's answers in chats",
        action="Give the small model a smaller context or fewer threads to share: tale config show, ux_context_tokens.",
    ),
    Target(
        "feedback",
        "Feedback during a long task",
        "at most",
        2.0,
        "s",
        evidence="benchmarks/task_times.py",
        action="See whether the machine swaps: tale doctor.",
    ),
    Target(
        "simple_task",
        "A simple task, whole",
        "at most",
        3.0,
        "s",
        evidence="benchmarks/task_times.py",
        action="Have short tasks done by the small model: routing = auto.",
    ),
    Target(
        "medium_task",
        "A medium task, whole",
        "at most",
        300.0,
        "s",
        evidence="completed tasks of any kind, from hand-in to end",
        action="Lower max_output_tokens, or raise task_slots so that tasks wait less.",
    ),
    Target(
        "model_switch",
        "Overhead of switching models",
        "at most",
        0.5,
        "s",
        evidence="benchmarks/task_times.py",
        action="Keep both models loaded: raise memory_limit_bytes.",
    ),
    Target(
        "model_load",
        "Loading or swapping a model",
        "at most",
        10.0,
        "s",
        fewest=3,
        evidence="calls that waited for a model",
        action="Keep the models loaded (memory_limit_bytes), or put their files on a faster disk.",
    ),
    Target(
        "models_memory",
        "Both models in memory",
        "at most",
        27.0 * GIB,
        "bytes",
        evidence="samples of the monitor",
        action="Choose a smaller task model, or a smaller context: tale models list.",
    ),
    Target(
        "routing",
        "Routing decision",
        "at most",
        1.0,
        "s",
        percentile=0.99,
        bar=0.01,
        evidence="benchmarks/prediction_latency.py",
        action="See whether the learning server is overloaded: tale servers status.",
    ),
    Target(
        "task_detection",
        "Tasks told from chat",
        "at least",
        0.8,
        "share",
        bar=0.95,
        evidence="scripts/detection_report.py, of the labelled sentences in data/intents",
        action="Say in the chat what was meant: corrections are learned from.",
    ),
    Target(
        "token_savings",
        "Tokens saved",
        "at least",
        0.6,
        "share",
        evidence="benchmarks/token_savings.py",
        action="Let the router choose: routing = auto.",
    ),
    Target(
        "recovery",
        "Recovery after a crash",
        "at most",
        30.0,
        "s",
        evidence="benchmarks/recovery_time.py",
        action="See in the log why processes end: tale doctor.",
    ),
    Target(
        "interrupt",
        "Interrupting a running task",
        "at most",
        10.0,
        "s",
        fewest=3,
        bar=1.0,
        evidence="cancelled tasks, from the request to the end",
        action="Give the engine smaller batches, which it can stop between: an embedded model does.",
    ),
)


def limit_of(name: str, targets: Sequence[Target] = TARGETS) -> float:
    """The limit of one of the targets.

    >>> limit_of("model_load")
    10.0
    """
    return next(target.limit for target in targets if target.name == name)


def standing_of(target: Target, values: Sequence[float]) -> Standing:
    """How a target stands by the values of its window: the nearest-rank percentile against the limit.

    >>> standing_of(Target("x", "X", "at most", 1.0, "s", fewest=2), [0.5, 0.25]).status
    'met'
    >>> standing_of(Target("x", "X", "at most", 1.0, "s", fewest=2), [0.5]).status
    'unknown'
    """
    is_most = target.sense == "at most"
    beyond = sum(value > target.limit if is_most else value < target.limit for value in values)
    share = target.percentile if is_most else target.allowed_share
    return _standing(target, len(values), nearest_rank(values, share), beyond)


def nearest_rank(values: Sequence[float], share: float) -> float | None:
    """The least of the values that so large a share of them does not exceed; None of no values.

    >>> nearest_rank([3.0, 1.0, 2.0], 0.5), nearest_rank([], 0.5)
    (2.0, None)
    """
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def standing_of_histogram(target: Target, histogram: Histogram) -> Standing:
    """The same of a histogram: the percentile is less than 2 % off, and so is the limit for values close to it."""
    edge, is_most = bucket_of(target.limit), target.sense == "at most"
    beyond = sum(count for bucket, count in histogram.items() if (bucket > edge if is_most else bucket < edge))
    measured = percentile(histogram, target.percentile if is_most else target.allowed_share)
    return _standing(target, sum(histogram.values()), measured, beyond)


def _standing(target: Target, values: int, measured: float | None, beyond: int) -> Standing:
    if measured is None or values < target.fewest:
        return Standing(target, values, None, "unknown", beyond)
    is_met = measured <= target.limit if target.sense == "at most" else measured >= target.limit
    burn_rate = beyond / values / target.allowed_share
    return Standing(target, values, measured, "met" if is_met else "missed", beyond, burn_rate)
