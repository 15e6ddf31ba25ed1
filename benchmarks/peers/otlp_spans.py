"""Makes what ingest.py posts to Phoenix: `python otlp_spans.py COUNT BATCH FOLDER`, run in Phoenix's environment.

Each file of the folder is the body of one OTLP/HTTP request: a batch of spans of model calls, each a trace of its own.
"""

import os
import sys
import time
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

TEXT = {"openinference.span.kind": "LLM", "llm.model_name": "large", "llm.provider": "embedded", "session.id": "c"}
TOKENS = {"prompt": 120, "completion": 350, "total": 470}
TOOK_NS = 13_300_000_000


def span() -> Span:
    ended = time.time_ns()
    text = [KeyValue(key=name, value=AnyValue(string_value=value)) for name, value in TEXT.items()]
    tokens = [
        KeyValue(key=f"llm.token_count.{name}", value=AnyValue(int_value=value)) for name, value in TOKENS.items()
    ]
    return Span(
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        name="chat",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=ended - TOOK_NS,
        end_time_unix_nano=ended,
        attributes=text + tokens,
    )


def main(count: int, batch: int, folder: Path) -> None:
    for number in range(count // batch):
        scope = ScopeSpans(spans=[span() for _ in range(batch)])
        request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])])
        (folder / f"{number:06}.bin").write_bytes(request.SerializeToString())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
