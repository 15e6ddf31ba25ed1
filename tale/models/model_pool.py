"""The host's one ModelPool: every model call passes through it, waits its turn, is measured and recorded."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final, Literal, Protocol

from tale.exceptions import ModelException, NetworkException, TaleBaseException, ValidationException
from tale.models.backend import Backend, ChatEvent, ChatStream
from tale.models.engine import Engine, is_engine_fault
from tale.models.engine_group import EngineGroup
from tale.models.model_member import Member, Nursery
from tale.models.pool import Beside, PoolStatus
from tale.models.priority_slots import PrioritySlots
from tale.models.prompt_size import bound_of, bound_of_texts, fewest_tokens, most_tokens
from tale.records import CallContext, ChatRequest, Delta, Dispatched, Reply, Role, Usage, Vectors

FIRST_RETRY_S: Final = 5.0  # wait before a model that failed is tried again; it doubles with each failure
UX_SLOTS: Final = 2  # one of them for chat alone
TASK_SLOTS: Final = 1
MIN_ANSWER_TOKENS: Final = 32
INFO_AGE_S: Final = 1.0

logger = logging.getLogger(__name__)


class TrackedCall(Protocol):
    """One model call that is being measured; its row is open until one of the three endings is recorded."""

    is_closed: bool

    def check(self) -> None:
        """Raise once it has turned out that the row cannot be opened: such a call is not served."""
        ...

    async def admitted(
        self, request: ChatRequest, count: Callable[[ChatRequest], Awaitable[int | None]] | None
    ) -> ChatRequest:
        """The request as the budgets allow it, whose engine may be asked now; raises BudgetException."""
        ...

    def dispatched(
        self, model: str, *, load_s: float, queue_s: float, route_reason: str | None, engine: str | None
    ) -> None:
        """The engine, named by its address, starts on it now."""
        ...

    def first_token(self) -> None:
        """Text has begun to flow."""
        ...

    def reported(self, usage: Usage) -> None:
        """What the engine says it has used so far, which counts should no Reply come."""
        ...

    async def completed(self, reply: Reply) -> None:
        """It ended well; durable on return, that of a task at the latest when a database that is away is back."""
        ...

    async def failed(self, error: BaseException) -> None:
        """It failed or was cancelled; durable on return."""
        ...


class CallTracker(Protocol):
    """Opens a row for each model call."""

    def begin(
        self,
        context: CallContext,
        *,
        model: str,
        provider: str,
        budget_tokens: int | None,
        input_tokens: int,
        has_answer: bool = True,
    ) -> TrackedCall:
        """Open the row of a call, whose prompt has so many tokens at most; vectors are no answer."""
        ...


class ModelPool:
    """The UX model, always loaded, and the task model, loaded on demand and kept; they may be the same one."""

    def __init__(
        self,
        backend: Backend,
        *,
        ux_model: str,
        task_model: str,
        tracker: CallTracker,
        memory_limit_bytes: int,
        routing: Literal["auto", "off"],
        monitor_interval_s: float,
        provider_reason: str,
        url: str | None = None,
        slots: Mapping[Role, int] | None = None,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        self._group = backend if isinstance(backend, EngineGroup) else EngineGroup([Engine(url, backend)])
        engines = self._group.engines
        sizes = {"ux": UX_SLOTS, "task": TASK_SLOTS, **(slots or {})}
        reserved = 1 if sizes["ux"] > 1 else 0
        ux = Member(ux_model, "ux", PrioritySlots(engines, ux_model, sizes["ux"], reserved=reserved))
        task_slots = PrioritySlots(engines, task_model, sizes["task"])
        task = ux if task_model == ux_model else Member(task_model, "task", task_slots)
        self._by_role: dict[Role, Member] = {"ux": ux, "task": task}
        self._members = [ux] if task is ux else [ux, task]
        self._tracker = tracker
        self._routing = routing
        self._monitor_interval_s = monitor_interval_s
        self._reason = provider_reason
        self._url = url
        self._nursery = Nursery(
            self._group, memory_limit_bytes=memory_limit_bytes, members=self._members, first_retry_s=first_retry_s
        )
        self._monitor: asyncio.Task[None] | None = None
        self._info_read_at = 0.0

    async def start(self) -> None:
        """Begin to load the UX model, and after it to fetch the task model's file; returns at once."""
        ux, task = self._by_role["ux"], self._by_role["task"]
        self._group.start(self._on_engine_change)
        self._nursery.bring_up(ux)
        self._nursery.bring_up(task, after=ux, load=False)
        self._monitor = asyncio.create_task(self._watch(), name="model-monitor")

    async def close(self) -> None:
        """Stop loading and free the models."""
        if self._monitor:
            self._monitor.cancel()
            await asyncio.gather(self._monitor, return_exceptions=True)
        await self._nursery.close()
        await self._group.close()

    async def chat(self, request: ChatRequest, context: CallContext, *, beside: Beside | None = None) -> ChatStream:
        """Stream a generation: Dispatched when the engine starts, Reply after the call's row is complete."""
        wanted = self._member(request.model, context)
        tracked = self._tracker.begin(
            context,
            model=wanted.name,
            provider=self._group.provider,
            budget_tokens=request.max_tokens,
            input_tokens=bound_of(request),
        )
        try:
            async with aclosing(self._served(wanted, request, context, tracked)) as events:
                async for event in events:
                    tracked.check()
                    if isinstance(event, Reply):
                        await _ended(tracked.completed(event), beside)
                    yield event
        except BaseException as error:
            if not tracked.is_closed:
                await asyncio.shield(tracked.failed(error))
            raise

    async def complete(self, request: ChatRequest, context: CallContext) -> Reply:
        """Generate without streaming."""
        stream = self.chat(request, context)
        try:
            async for event in stream:
                if isinstance(event, Reply):
                    return event
        finally:
            await stream.aclose()
        raise ModelException("The engine ended without an answer.", {"model": request.model})

    async def count_tokens(self, request: ChatRequest, context: CallContext) -> int | None:
        """Input tokens of the request; None where the engine cannot tell, or its model is not loaded yet."""
        member = self._member(request.model, context)
        loaded = member if member.state == "ready" else next((m for m in self._members if m.state == "ready"), None)
        return None if loaded is None else await self._group.count_tokens(replace(request, model=loaded.name))

    async def embed(self, model: str, texts: Sequence[str], context: CallContext) -> Vectors:
        """One vector a text."""
        wanted = self._member(model, context)
        tracked = self._tracker.begin(
            context,
            model=wanted.name,
            provider=self._group.provider,
            budget_tokens=None,
            input_tokens=bound_of_texts(texts),
            has_answer=False,
        )
        try:
            name, vectors = await self._vectors(wanted, texts, context, tracked)
            await tracked.completed(Reply("", name, "stop", vectors.usage))
        except BaseException as error:
            if not tracked.is_closed:
                await asyncio.shield(tracked.failed(error))
            raise
        return vectors

    async def status(self) -> PoolStatus:
        """How the models stand now."""
        now = time.monotonic()
        if now - self._info_read_at > INFO_AGE_S:
            self._info_read_at = now
            try:
                await self._nursery.refresh()
            except TaleBaseException as error:
                logger.debug("The engine does not list its models: %s", error)
        models = tuple(member.shown() for member in self._members)
        return PoolStatus(self._group.provider, self._reason, self._url, models, self._group.states())

    def _member(self, model: str, context: CallContext) -> Member:
        if not model:
            return self._by_role[context.role]
        member = next((member for member in self._members if member.name == model), None)
        if member is None:
            names = ", ".join(member.name for member in self._members)
            raise ModelException(f"The pool does not hold {model!r}; it holds {names}.", {"model": model})
        return member

    async def _served(
        self, wanted: Member, request: ChatRequest, context: CallContext, tracked: TrackedCall
    ) -> AsyncGenerator[ChatEvent]:
        """Serve a call, a second time when its engine turns out to be dead before any text came."""
        failed: Engine | None = None
        while True:
            member, reason, load_s = await self._chosen(wanted, context)
            fitted = await self._fitted(replace(request, model=member.name, trace_id=context.trace_id), member)
            fitted = await tracked.admitted(fitted, self._group.count_tokens)
            queued_at = time.perf_counter()
            async with member.slots.held(context.priority, avoid=failed) as engine:
                queue_s = time.perf_counter() - queued_at
                tracked.dispatched(
                    member.name, load_s=load_s, queue_s=queue_s, route_reason=reason, engine=engine.address
                )
                yield Dispatched(member.name, member.role, reason)
                text_came = False
                stream = engine.chat(fitted)
                try:
                    async for event in stream:
                        if isinstance(event, Delta) and not text_came:
                            text_came = True
                            tracked.first_token()
                        if isinstance(event, Usage):
                            tracked.reported(event)
                        else:
                            yield event
                    return
                except (NetworkException, ModelException) as error:
                    may_go_on = await self._may_go_on(member, engine, error)
                    if not may_go_on or text_came or failed:
                        self._group.give_up(error, member.name)
                    failed = engine
                finally:
                    await stream.aclose()

    async def _vectors(
        self, wanted: Member, texts: Sequence[str], context: CallContext, tracked: TrackedCall
    ) -> tuple[str, Vectors]:
        """The model that made the vectors, and the vectors; a second try is made as with a generation."""
        failed: Engine | None = None
        while True:
            member, reason, load_s = await self._chosen(wanted, context)
            await tracked.admitted(ChatRequest(member.name, ()), None)
            began = time.perf_counter()
            async with member.slots.held(context.priority, avoid=failed) as engine:
                queue_s = time.perf_counter() - began
                tracked.dispatched(
                    member.name, load_s=load_s, queue_s=queue_s, route_reason=reason, engine=engine.address
                )
                try:
                    return member.name, await engine.embed(member.name, texts)
                except (NetworkException, ModelException) as error:
                    may_go_on = await self._may_go_on(member, engine, error)
                    if not may_go_on or failed:
                        self._group.give_up(error, member.name)
                    failed = engine

    async def _may_go_on(self, member: Member, engine: Engine, error: TaleBaseException) -> bool:
        """Whether a failed call may be made again: by another engine, or by this one once it is brought up anew."""
        answers = await engine.backend.is_responsive(member.name)
        if not answers:
            engine.lost(error)
        if self._group.has_another(member.name, engine):
            return is_engine_fault(error) or not answers
        if answers:
            return False
        logger.warning("The engine of %s was lost: %s", member.name, error)
        self._nursery.set_state(member, "unloaded")
        return True

    def _on_engine_change(self) -> None:
        """An engine can serve what it could not before: those who wait for a slot or for a model go on."""
        for member in self._members:
            member.slots.hand_out()
            if member.state == "failed":
                self._nursery.set_state(member, "unloaded")  # calls that come now wait for it
                self._nursery.bring_up(member)

    async def _chosen(self, wanted: Member, context: CallContext) -> tuple[Member, str | None, float]:
        """The model that serves a call, why it is not the wanted one, and the seconds waited for it to be loaded."""
        began = time.perf_counter()
        other = next((member for member in self._members if member is not wanted), None)
        waited = False
        while True:
            if wanted.state == "ready":
                return wanted, context.route_reason, time.perf_counter() - began if waited else 0.0
            waited = True
            self._nursery.bring_up(wanted, after=other if wanted.role == "task" else None)
            if other is not None and other.state == "ready" and (reason := self._stand_in_reason(wanted)):
                return other, reason, time.perf_counter() - began
            if wanted.state == "failed" and (other is None or other.state == "failed"):
                raise ModelException(wanted.error or f"{wanted.name} cannot be used.", {"model": wanted.name})
            if wanted.state == "failed" and other is not None:
                self._nursery.bring_up(other)
            await self._nursery.change()

    def _stand_in_reason(self, wanted: Member) -> str | None:
        if wanted.state == "failed":
            return f"{wanted.name} cannot be used now: {wanted.error}"
        if wanted.role == "task" and wanted.state in ("missing", "downloading") and self._routing == "auto":
            return f"{wanted.name} is still being fetched"
        return None

    async def _fitted(self, request: ChatRequest, member: Member) -> ChatRequest:
        """The request with its answer capped to what the context holds beside the prompt."""
        context_tokens = member.info.context_tokens if member.info else None
        if context_tokens is None:
            return request
        most = most_tokens(request)
        if most + (request.max_tokens or 0) <= context_tokens:
            return request
        tokens = await self._group.count_tokens(request)
        known = fewest_tokens(request) if tokens is None else tokens
        room = context_tokens - known
        if room < (0 if tokens is None else MIN_ANSWER_TOKENS):
            about = "at least about " if tokens is None else ""
            raise ValidationException(
                f"The prompt has {about}{known:,} tokens; the context of {member.name} holds {context_tokens:,} with "
                "the answer. Shorten it.",
                {"input_tokens": known, "context_tokens": context_tokens},
            )
        if tokens is None and request.max_tokens is None:
            return request
        return replace(request, max_tokens=min(request.max_tokens or room, max(room, 1)))

    async def _watch(self) -> None:
        """Look after the models now and then: an idle one that does not answer is loaded anew, a failed one retried."""
        while True:
            await asyncio.sleep(self._monitor_interval_s)
            for member in self._members:
                try:
                    await self._check(member)
                except TaleBaseException as error:
                    logger.warning("%s could not be checked: %s", member.name, error)

    async def _check(self, member: Member) -> None:
        idle = not member.slots.running and not member.slots.waiting
        if member.state == "ready" and idle and not await self._group.is_responsive(member.name):
            logger.warning("%s does not answer; it is loaded again.", member.name)
            self._nursery.set_state(member, "unloaded")
            await self._group.unload(member.name)
        if member.state == "failed" or (member.state == "unloaded" and member.load_s is not None):
            self._nursery.bring_up(member)


async def _ended(completing: Awaitable[None], beside: Beside | None) -> None:
    """Return when both are written, which go into one commit."""
    if beside is None:
        return await completing
    noting = beside()
    try:
        await completing
    finally:
        await noting
