"""The engines of one kind that serve the same models, as one backend that looks after each of them."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeVar

from tale.exceptions import ModelException, NetworkException, TaleBaseException
from tale.models.backend import BackendStream, PullListener
from tale.models.engine import Engine, EngineState, least_expected_delay
from tale.records import ChatRequest, ModelInfo, Reply, Vectors

CHECK_INTERVAL_S: Final = 10.0
LOOK_LIMIT_S: Final = 10.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


class EngineGroup:
    """One engine or several. A model is loaded when one of them serves it; the others follow when they can.

    After `start` each of several engines is looked at every `check_interval_s`, one that rests when its rest is over.
    """

    def __init__(self, engines: Sequence[Engine], *, check_interval_s: float = CHECK_INTERVAL_S) -> None:
        self.engines = tuple(engines)
        self.provider = engines[0].backend.provider
        self._check_interval_s = check_interval_s
        self._wanted: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_change: Callable[[], None] = lambda: None

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin to look after the engines; `on_change` is called when one can serve what it could not before."""
        if len(self.engines) > 1:
            self._on_change = on_change
            for engine in self.engines:
                self._keep(asyncio.create_task(self._look_after(engine), name=f"engine-{engine.name}"))

    def states(self) -> tuple[EngineState, ...]:
        """How the engines stand; empty where there is only one, of which its models tell."""
        return tuple(engine.state() for engine in self.engines) if len(self.engines) > 1 else ()

    def has_another(self, model: str, engine: Engine) -> bool:
        """Whether an engine other than this one can serve the model now."""
        return any(other.is_able and model in other.ready for other in self.engines if other is not engine)

    def give_up(self, error: TaleBaseException, model: str) -> NoReturn:
        """Raise the error of a call that failed for good; where no engine is left, one that tells what ails each."""
        if len(self.engines) == 1 or any(engine.is_able and model in engine.ready for engine in self.engines):
            raise error
        raise self._all_failed(f"serves {model}", type(error), model) from error

    # What follows is the interface of a backend.

    async def chat(self, request: ChatRequest) -> BackendStream:
        """Stream a generation from the engine that should be done first."""
        stream = self._best(request.model).chat(request)
        try:
            async for event in stream:
                yield event
        finally:
            await stream.aclose()

    async def complete(self, request: ChatRequest) -> Reply:
        """Generate without streaming."""
        return await self._best(request.model).backend.complete(request)

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """One vector a text."""
        return await self._best(model).embed(model, texts)

    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Input tokens of the request; None where the engine cannot tell."""
        return await self._best(request.model).backend.count_tokens(request)

    async def health(self) -> bool:
        """Whether an engine answers."""
        return any(await asyncio.gather(*(engine.backend.health() for engine in self.engines)))

    async def list_models(self) -> list[ModelInfo]:
        """The models of all engines; one that several have is told as where it is loaded, or else available."""
        listed = await self._all(self._awake(), self._listed, "answers")
        found: dict[str, ModelInfo] = {}
        for info in (info for infos in listed for info in infos):
            known = found.get(info.name)
            if known is None or (info.loaded, info.available) > (known.loaded, known.available):
                found[info.name] = info
        return list(found.values())

    async def pull(self, model: str, listener: PullListener | None = None) -> None:
        """Fetch a model that no engine has yet, on each of them."""
        await self._all(self._awake(), lambda engine: engine.backend.pull(model, listener), f"has {model}", model)

    async def remove(self, model: str) -> None:
        """Delete a model's files on each engine."""
        await self._all(self.engines, lambda engine: engine.backend.remove(model), f"removes {model}", model)

    async def load(self, model: str) -> float:
        """Bring a model into memory on the engines; returns when the first has it, with the seconds it took there."""
        self._wanted.add(model)
        if len(self.engines) == 1:
            return await self._load(self.engines[0], model)
        loads = [asyncio.create_task(self._load(engine, model)) for engine in self._awake()]
        for load in loads:
            self._keep(load)
        for first in asyncio.as_completed(loads):
            try:
                return await first
            except TaleBaseException as error:
                logger.warning("%s", error)
        raise self._all_failed(f"serves {model}", ModelException, model)

    async def unload(self, model: str) -> None:
        """Free a model's memory on the engines that answer."""
        for engine in self.engines:
            engine.ready.discard(model)
        unloads = (engine.backend.unload(model) for engine in self._awake())
        ended = await asyncio.gather(*unloads, return_exceptions=len(self.engines) > 1)
        logger.debug("%s is unloaded: %s", model, ended)

    async def is_responsive(self, model: str) -> bool:
        """Whether an engine serves the model; of several this is known from looking after them."""
        if len(self.engines) == 1:
            return await self.engines[0].backend.is_responsive(model)
        return any(engine.is_able and model in engine.ready for engine in self.engines)

    async def close(self) -> None:
        """Stop looking after the engines and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(engine.backend.close() for engine in self.engines))

    def _best(self, model: str) -> Engine:
        serving = [engine for engine in self.engines if model in engine.ready]
        able = [engine for engine in serving if engine.is_able] or serving or self.engines
        return least_expected_delay(able, time.monotonic())

    def _awake(self) -> Sequence[Engine]:
        """The engines that do not rest, or all of them where all do."""
        return [engine for engine in self.engines if not engine.rests] or self.engines

    async def _listed(self, engine: Engine) -> list[ModelInfo]:
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                return await engine.backend.list_models()
        except TimeoutError as error:
            raise NetworkException(f"{engine.name} has been silent for {LOOK_LIMIT_S:g} s.") from error

    async def _all(
        self, engines: Sequence[Engine], ask: Callable[[Engine], Awaitable[T]], what: str, model: str = ""
    ) -> list[T]:
        """The answers of those engines that give one. Raises what the one engine raises, or what ails each of them."""
        if len(self.engines) == 1:
            return [await ask(engines[0])]
        answers = await asyncio.gather(*(_noted(engine, ask, model) for engine in engines))
        if given := [answer for told in answers for answer in told]:
            return given
        raise self._all_failed(what, NetworkException, model)

    async def _load(self, engine: Engine, model: str) -> float:
        try:
            load_s = await engine.backend.load(model)
        except TaleBaseException as error:
            engine.found_lacking(model, error)
            raise
        engine.found_ready(model)
        self._on_change()
        return load_s

    async def _look_after(self, engine: Engine) -> None:
        while True:
            if engine.rests:
                logger.warning("%s is left alone for %.1f s: %s", engine.name, engine.breaker.left_s, engine.trouble)
                await asyncio.sleep(engine.breaker.left_s)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(engine.fell.wait(), self._check_interval_s)
                    continue
            await self._look_at(engine)

    async def _look_at(self, engine: Engine) -> None:
        """Find out whether an engine answers and which models it serves; one that works is not disturbed."""
        if models := [model for model in self._wanted if engine.rests or model not in engine.ready]:
            for model in models:
                try:
                    await self._load(engine, model)
                except TaleBaseException as error:
                    logger.debug("%s does not serve %s: %s", engine.name, model, error)
        elif not engine.in_flight.total() and not await engine.backend.health():
            engine.lost(NetworkException(f"The engine at {engine.name} does not answer."))
        if engine.rests and not engine.breaker.left_s:
            logger.info("%s answers again.", engine.name)
            engine.found_well()
            self._on_change()

    def _all_failed(self, what: str, kind: type[TaleBaseException], model: str) -> TaleBaseException:
        ails = ", ".join(engine.told(model) for engine in self.engines)
        return kind(
            f"None of the engines {what} now: {ails}; mend one of them, or name others in {self.provider}_url.",
            {"urls": ", ".join(engine.name for engine in self.engines)},
        )

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _noted(engine: Engine, ask: Callable[[Engine], Awaitable[T]], model: str) -> list[T]:
    """The engine's answer, or nothing and the reason noted."""
    try:
        answer = await ask(engine)
    except TaleBaseException as error:
        engine.found_lacking(model, error)
        return []
    engine.lacks.pop(model, None)
    return [answer]
