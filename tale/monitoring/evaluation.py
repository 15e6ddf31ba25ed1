"""Holds the targets against the history: each by the values that the running service leaves behind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from tale.monitoring.evidence import Evidence
from tale.monitoring.targets import Standing, Target, standing_of, standing_of_histogram

Values = Callable[[float, float], Sequence[float]]

VALUES: Final[Mapping[str, Callable[[Evidence], Values]]] = {
    "model_load": lambda evidence: evidence.loads,
    "medium_task": lambda evidence: evidence.tasks,
    "interrupt": lambda evidence: evidence.interrupts,
    "models_memory": lambda evidence: evidence.memory,
}
HISTOGRAM: Final = "ux_first_token"


def standings(
    evidence: Evidence, targets: Sequence[Target], *, now: float, window_s: float | None = None
) -> list[Standing]:
    """How each target stands at a time, by its window or another; one that only a benchmark measures is unknown.

    Raises DatabaseException.
    """
    windowed = targets if window_s is None else [replace(target, window_s=window_s) for target in targets]
    return [_standing(evidence, target, now) for target in windowed]


def _standing(evidence: Evidence, target: Target, now: float) -> Standing:
    since = now - target.window_s
    if target.name == HISTOGRAM:
        return standing_of_histogram(target, evidence.first_tokens(since, now))
    values = VALUES.get(target.name)
    return Standing(target, 0, None, "unknown") if values is None else standing_of(target, values(evidence)(since, now))
