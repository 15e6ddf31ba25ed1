"""The command that shows where the time of one task, or of one request, went."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tale.cli.invocation import settings_of
from tale.cli.tasks import Json
from tale.exceptions import ValidationException

if TYPE_CHECKING:
    from rich.text import Text

    from tale.cli.rendering import Screen
    from tale.records import ModelCall, Trace

PARTS: Final = ("queue", "load", "prefill", "decode")
STYLES: Final = {
    "task": "bold",
    "request": "blue",
    "call": "cyan",
    "queue": "yellow",
    "load": "magenta",
    "decode": "green",
}
BAR: Final = "█"
LEAST_BAR: Final = 20  # columns below which a bar tells nothing
BESIDE_BAR: Final = 62  # columns that the other cells take


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time: what it was, since when (seconds from the beginning of all) and how long (None: it runs)."""

    kind: str
    name: str
    begin_s: float
    duration_s: float | None
    told: str = ""
    depth: int = 0


def trace(
    context: typer.Context,
    wanted: Annotated[str, typer.Argument(help="Id of a task, or of a trace (32 digits).", metavar="ID")],
    as_json: Json = False,
) -> None:
    """Show where the time of a task or a request went.

    Requests, waits, the model's reading and writing, each as a bar. Clients name a trace in the header `traceparent`.
    No server needs to run.
    """
    from tale.cli.rendering import Screen
    from tale.storage.reader import read_once
    from tale.storage.trace_rows import trace_of

    settings = settings_of(context)
    if settings.gateway_url is not None:
        raise ValidationException("Traces are read from this home's database; run this where the gateway runs.")
    identity = wanted.strip().lower()
    found = read_once(settings.database, lambda connection: trace_of(connection, identity), absent=None)
    if found is None:
        raise ValidationException(f"Nothing is on record of {wanted}; `tale list` shows the tasks there are.")
    spans = spans_of(found, now=time.time())
    screen = Screen()
    if as_json:
        screen.json({"trace_id": found.id, "task": _plain(found.task), "spans": [asdict(span) for span in spans]})
        return
    _show(screen, found, spans)


def spans_of(found: "Trace", *, now: float) -> list[Span]:
    """The stretches of a trace in the order of their beginnings, the parts of a model call below it."""
    starts = [row.started_at for row in (*found.requests, *found.calls)]
    if found.task:
        starts.append(found.task.created_at)
    zero = min(starts)
    spans: list[tuple[float, list[Span]]] = []
    if task := found.task:
        ended = task.ended_at
        whole = Span(
            "task", "task", task.created_at - zero, None if ended is None else ended - task.created_at, task.status
        )
        waited = (task.started_at or ended or now) - task.created_at
        spans.append((task.created_at, [whole, Span("queue", "in the queue", whole.begin_s, waited, depth=1)]))
    for request in found.requests:
        name = f"{request.server} {request.tool or request.method}"
        told = request.error_class or request.outcome
        spans.append((request.started_at, [Span("request", name, request.started_at - zero, request.latency_s, told)]))
    spans += [(call.started_at, _call_spans(call, zero)) for call in found.calls]
    return [span for _, group in sorted(spans, key=lambda entry: entry[0]) for span in group]


def _call_spans(call: "ModelCall", zero: float) -> list[Span]:
    """A model call and its parts, one after the other as they come: queue, load, prefill, decode."""
    begin_s = call.started_at - zero
    tokens = f"{_count(call.input_tokens)} in, {_count(call.output_tokens)} out"
    told = call.error_class or tokens
    spans = [Span("call", f"{call.operation} on {call.model}", begin_s, call.total_s, told)]
    for part in PARTS:
        duration_s: float | None = getattr(call, f"{part}_s")
        if duration_s is not None:
            spans.append(Span(part, part, begin_s, duration_s, depth=1))
            begin_s += duration_s
    return spans


def _show(screen: "Screen", found: "Trace", spans: Sequence[Span]) -> None:
    from tale.cli.formatting import UNKNOWN, one_line, seconds
    from tale.cli.rendering import facts, table

    pairs = [("trace", found.id or UNKNOWN)]
    if found.task:
        pairs += [("task", found.task.id), ("text", one_line(found.task.text, max(20, screen.out.width - 10)))]
    screen.show(facts(pairs))
    whole_s = max((span.begin_s + (span.duration_s or 0.0) for span in spans), default=0.0)
    if screen.narrow:
        for span in spans:
            head = f"{'  ' * span.depth}{span.name}: {_duration(span)} from {seconds(span.begin_s)}"
            screen.show(f"{head}  {span.told}".rstrip())
        return
    room = screen.out.width - BESIDE_BAR if screen.out.is_terminal else 0
    with_bars = room >= LEAST_BAR
    made = table(("what", "begin", "took", "", *([""] if with_bars else [])), right=("begin", "took"))
    for span in spans:
        bar = [_bar(span, whole_s, room)] if with_bars else []
        cells = [f"{'  ' * span.depth}{span.name}", seconds(span.begin_s), _duration(span), span.told]
        made.add_row(*cells, *bar, style="" if span.depth == 0 else "dim")
    screen.show(made)


def _duration(span: Span) -> str:
    from tale.cli.formatting import seconds

    return "running" if span.duration_s is None else seconds(span.duration_s)


def _bar(span: Span, whole_s: float, room: int) -> "Text":
    """Where the stretch lies in the whole, at least one column long."""
    from rich.text import Text

    scale = room / whole_s if whole_s else 0.0
    begin = min(room - 1, int(span.begin_s * scale))
    duration_s = whole_s - span.begin_s if span.duration_s is None else span.duration_s
    length = max(1, min(room - begin, round(duration_s * scale)))
    return Text(" " * begin + BAR * length, style=STYLES.get(span.kind, "white"), no_wrap=True)


def _count(tokens: int | None) -> str:
    from tale.cli.formatting import UNKNOWN

    return UNKNOWN if tokens is None else f"{tokens:,}"


def _plain(task: Any) -> dict[str, Any] | None:
    return None if task is None else asdict(task)
