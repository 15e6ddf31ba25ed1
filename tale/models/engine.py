"""One engine, alone or among several: which models it serves, how busy and how fast it is, and whether it rests."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tale.circuit_breaker import CircuitBreaker
from tale.exceptions import ModelException, NetworkException, TaleBaseException
from tale.models.backend import Backend, BackendStream
from tale.records import ChatRequest, Delta, Reply, Vectors

FAILURE_LIMIT: Final = 3  # calls in a row that an engine which still answers may fail
FIRST_REST_S: Final = 1.0
LONGEST_REST_S: Final = 30.0
NEWEST_SHARE: Final = 0.2  # of the newest call in the mean pace
PACE_HALF_LIFE_S: Final = 30.0
NOT_FOUND: Final = 404
FIRST_SERVER_ERROR: Final = 500
ENGINE_FAULTS: Final = frozenset({401, 403, NOT_FOUND, 408, 429})  # of the statuses below 500

EngineStanding = Literal["ready", "resting", "lacking"]


@dataclass(frozen=True, slots=True)
class EngineState:
    """How one of several engines stands; unknown values are None."""

    name: str
    state: EngineStanding  # lacking: it answers, and has none of the models
    models: Sequence[str]
    running: int
    seconds_per_token: float | None = None  # lately, of whole calls
    error: str | None = None


class Engine:
    """A backend with what is known of it; `name` is its address, None where it has none.

    `rests` means that it is given no calls until a look finds it well.
    """

    def __init__(
        self,
        name: str | None,
        backend: Backend,
        *,
        first_rest_s: float = FIRST_REST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name or backend.provider
        self.address = name
        self.backend = backend
        self.ready: set[str] = set()  # models that it serves
        self.lacks: dict[str, str] = {}  # why it does not serve others that are wanted
        self.in_flight: Counter[str] = Counter()  # calls by model
        self.given = 0  # calls so far
        self.rests = False
        self.recoveries = 0
        self.trouble: str | None = None
        self.fell = asyncio.Event()
        self.breaker = CircuitBreaker(
            failure_limit=FAILURE_LIMIT, rest_s=first_rest_s, longest_rest_s=LONGEST_REST_S, clock=clock
        )
        self._clock = clock
        self._pace_s: float | None = None
        self._paced_at = 0.0
        self._heard_at = 0.0  # the latest sign of work on any of its calls

    @property
    def is_able(self) -> bool:
        """Whether it may be given calls now."""
        return not self.rests and self.breaker.is_free

    @property
    def pace_s(self) -> float | None:
        """Recent seconds per token, waits within the engine and reading of the prompt included; None before a call."""
        return self._pace_s

    def expected_pace_s(self, best_s: float, now: float) -> float:
        """The pace to reckon with, where the best engine's is `best_s`.

        A measured one counts less and less, so that a slow engine is tried again some time; and an engine with calls in
        flight that has been silent for so long writes no faster than a token in that time.
        """
        silence_s = now - self._heard_at if self.in_flight.total() else 0.0
        if self._pace_s is None:
            return max(best_s, silence_s)
        faded = 0.5 ** ((now - self._paced_at) / PACE_HALF_LIFE_S)
        return max(best_s + (self._pace_s - best_s) * faded, silence_s)

    def take(self, model: str) -> None:
        """One more call is in flight; an engine that has failed lately is given one at a time."""
        if not self.in_flight.total():
            self._heard_at = self._clock()
        self.in_flight[model] += 1
        self.given += 1
        self.breaker.wait_s()

    def give_back(self, model: str) -> None:
        """A call has ended, be it that it told nothing of the engine."""
        self.in_flight[model] -= 1
        self.breaker.withdrawn()

    async def chat(self, request: ChatRequest) -> BackendStream:
        """The backend's stream, its outcome and pace noted."""
        began, pieces = self._clock(), 0
        stream = self.backend.chat(request)
        try:
            async for event in stream:
                self._heard_at = self._clock()
                if isinstance(event, Delta):
                    pieces += 1
                elif isinstance(event, Reply):
                    self._served(event.usage.output_tokens or pieces, self._heard_at - began)
                yield event
        except (NetworkException, ModelException) as error:
            self._failed(error, request.model)
            raise
        finally:
            await stream.aclose()

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """The backend's vectors, the outcome noted."""
        try:
            vectors = await self.backend.embed(model, texts)
        except (NetworkException, ModelException) as error:
            self._failed(error, model)
            raise
        self._well()
        return vectors

    def lost(self, error: TaleBaseException) -> None:
        """It does not answer: it rests at once, the longer the oftener a look finds it so."""
        self.trouble = error.message
        self.breaker.tripped()
        self._rest()

    def found_well(self) -> None:
        """A look found that it answers: it may be given calls again, one at first if calls have failed."""
        self.rests = False
        self.recoveries += 1
        self.fell.clear()
        self.trouble = None

    def found_ready(self, model: str) -> None:
        """A look found that it serves a model."""
        self.ready.add(model)
        self.lacks.pop(model, None)

    def found_lacking(self, model: str, error: TaleBaseException) -> None:
        """A look found that it does not serve a model, or does not answer at all."""
        self.ready.discard(model)
        if is_engine_fault(error) and error.context.get("status") != NOT_FOUND:
            self.lost(error)
        else:
            self.lacks[model] = error.message

    def told(self, model: str) -> str:
        """What ails it, as part of a sentence that names it."""
        text = self.trouble or self.lacks.get(model) or "does not serve it"
        text = text.partition("; ")[0].rstrip(".").replace("The engine", "the engine")
        return text if self.name in text else f"{self.name}: {text}"

    def state(self) -> EngineState:
        """How it stands, for people and programs."""
        standing: EngineStanding = "resting" if not self.is_able else "ready" if self.ready else "lacking"
        running = self.in_flight.total()
        error = self.trouble or next(iter(self.lacks.values()), None)
        return EngineState(self.name, standing, tuple(sorted(self.ready)), running, self._pace_s, error)

    def _served(self, tokens: int, seconds: float) -> None:
        self._well()
        pace_s = seconds / max(tokens, 1)
        kept = 0.0 if self._pace_s is None else 1 - NEWEST_SHARE
        self._pace_s = kept * (self._pace_s or 0.0) + (1 - kept) * pace_s
        self._paced_at = self._clock()

    def _well(self) -> None:
        self.breaker.succeeded()
        self.rests, self.trouble = False, None
        self.fell.clear()

    def _failed(self, error: TaleBaseException, model: str) -> None:
        if not is_engine_fault(error):
            return
        if error.context.get("status") == NOT_FOUND:
            self.found_lacking(model, error)
            return
        self.trouble = error.message
        self.breaker.failed()
        if self.breaker.left_s:
            self._rest()

    def _rest(self) -> None:
        self.rests = True
        self.fell.set()


