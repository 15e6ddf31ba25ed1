"""Sends spans of tasks, attempts, model calls and requests to an OpenTelemetry collector, when a setting names one.

Names are those of OpenTelemetry's conventions for generative AI, MCP and HTTP; what they have no word for is `tale.*`.
Spans tell figures, names and classes of errors: no words of tasks, answers or error messages. They are made of what
was recorded, after it was; a collector that is slow or gone costs no call anything.
"""

import asyncio
import logging
import threading
import uuid
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from tale import __version__
from tale.records import Attempt, McpCall, ModelCall, Task, TaskStatus

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
TRACES_PATH: Final = "/v1/traces"
EXPORT_LIMIT_S: Final = 5.0  # for one batch, tries included
CLOSE_LIMIT_S: Final = 2.0
QUEUE_SPANS: Final = 4_096  # while a collector does not keep up; further ones push the oldest out
NS_PER_S: Final = 1e9
SPAN_ID_BYTES: Final = 8
OPERATIONS: Final = {"embed": "embeddings"}  # the others are chats

Value = str | int | float | bool | Sequence[str] | None

logger = logging.getLogger(__name__)


class Telemetry:
    """The way of spans out of this process. `url` is the collector's, with or without the path for traces.

    `close_limit_s` is for what is left to send when the process ends.
    """

    def __init__(self, url: str, *, close_limit_s: float = CLOSE_LIMIT_S) -> None:
        # It tells of each failed try, and of each span that found no room; the exporter below tells once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._ids = _GivenIds()
        endpoint = f"{url.rstrip('/').removesuffix(TRACES_PATH)}{TRACES_PATH}"
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: "tale", SERVICE_VERSION: __version__}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._close_limit_s = close_limit_s
        self._exporter = _Exporter(endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter, max_queue_size=QUEUE_SPANS))
        self._tracer = self._provider.get_tracer("tale", __version__, schema_url=SCHEMA_URL)

    async def close(self) -> None:
        """Send what waits, for so long as that is bearable."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:
                logger.debug("The last spans went out when nobody waited for them any more.")

        # A thread that dies with the process: one of the event loop's own would hold the process up.
        threading.Thread(target=shut_down, name="telemetry-end", daemon=True).start()
        try:
            async with asyncio.timeout(self._close_limit_s):
                await done.wait()
        except TimeoutError:
            self._exporter.shutdown()
            logger.warning("The last spans could not be delivered within %g s.", self._close_limit_s)

    def model_call_ended(self, call: ModelCall) -> None:
        """Tell of a model call: a child of its attempt, or of its task."""
        asked, operation = call.requested_model or call.model, OPERATIONS.get(call.operation, "chat")
        attributes: dict[str, Value] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": call.provider,
            "gen_ai.request.model": asked,
            "gen_ai.request.max_tokens": call.budget_tokens,
            "gen_ai.response.model": call.model,
            "gen_ai.response.finish_reasons": [call.finish_reason] if call.finish_reason else None,
            "gen_ai.response.time_to_first_chunk": call.time_to_first_token_s,
            "gen_ai.usage.input_tokens": call.input_tokens,
            "gen_ai.usage.output_tokens": call.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": call.cached_tokens,
            "gen_ai.usage.reasoning.output_tokens": call.reasoning_tokens,
            "gen_ai.conversation.id": call.conversation_id,
            "tale.operation": call.operation,
            "tale.role": call.role,
            "tale.engine": call.engine,
            "tale.queue.duration": call.queue_s,
            "tale.load.duration": call.load_s,
            "tale.prefill.duration": call.prefill_s,
            "tale.decode.duration": call.decode_s,
            "tale.key.name": call.key_name,
            **_of_task(call.task_id, call.attempt),
        }
        parent = None
        if call.task_id:
            parent = _attempt_span(call.task_id, call.attempt) if call.attempt else _task_span(call.task_id)
        self._tell(
            f"{operation} {asked}",
            call,
            own=f"call {call.id}",
            parent=parent,
            times=(call.started_at, call.ended_at or call.started_at),
            attributes=attributes,
            kind=SpanKind.CLIENT,
            error_class=call.error_class,
        )

    def request_answered(self, call: McpCall) -> None:
        """Tell of a request to one of the servers."""
        attributes: dict[str, Value] = {"tale.server": call.server, "tale.key.name": call.key_name}
        attributes |= _of_task(call.task_id, None)
        verb, _, path = call.method.partition(" ")
        if path.startswith("/"):
            attributes |= {"http.request.method": verb, "http.route" if "{" in path else "url.path": path}
        else:
            attributes |= {"mcp.method.name": call.method, "gen_ai.tool.name": call.tool}
            attributes["gen_ai.operation.name"] = "execute_tool" if call.tool else None
        self._tell(
            f"{call.method} {call.tool or ''}".rstrip(),
            call,
            own=f"request {call.id}",
            parent=None,
            times=(call.started_at, call.started_at + call.latency_s),
            attributes=attributes,
            kind=SpanKind.SERVER,
            error_class=call.error_class,
        )

    def task_ended(self, task: Task, attempts: Sequence[Attempt]) -> None:
        """Tell of a task that has ended and of the attempts at it."""
        for attempt in attempts:
            self._attempt_ended(task, attempt)
        self._tell(
            "task",
            task,
            own=_task_span(task.id),
            parent=None,
            times=(task.created_at, task.ended_at or task.created_at),
            attributes={
                "tale.outcome": task.status.value,
                "gen_ai.conversation.id": task.conversation_id,
                **_of_task(task.id, None),
            },
            error_class=task.error_class or ("Cancelled" if task.status is TaskStatus.CANCELLED else None),
        )

    def _attempt_ended(self, task: Task, attempt: Attempt) -> None:
        went_wrong = attempt.outcome if attempt.outcome in ("failed", "lost") else None
        self._tell(
            f"attempt {attempt.number}",
            task,
            own=_attempt_span(task.id, attempt.number),
            parent=_task_span(task.id),
            times=(attempt.started_at, attempt.ended_at or task.ended_at or attempt.started_at),
            attributes={
                "tale.outcome": attempt.outcome,
                "gen_ai.response.model": attempt.model,
                **_of_task(task.id, attempt.number),
            },
            error_class=attempt.error_class or went_wrong,
        )

    def _tell(
        self,
        name: str,
        row: ModelCall | McpCall | Task,
        *,
        own: str,
        parent: str | None,
        times: tuple[float, float],
        attributes: dict[str, Value],
        kind: SpanKind = SpanKind.INTERNAL,
        error_class: str | None,
    ) -> None:
        """A span from its beginning to its end; `own` and `parent` say of what, and give the ids."""
        trace_id = _trace_id(row)
        self._ids.trace_id, self._ids.span_id = trace_id, _span_id(own)
        span = self._tracer.start_span(
            name,
            Context() if parent is None else _within(trace_id, _span_id(parent)),
            kind,
            {key: value for key, value in {**attributes, "error.type": error_class}.items() if value is not None},
            start_time=int(times[0] * NS_PER_S),
        )
        if error_class is not None:
            span.set_status(Status(StatusCode.ERROR))
        span.end(int(times[1] * NS_PER_S))


class _GivenIds(IdGenerator):
    """The ids of the next span: made of what it is about, so that servers apart agree on them."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Exporter(SpanExporter):
    """Sends batches, and says once that it cannot, and once that it can again."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint, timeout=EXPORT_LIMIT_S)
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                logger.warning("No spans can be delivered to %s; all else goes on without.", self._endpoint)
            self._lost += len(spans)
        elif self._lost:
            logger.info("Spans are delivered to %s again; %d or more were lost.", self._endpoint, self._lost)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _within(trace_id: int, span_id: int) -> Context:
    parent = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _trace_id(row: ModelCall | McpCall | Task) -> int:
    """The row's trace; one that has none is a trace of its own."""
    try:
        return int(row.trace_id or "", 16) or uuid.UUID(row.id).int
    except ValueError:
        return int.from_bytes(blake2b(row.id.encode(), digest_size=2 * SPAN_ID_BYTES).digest())


def _span_id(own: str) -> int:
    return int.from_bytes(blake2b(own.encode(), digest_size=SPAN_ID_BYTES).digest())


def _task_span(task_id: str) -> str:
    return f"task {task_id}"


def _attempt_span(task_id: str, number: int) -> str:
    return f"attempt {task_id} {number}"


def _of_task(task_id: str | None, attempt: int | None) -> dict[str, Value]:
    return {"tale.task.id": task_id, "tale.attempt": attempt}
