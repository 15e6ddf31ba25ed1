"""A real OTLP/HTTP receiver that keeps the spans it gets."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """One span as it was received; times in Unix seconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    begin: float
    end: float
    is_error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]
    schema_url: str


@dataclass
class Collector:
    """Serves POST /v1/traces; with a `gate` it lets senders wait until that is set."""

    spans: list[Span] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    gate: asyncio.Event | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/v1/traces", self._receive)
        return application

    def named(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    async def _receive(self, request: web.Request) -> web.Response:
        body = ExportTraceServiceRequest.FromString(await request.read())
        self.asked.set()
        self.headers.append(dict(request.headers))
        if self.gate is not None:
            await self.gate.wait()
        if self.status == 200:
            for group in body.resource_spans:
                resource = _plain(group.resource.attributes)
                for scoped in group.scope_spans:
                    self.spans += [_span(span, resource, scoped.schema_url) for span in scoped.spans]
        return web.Response(status=self.status)


def _span(span: Any, resource: dict[str, Any], schema_url: str) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        span.status.code == 2,
        _plain(span.attributes),
        resource,
        schema_url,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)