def is_engine_fault(error: TaleBaseException) -> bool:
    """Whether a failure speaks against the engine, so that another one may do better with the same request."""
    status = error.context.get("status")
    if isinstance(status, int):
        return status >= FIRST_SERVER_ERROR or status in ENGINE_FAULTS
    return isinstance(error, NetworkException)


def least_expected_delay(engines: Sequence[Engine], now: float) -> Engine:
    """The engine on which one more call is expected to be done first: the least (calls in flight + 1) x recent pace.

    This is Shortest Expected Delay (Banawan and Zahorjan, "Load sharing in heterogeneous queueing systems", INFOCOM
    1989), which is Join the Shortest Queue for engines of one speed, with the pace as a moving mean. Where it ties, the
    engine goes first that was given the fewest calls. All engines are looked at: two at random (Mitzenmacher, "The
    power of two choices in randomized load balancing", 2001) do well where there are very many, or where the figures
    are old; here there are few, and the one pool of the host knows its own calls in flight exactly. All engines have
    the same number of slots, so that calls in flight need no weight.
    """
    if len(engines) == 1:
        return engines[0]
    best_s = min((pace_s for engine in engines if (pace_s := engine.pace_s) is not None), default=1.0)

    def delay(engine: Engine) -> tuple[float, int]:
        return (engine.in_flight.total() + 1) * engine.expected_pace_s(best_s, now), engine.given

    return min(engines, key=delay)
