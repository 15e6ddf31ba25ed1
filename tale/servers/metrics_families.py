"""The figures of a process as families of Prometheus metrics; docs/telemetry.md lists them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from tale import __version__
from tale.metrics.call_counts import CallCounts, Durations, ModelFigures
from tale.models.pool import PoolStatus
from tale.records import TaskStatus

MODEL_LABELS: Final = ("provider", "model", "role", "operation")
REQUEST_LABELS: Final = ("server", "method", "tool")
TOKENS: Final = {
    "input_tokens": ("tale_model_input_tokens", "Input tokens that engines reported, cached ones included."),
    "output_tokens": ("tale_model_output_tokens", "Output tokens that engines reported, reasoning included."),
    "cached_tokens": ("tale_model_cached_tokens", "Input tokens that engines took from their caches."),
    "reasoning_tokens": ("tale_model_reasoning_tokens", "Output tokens that went into reasoning."),
}
DURATIONS: Final[dict[str, tuple[str, Callable[[ModelFigures], Durations]]]] = {
    "tale_model_call_duration_seconds": ("Model calls from their start to their end.", lambda told: told.total),
    "tale_model_time_to_first_token_seconds": (
        "Model calls from their start to the first text, waits included.",
        lambda told: told.first_token,
    ),
    "tale_model_queue_duration_seconds": ("Waits of model calls for their turn.", lambda told: told.queue),
}


class _Given(Collector):
    """Metrics that are there already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def rendered(
    counts: CallCounts, *, pool: PoolStatus | None, tasks: Mapping[TaskStatus, int], accepted: str
) -> tuple[bytes, str]:
    """The page and its content type, in the newest form of those that the client accepts."""
    registry = CollectorRegistry(auto_describe=False)
    metrics = [_about(), *_models(counts), *_requests(counts), *_pool(pool), *_tasks(tasks)]
    registry.register(_Given(metrics))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accepted)
    return encode(registry), content_type


def _about() -> Metric:
    about = GaugeMetricFamily("tale_build_info", "The version of tale that runs.", labels=("version",))
    about.add_metric((__version__,), 1)
    return about


def _models(counts: CallCounts) -> Iterator[Metric]:
    calls = CounterMetricFamily(
        "tale_model_calls", "Model calls that ended: completed, failed or cancelled.", labels=(*MODEL_LABELS, "outcome")
    )
    unreported = CounterMetricFamily(
        "tale_model_calls_unreported", "Model calls of which no engine told the tokens.", labels=MODEL_LABELS
    )
    fallbacks = CounterMetricFamily(
        "tale_model_fallbacks", "Model calls that another model answered than the one asked.", labels=MODEL_LABELS
    )
    for key, told in counts.models.items():
        for outcome, count in told.outcomes.items():
            calls.add_metric((*key, outcome), count)
        unreported.add_metric(key, told.unreported)
        fallbacks.add_metric(key, told.fallbacks)
    yield from (calls, unreported, fallbacks)
    for name, (family, told_of) in TOKENS.items():
        tokens = CounterMetricFamily(family, told_of, labels=MODEL_LABELS)
        for key, told in counts.models.items():
            tokens.add_metric(key, told.tokens[name])
        yield tokens
    for family, (told_of, pick) in DURATIONS.items():
        histogram = HistogramMetricFamily(family, told_of, labels=MODEL_LABELS)
        for key, told in counts.models.items():
            _add(histogram, key, pick(told))
        yield histogram


def _requests(counts: CallCounts) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "tale_requests", "MCP and OpenAI requests that were answered.", labels=(*REQUEST_LABELS, "outcome")
    )
    latency = HistogramMetricFamily(
        "tale_request_duration_seconds",
        "Requests until their answers.",
        labels=REQUEST_LABELS,
    )
    for key, told in counts.requests.items():
        for outcome, count in told.outcomes.items():
            requests.add_metric((*key, outcome), count)
        _add(latency, key, told.latency)
    yield from (requests, latency)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], durations: Durations) -> None:
    bounds = [*map(str, durations.bounds_s), "+Inf"]
    family.add_metric(labels, list(zip(bounds, accumulate(durations.counts), strict=True)), durations.sum_s)


def _pool(pool: PoolStatus | None) -> Iterator[Metric]:
    labels = ("provider", "model", "role")
    ready = GaugeMetricFamily("tale_model_ready", "1 while the model is loaded and can be asked.", labels=labels)
    running = GaugeMetricFamily("tale_model_running_calls", "Calls that the engine works on.", labels=labels)
    waiting = GaugeMetricFamily("tale_model_waiting_calls", "Calls that wait for their turn.", labels=labels)
    memory = GaugeMetricFamily("tale_model_memory_bytes", "What the loaded model takes, if known.", labels=labels)
    for model in pool.models if pool else ():
        values = (pool.provider if pool else "", model.name, model.role)
        ready.add_metric(values, model.state == "ready")
        running.add_metric(values, model.running)
        waiting.add_metric(values, model.waiting)
        if model.memory_bytes is not None:
            memory.add_metric(values, model.memory_bytes)
    yield from (ready, running, waiting, memory)


def _tasks(tasks: Mapping[TaskStatus, int]) -> Iterator[Metric]:
    gauge = GaugeMetricFamily("tale_tasks", "Tasks in the database; queued ones are the queue.", labels=("status",))
    for status, count in tasks.items():
        gauge.add_metric((status.value,), count)
    yield gauge
