"""Models that tale runs itself with llama.cpp: each in a process of its own, spoken to like any other engine."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from tale.exceptions import ModelException, TaleBaseException, ValidationException
from tale.models.backend import PullListener
from tale.models.catalog import CatalogModel, find_model
from tale.models.download import ModelFiles
from tale.models.engine_process import EngineProcess
from tale.models.openai_backend import Endpoint, OpenAIBackend
from tale.records import ChatRequest, ModelInfo, Vectors

DEFAULT_CONTEXT_TOKENS: Final = 4_096
PROCESS_BYTES: Final = 150_000_000  # of an engine process beside model and context
# One step of prefill should take at most half a second on two slow cores, because a cancel waits for its end; a larger
# step reads a prompt up to a quarter faster. Measured: 1.5b, 32 tokens 0.55 s; 0.5b, 64 tokens 0.6 s.
SMALL_MODEL_BYTES: Final = 700_000_000
SMALL_MODEL_BATCH: Final = 64
LARGE_MODEL_BATCH: Final = 32

logger = logging.getLogger(__name__)


class EmbeddedBackend(OpenAIBackend):
    """Runs the models of the catalogue. `context_tokens` (of one slot) and `slots` are given by model name.

    `threads` is per model; None takes the machine's cores, at most eight. Engine chatter goes to `log`.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        log: Path,
        timeout_s: float,
        threads: int | None = None,
        context_tokens: Mapping[str, int] | None = None,
        slots: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__("embedded", timeout_s=timeout_s, provider="embedded", llama_cpp=True)
        self._files = files
        self._log = log
        self._threads = threads or min(os.cpu_count() or 1, 8)
        self._context_tokens = context_tokens or {}
        self._slots = slots or {}
        self._engines: dict[str, EngineProcess] = {}
        self._loading: dict[str, asyncio.Lock] = {}

    async def health(self) -> bool:
        """Whether engines can be run; each model's own state is told by `is_responsive`."""
        return True

    async def list_models(self) -> list[ModelInfo]:
        """The catalogue: what is there, what is loaded, and what could be fetched."""
        return [self._info(model) for model in self._files.catalog.values()]

    async def pull(self, model: str, listener: PullListener | None = None) -> None:
        """Fetch the model's file."""
        await self._files.fetch(model, listener)

    async def remove(self, model: str) -> None:
        """End the model's engine and delete its file."""
        await self.unload(model)
        await self._files.remove(model)

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """Refused: an engine of llama.cpp either writes or makes vectors."""
        raise ValidationException(
            f"{model} runs in an embedded engine, which makes no vectors; for those use Ollama or another engine.",
            {"param": "model"},
        )

    async def load(self, model: str) -> float:
        """Start the model's engine, fetching its file first if need be; returns the seconds the start took."""
        async with self._loading.setdefault(model, asyncio.Lock()):
            if await self.is_responsive(model):
                return 0.0
            await self.unload(model)  # what hangs, or has just died unnoticed, makes room first
            path = await self._files.fetch(model)
            entry = find_model(model, self._files.catalog)
            self._check_memory(entry)
            self._log.parent.mkdir(parents=True, exist_ok=True)
            engine = await EngineProcess.start(
                path,
                context_tokens=self._context_of(model),
                slots=self._slots.get(model, 1),
                threads=self._threads,
                batch_tokens=SMALL_MODEL_BATCH if entry.size_bytes < SMALL_MODEL_BYTES else LARGE_MODEL_BATCH,
                log=self._log,
            )
            self._engines[model] = engine
            logger.info("%s is loaded (%.1f s).", model, engine.load_s)
            return engine.load_s

    async def unload(self, model: str) -> None:
        """End the model's engine, which frees its memory."""
        if engine := self._engines.pop(model, None):
            await engine.end()

    async def is_responsive(self, model: str) -> bool:
        """Whether the model's engine lives and answers."""
        engine = self._engines.get(model)
        return engine is not None and engine.is_alive and await self._answers(model)

    async def close(self) -> None:
        """End all engines."""
        await asyncio.gather(*(self.unload(model) for model in list(self._engines)))
        await super().close()

    async def _answers(self, model: str) -> bool:
        try:
            async with self._exchange(model, "/health", None, at_root=True, total_s=5.0):
                return True
        except TaleBaseException as error:
            logger.warning("%s does not answer: %s", model, error)
            return False

    async def _endpoint(self, model: str) -> Endpoint:
        engine = self._engines.get(model)
        if engine is None or not engine.is_alive:
            raise ModelException(f"{model} is not loaded; its engine ended.", {"model": model})
        return engine.endpoint

    def _extra(self, request: ChatRequest) -> dict[str, Any]:
        return {"cache_prompt": True}

    def _context_of(self, model: str) -> int:
        return self._context_tokens.get(model, DEFAULT_CONTEXT_TOKENS)

    def _info(self, model: CatalogModel) -> ModelInfo:
        engine = self._engines.get(model.name)
        loaded = engine is not None and engine.is_alive
        return ModelInfo(
            model.name,
            size_bytes=model.size_bytes,
            memory_bytes=engine.memory_bytes if engine and loaded else None,
            context_tokens=self._context_of(model.name),
            loaded=loaded,
            available=self._files.is_present(model.name),
            licence=model.licence,
            source=f"the model hub ({model.repository}) or the package index",
        )

    def _check_memory(self, model: CatalogModel) -> None:
        """Refuse a model that would drive the machine out of memory."""
        context = self._context_of(model.name) * self._slots.get(model.name, 1) * model.kv_bytes_per_token
        needed = model.size_bytes + context + PROCESS_BYTES
        available = psutil.virtual_memory().available
        if needed > available:
            raise ModelException(
                f"{model.name} does not fit in memory: it needs about {needed / 1e9:.1f} GB, "
                f"{available / 1e9:.1f} GB are free; choose a smaller model or a smaller context.",
                {"model": model.name, "needed_bytes": needed, "available_bytes": available},
            )
