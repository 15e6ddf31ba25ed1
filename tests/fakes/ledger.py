"""Plays calls against a pool over a taped engine, and holds what was recorded of them against what was played."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from fakes.ollama_server import served
from fakes.rolled_up import rolled_up
from fakes.servers import until
from fakes.taped_engine import Playing, TapedEngine
from fakes.tapes import ARGUMENTS, FINISH, TOOL, Line, Story, ollama_tape, openai_tape, usage_of

from tale.exceptions import TaleBaseException
from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import MeasuredCall, TokenTracker
from tale.models.backend import Backend
from tale.models.model_pool import ModelPool
from tale.models.ollama_backend import OllamaBackend
from tale.models.openai_backend import OpenAIBackend
from tale.records import CallContext, ChatRequest, Delta, Message, ModelCall, Priority, Reply, Role, Usage
from tale.storage.call_store import CallStore
from tale.storage.database import Database
from tale.storage.rollup_rows import Rollup
from tale.storage.rollups import Rollups
from tale.storage.usage import UsageQuery, UsageStore

Kind = Literal["ollama", "openai", "llama.cpp"]
KINDS: tuple[Kind, ...] = ("ollama", "openai", "llama.cpp")
PARTS = ("queue_s", "load_s", "prefill_s", "decode_s", "other_s")
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
ROUNDING_S = 1e-6
SILENCE_LIMIT_S = 60.0
NEVER_S = 3_600.0
AHEAD_S = 180.0  # the rollups are of minutes that are over


@dataclass(frozen=True)
class Client:
    """What the caller does: reads to the end, or leaves, after so many events or turns of the event loop."""

    act: Literal["reads", "completes", "closes", "cancels", "cancels early"] = "reads"
    after: int = 1
    twice: bool = False  # it cancels once more, while the end is being recorded
    role: Role = "ux"


@dataclass
class Outcome:
    """What the caller saw."""

    delivered: list[str] = field(default_factory=list)
    reply: Reply | None = None
    error: BaseException | None = None


class Ledger:
    """The pool, its engine, and the database of its calls. `task` calls want a model that cannot be had."""

    def __init__(self, kind: Kind, engine: TapedEngine, database: Database) -> None:
        self.kind, self.engine, self.database = kind, engine, database
        self.calls = CallStore(database)
        self.began: set[str] = set()
        self.played = 0
        self._numbers = itertools.count()
        self._backend = self._backend_of(kind)
        self.pool = ModelPool(
            self._backend,
            ux_model="small",
            task_model="nowhere",
            tracker=self,
            memory_limit_bytes=10**9,
            routing="auto",
            monitor_interval_s=NEVER_S,
            provider_reason="It is a test.",
            first_retry_s=NEVER_S,
        )
        self._tracker = TokenTracker(Recorder(self.calls))

    def begin(self, context: CallContext, **given: Any) -> MeasuredCall:
        """Note that the pool begins a call, and have it measured."""
        assert context.task_id is not None
        assert context.task_id not in self.began, "one call, two rows"
        self.began.add(context.task_id)
        return self._tracker.begin(context, **given)

    async def play(self, plays: Sequence[tuple[Story, Client]]) -> None:
        """Play some calls at once and check each."""
        names = [f"call {next(self._numbers)}" for _ in plays]
        for name, (story, _) in zip(names, plays, strict=True):
            self.engine.playing[name] = Playing(story)
        calls = [self._call(name, client) for name, (_, client) in zip(names, plays, strict=True)]
        outcomes = await asyncio.gather(*calls)
        self.engine.unwell = 0
        for name, (story, client), outcome in zip(names, plays, outcomes, strict=True):
            await self._check(name, story, client, outcome)
            del self.engine.playing[name]
        self.played += len(plays)

    async def _call(self, name: str, client: Client) -> Outcome:
        outcome, playing = Outcome(), self.engine.playing[name]
        reading = asyncio.create_task(self._read(name, client, outcome))
        stalled = asyncio.create_task(playing.stalled.wait())
        if client.act == "cancels early":
            for _ in range(client.after):
                await asyncio.sleep(0)
        else:
            await asyncio.wait([reading, stalled], return_when=asyncio.FIRST_COMPLETED)
        for _ in range(1 + client.twice):
            reading.cancel()
            await asyncio.sleep(0)
        stalled.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        return outcome

    async def _read(self, name: str, client: Client, outcome: Outcome) -> None:
        priority = Priority.CHAT if client.role == "ux" else Priority.TASK
        context = CallContext(client.role, "chat", priority, task_id=name)
        request = ChatRequest("", (Message("user", name),))
        try:
            if client.act == "completes":
                outcome.reply = await self.pool.complete(request, context)
                outcome.delivered.append(outcome.reply.text)
                return
            stream = self.pool.chat(request, context)
            try:
                for number in itertools.count(1):
                    event = await anext(stream, None)
                    if event is None:
                        return
                    if isinstance(event, Delta):
                        outcome.delivered.append(event.text)
                    if isinstance(event, Reply):
                        outcome.reply = event
                    if client.act == "closes" and number == client.after:
                        return
                    if client.act == "cancels" and number == client.after:
                        raise asyncio.CancelledError
            finally:
                await stream.aclose()
        except BaseException as error:
            outcome.error = error
            if not isinstance(error, TaleBaseException | asyncio.CancelledError):
                raise

    async def _check(self, name: str, story: Story, client: Client, outcome: Outcome) -> None:
        if name not in self.began:
            assert client.act == "cancels early"
            assert await self.calls.calls(task_id=name) == []
            return
        await until(lambda: self._is_closed(name))  # one who leaves in the last moment does not wait for the commit
        rows = await self.calls.calls(task_id=name)
        assert len(rows) == 1
        row = rows[0]
        check_times(row)
        tape = ollama_tape(story, "small") if self.kind == "ollama" else openai_tape(story)
        check_ending(row, outcome)
        check_words(row, story, tape, outcome)
        check_promise(story, tape, client, outcome)
        check_tokens(row, story, tape, outcome)
        assert (row.model, row.requested_model) == ("small", "nowhere" if client.role == "task" else "small") or (
            row.error_class is not None and row.queue_s is None  # it never came to an engine
        )
        assert row.model == row.requested_model or row.route_reason

    async def _is_closed(self, name: str) -> bool:
        return any(row.ended_at is not None for row in await self.calls.calls(task_id=name))

    async def reconcile(self) -> None:
        """The rows are those of the calls that began, and the sums by the minute, and the usage, are of those rows."""
        rows = await self.calls.calls(limit=10**6)
        assert sorted(row.task_id or "" for row in rows) == sorted(self.began)
        if not rows:
            return
        now = time.time() + AHEAD_S
        await Rollups(self.database).catch_up(now)
        assert (await Rollups(self.database).verify()).wrong_minutes == ()
        minutes = await self.database.read(lambda connection: rolled_up(connection, 0.0, now))
        used = (await UsageStore(self.database).usage(UsageQuery())).whole
        for name in (*TOKENS, *PARTS, "total_s"):
            told = [value for row in rows if (value := getattr(row, name)) is not None]
            expected = pytest.approx(sum(told)) if told else None
            assert (_sum(minutes, name), getattr(used, name)) == (expected, expected), name
        failed = [row for row in rows if row.error_class not in (None, "Cancelled")]
        cancelled = [row for row in rows if row.error_class == "Cancelled"]
        counted = [sum(getattr(each, name) for each in minutes) for name in ("calls", "failed", "cancelled")]
        assert counted == [len(rows), len(failed), len(cancelled)] == [used.calls, used.failed, used.cancelled]

    def _backend_of(self, kind: Kind) -> Backend:
        if kind == "ollama":
            return OllamaBackend(self.engine.url, timeout_s=SILENCE_LIMIT_S, context_tokens={})
        url = f"{self.engine.url}/v1"
        return OpenAIBackend(url, timeout_s=SILENCE_LIMIT_S, llama_cpp=kind == "llama.cpp")


@asynccontextmanager
async def opened(kind: Kind, url: str) -> AsyncIterator[Ledger]:
    """A ledger whose model is ready; at the end its books are balanced."""
    database = Database.open(url)
    try:
        async with served(TapedEngine()) as engine:
            ledger = Ledger(kind, engine, database)
            await ledger.pool.start()
            await until(lambda: _is_ready(ledger.pool))
            try:
                yield ledger
                await ledger.reconcile()
            finally:
                await ledger.pool.close()
    finally:
        await database.close()


def check_times(row: ModelCall) -> None:
    """The parts are no less than nothing, and no more than the whole; all of them together are the whole."""
    assert row.ended_at is not None
    assert row.total_s is not None
    assert row.total_s >= 0
    parts = [getattr(row, name) for name in PARTS]
    known = [part for part in parts if part is not None]
    assert all(part >= 0 for part in known)
    assert sum(known) <= row.total_s + ROUNDING_S
    if len(known) == len(parts):
        assert sum(known) == pytest.approx(row.total_s, abs=ROUNDING_S)
    assert row.time_to_first_token_s is None or 0 <= row.time_to_first_token_s <= row.total_s


def check_ending(row: ModelCall, outcome: Outcome) -> None:
    """Reason and class of the end say the same, and what the caller saw."""
    if row.error_class is None:
        assert row.finish_reason == FINISH
        assert row.error is None
        assert not isinstance(outcome.error, TaleBaseException)
    elif row.error_class == "Cancelled":
        assert (row.finish_reason, row.error) == ("cancelled", None)
        assert outcome.reply is None
        assert not isinstance(outcome.error, TaleBaseException)
    else:
        assert (row.finish_reason, bool(row.error)) == ("error", True)
        assert outcome.reply is None
    if isinstance(outcome.error, TaleBaseException):
        assert (row.error_class, row.error) == (type(outcome.error).__name__, outcome.error.message)


def check_words(row: ModelCall, story: Story, tape: Sequence[Line], outcome: Outcome) -> None:
    """What was delivered is what was sent."""
    whole, delivered = "".join(story.words), "".join(outcome.delivered)
    if outcome.reply is not None:
        assert delivered == whole == outcome.reply.text
        assert (outcome.reply.reasoning or "") == story.reasoning
        assert [(call.name, call.arguments) for call in outcome.reply.tool_calls] == [(TOOL, ARGUMENTS)] * (
            story.calls_tool
        )
    elif isinstance(outcome.error, TaleBaseException) and story.ending in ("cut", "cut in a line", "error", "garbage"):
        assert delivered in ("".join(line.text for line in tape[: story.lines]), "")
    assert whole.startswith(delivered)
    if delivered:
        assert row.time_to_first_token_s is not None


def check_promise(story: Story, tape: Sequence[Line], client: Client, outcome: Outcome) -> None:
    """A caller who stays gets the answer of an engine that tells all of it, and an error from any other."""
    if client.act not in ("reads", "completes"):
        return
    is_told = any(line.ends for line in tape[: story.lines])
    if story.ending == "well" or (story.ending == "quiet" and is_told):
        assert outcome.reply is not None, outcome.error
    elif story.ending == "refused" or (not is_told and story.ending not in ("stall", "lost")):
        assert isinstance(outcome.error, TaleBaseException)


def check_tokens(row: ModelCall, story: Story, tape: Sequence[Line], outcome: Outcome) -> None:
    """The tokens are those that the engine reported: all of them, or those of the lines that came before the end."""
    found = Usage(*(getattr(row, name) for name in TOKENS))
    if outcome.reply is not None:
        assert found == outcome.reply.usage
    if outcome.reply is not None and story.ending in ("well", "lost"):
        assert found == usage_of(tape)
    elif isinstance(outcome.error, TaleBaseException) and story.ending in ("cut", "cut in a line", "error", "garbage"):
        assert found == usage_of(tape[: story.lines])
    else:
        assert found in [usage_of(tape[:count]) for count in range(len(tape) + 1)]
    if row.error_class is None and story.timings_ms is None:
        assert (row.prefill_s, row.decode_s, row.other_s) == (None, None, None)


def _sum(rollups: Sequence[Rollup], name: str) -> float | None:
    told = [value for each in rollups if (value := getattr(each, name)) is not None]
    return sum(told) if told else None


async def _is_ready(pool: ModelPool) -> bool:
    return (await pool.status()).models[0].state == "ready"
