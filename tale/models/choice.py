"""Decides at the start which engine or engines the models run on, and says why."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from tale.addresses import without_password
from tale.exceptions import ModelException, NetworkException
from tale.models.backend import Backend
from tale.models.engine import Engine
from tale.models.engine_group import EngineGroup
from tale.settings import Settings

OLLAMA_MODELS: Final = ("qwen2.5:7b", "qwen2.5:14b")
EMBEDDED_MODELS: Final = ("qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b")
OLLAMA_LOOK_S: Final = 1.0
UX_SLOTS: Final = 2
TASK_SLOTS: Final = 1
ENGINE_LOG: Final = "engines.log"


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine, in one sentence why, and the two models on it."""

    backend: Backend
    reason: str
    url: str | None
    ux_model: str
    task_model: str
    slots: int | None = None  # calls at a time of each model on each engine; None: as few as suit one machine


async def choose_backend(settings: Settings) -> Choice:
    """The configured engines; else Ollama if it answers; else the embedded one. Raises ModelException."""
    if settings.backend == "openai" or (settings.backend == "auto" and settings.openai_url):
        return await _openai(settings)
    urls = _shown(settings.ollama_url)
    if settings.backend == "ollama":
        return _ollama(settings, _configured("Ollama", urls))
    if settings.backend == "auto":
        answers = await asyncio.gather(*(_ollama_answers(url) for url in settings.ollama_url))
        if any(answers):
            there = [url for url, is_there in zip(urls, answers, strict=True) if is_there]
            return _ollama(settings, f"Ollama answers at {', '.join(there)}.")
        return _embedded(settings, f"No Ollama answers at {', '.join(urls)}; using the embedded models.")
    return _embedded(settings, "The embedded models are configured.")


def _configured(engine: str, urls: Sequence[str]) -> str:
    """The reason for engines that somebody chose."""
    if len(urls) == 1:
        return f"{engine} at {urls[0]} is configured."
    return f"{engine} at {', '.join(urls[:-1])} and {urls[-1]} are configured."


async def _ollama_answers(url: str) -> bool:
    """A look without Ollama's client, whose import takes longer than the look."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=OLLAMA_LOOK_S)) as session,
            session.get(f"{url.rstrip('/')}/api/version") as response,
        ):
            return response.ok and "version" in await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return False


def _ollama(settings: Settings, reason: str) -> Choice:
    from tale.models.ollama_backend import OllamaBackend

    ux, task = _names(settings, OLLAMA_MODELS)
    contexts = _contexts(settings, ux, task)
    backends = [
        OllamaBackend(url, timeout_s=settings.http_timeout_s, context_tokens=contexts) for url in settings.ollama_url
    ]
    return Choice(
        _together(settings, settings.ollama_url, backends), reason, ", ".join(_shown(settings.ollama_url)), ux, task
    )


def _embedded(settings: Settings, reason: str) -> Choice:
    from tale.models.download import ModelFiles
    from tale.models.embedded_backend import EmbeddedBackend

    ux, task = _names(settings, EMBEDDED_MODELS)
    backend = EmbeddedBackend(
        ModelFiles(settings.models_folder, hub_url=settings.hub_url),
        log=settings.run_folder / ENGINE_LOG,
        timeout_s=settings.http_timeout_s,
        threads=settings.engine_threads,
        context_tokens=_contexts(settings, ux, task),
        slots={task: TASK_SLOTS, ux: UX_SLOTS},
    )
    return Choice(backend, reason, None, ux, task)


async def _openai(settings: Settings) -> Choice:
    from tale.models.openai_backend import OpenAIBackend

    if not settings.openai_url:
        raise ModelException("The backend openai needs openai_url, such as http://127.0.0.1:8000/v1.")
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else None
    backends = [OpenAIBackend(url, api_key=key, timeout_s=settings.http_timeout_s) for url in settings.openai_url]
    backend, urls = _together(settings, settings.openai_url, backends), _shown(settings.openai_url)
    ux, task = settings.ux_model or settings.task_model, settings.task_model or settings.ux_model
    if ux is None or task is None:
        ux = task = await _first_model(backend, urls)
    reason = _configured("The engine" if len(backends) == 1 else "The engines", urls)
    return Choice(backend, reason, ", ".join(urls), ux, task, settings.openai_slots)


def _shown(urls: Sequence[str]) -> list[str]:
    """The addresses without their passwords."""
    return [without_password(url) for url in urls]


def _together(settings: Settings, urls: Sequence[str], backends: Sequence[Backend]) -> Backend:
    """The one backend, or the group of them."""
    if len(backends) == 1:
        return backends[0]
    engines = [Engine(without_password(url), backend) for url, backend in zip(urls, backends, strict=True)]
    return EngineGroup(engines, check_interval_s=settings.monitor_interval_s)


async def _first_model(backend: Backend, urls: Sequence[str]) -> str:
    """The first model an engine serves, for who named none."""
    url = ", ".join(urls)
    engine, it, its, does = ("engine", "it", "its", "does") if len(urls) == 1 else ("engines", "one", "their", "do")
    try:
        models = await backend.list_models()
    except NetworkException as error:
        await backend.close()
        raise ModelException(
            f"The {engine} at {url} {does} not answer; start {it}, or name {its} models in ux_model and task_model.",
            {"url": url},
        ) from error
    if not models:
        await backend.close()
        raise ModelException(f"No model is served at {url}; start the {engine} with one.", {"url": url})
    return models[0].name


def _names(settings: Settings, defaults: tuple[str, str]) -> tuple[str, str]:
    return settings.ux_model or defaults[0], settings.task_model or defaults[1]


def _contexts(settings: Settings, ux: str, task: str) -> dict[str, int]:
    """Context tokens by model; one model in both roles needs the larger."""
    if ux == task:
        return {ux: max(settings.ux_context_tokens, settings.task_context_tokens)}
    return {ux: settings.ux_context_tokens, task: settings.task_context_tokens}
