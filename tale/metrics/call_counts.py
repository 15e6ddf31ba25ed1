"""Counts what this process recorded since it began: calls, tokens, and how long they took. Pure."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tale.records import McpCall, ModelCall
from tale.storage.usage import CANCELLED, TOKENS

# Upper bounds in seconds. Those of model calls double, as OpenTelemetry's conventions for generative AI advise.
MODEL_BOUNDS_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84)
REQUEST_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
UNKNOWN: Final = "unknown"


class ModelKey(NamedTuple):
    """What the figures of model calls are kept apart by."""

    provider: str
    model: str
    role: str
    operation: str


class RequestKey(NamedTuple):
    """What the figures of requests are kept apart by; `tool` is empty where none was called."""

    server: str
    method: str
    tool: str


class Durations:
    """How many durations there were up to each bound, and what they add up to in seconds."""

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)  # the last one is of what lasted longer than all bounds
        self.sum_s = 0.0

    def add(self, duration_s: float | None) -> None:
        """Count one duration, unless it is unknown."""
        if duration_s is not None:
            self.counts[bisect_left(self.bounds_s, duration_s)] += 1
            self.sum_s += duration_s


def _of_models() -> Durations:
    return Durations(MODEL_BOUNDS_S)


@dataclass(slots=True)
class ModelFigures:
    """Of the calls of one kind: how they ended, the tokens that engines reported, and how long they took."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    tokens: Counter[str] = field(default_factory=Counter[str])
    unreported: int = 0  # calls of which no engine told the tokens
    fallbacks: int = 0  # another model answered than the one that was asked
    total: Durations = field(default_factory=_of_models)
    first_token: Durations = field(default_factory=_of_models)
    queue: Durations = field(default_factory=_of_models)


@dataclass(slots=True)
class RequestFigures:
    """Of the requests of one kind: how they ended, and how long they took."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    latency: Durations = field(default_factory=lambda: Durations(REQUEST_BOUNDS_S))


class CallCounts:
    """The figures by kind. They only grow, and begin at nothing with each process."""

    def __init__(self) -> None:
        self.models: dict[ModelKey, ModelFigures] = {}
        self.requests: dict[RequestKey, RequestFigures] = {}
        self._methods: set[str] = set()

    def model_call_ended(self, call: ModelCall) -> None:
        """Count a model call that ended."""
        key = ModelKey(call.provider, call.model, call.role, call.operation)
        figures = self.models.get(key)
        if figures is None:
            figures = self.models[key] = ModelFigures()
        figures.outcomes[_outcome(call.error_class)] += 1
        for name in TOKENS:
            if tokens := getattr(call, name):
                figures.tokens[name] += tokens
        figures.unreported += call.input_tokens is None and call.output_tokens is None
        figures.fallbacks += call.requested_model not in (None, call.model)
        figures.total.add(call.total_s)
        figures.first_token.add(call.time_to_first_token_s)
        figures.queue.add(call.queue_s)

    def request_answered(self, call: McpCall) -> None:
        """Count a request that was answered.

        Names that only clients know are all counted as one: they could send any number of them.
        """
        if call.outcome == "error":
            method, tool = call.method if call.method in self._methods else UNKNOWN, ""
        else:
            self._methods.add(call.method)
            method, tool = call.method, call.tool or ""
        key = RequestKey(call.server, method, tool)
        figures = self.requests.get(key)
        if figures is None:
            figures = self.requests[key] = RequestFigures()
        figures.outcomes[call.outcome] += 1
        figures.latency.add(call.latency_s)


def _outcome(error_class: str | None) -> str:
    return "completed" if error_class is None else "cancelled" if error_class == CANCELLED else "failed"
