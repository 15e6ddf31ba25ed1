"""Makes the home of a run: its database, its engine, which processes play in it, and which of them may die."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fakes.ollama_server import served
from fakes.postgres import empty_database, running_postgres
from fakes.service_home import ServiceHome, service_home

from chaos.engine import MODEL, SlowEngine
from tale.models.download import ModelFiles
from tale.settings import Settings

SLOTS: Final = 4  # tasks that run at a time
REAL_MODEL: Final = "smollm2:135m"
REAL_CONTEXT_TOKENS: Final = 2_048
SWIFT: Final = {
    "restart_delay_s": 0.2,
    "retry_delay_s": 0.5,
    "task_slots": SLOTS,
    "monitor_interval_s": 10.0,
    "learning": "on",
}

Adapter = Literal["sqlite", "postgres"]
Layout = Literal["together", "apart"]
EngineKind = Literal["played", "real"]


@dataclass(frozen=True)
class Part:
    """The roles of one process, and the settings it is started with."""

    roles: tuple[str, ...]
    settings: Settings


@dataclass(frozen=True)
class Cast:
    """Who plays in a run, and who dies in it."""

    parts: tuple[Part, ...]
    targets: tuple[str, ...]
    is_writing: Callable[[], bool]  # whether the engine is at work, as far as it can be seen


@contextmanager
def database_server(adapter: Adapter) -> Iterator[str | None]:
    """URL of a PostgreSQL server; None for SQLite."""
    if adapter == "sqlite":
        yield None
        return
    with running_postgres() as url:
        yield url


@asynccontextmanager
async def casting(
    folder: Path, layout: Layout, engine: EngineKind, server: str | None
) -> AsyncIterator[tuple[ServiceHome, Cast]]:
    """A home whose servers are ended with it, and the cast, not started yet."""
    chosen: dict[str, Any] = dict(SWIFT)
    if server is not None:
        chosen["database_url"] = empty_database(server)
    if engine == "real":
        chosen |= {"backend": "embedded", "ux_model": REAL_MODEL, "task_model": REAL_MODEL}
        chosen |= {"ux_context_tokens": REAL_CONTEXT_TOKENS, "task_context_tokens": REAL_CONTEXT_TOKENS}
        (folder / "models").symlink_to(await _models())
        async with service_home(folder, **chosen) as home:
            yield home, _cast(home.settings, layout, server, engines=("engine",))
        return
    async with served(SlowEngine()) as played:
        chosen |= {"backend": "openai", "openai_url": played.base_url, "task_model": MODEL}
        async with service_home(folder, **chosen) as home:
            yield home, _cast(home.settings, layout, server, is_writing=lambda: played.writing > 0)


def _cast(
    settings: Settings,
    layout: Layout,
    server: str | None,
    *,
    engines: tuple[str, ...] = (),
    is_writing: Callable[[], bool] = lambda: True,
) -> Cast:
    others = ("watcher", "learning", *engines, *(() if server is None else ("backend",)))
    if layout == "together":
        part = Part(("gateway", "execution", "ux_agent"), settings)
        return Cast((part,), ("gateway", *others), is_writing)
    # They are told where the models are: else one of them would take the models over while their server is dead.
    remote = settings.model_copy(update={"model_url": settings.url_of("model")})
    parts = (Part(("model",), settings), Part(("execution",), remote), Part(("gateway", "ux_agent"), remote))
    return Cast(parts, ("gateway", "execution", "model", *others), is_writing)


async def _models() -> Path:
    """The folder of the smallest real model, which the tests use, too."""
    folder = Path(os.environ.get("TALE_TEST_MODELS") or Path.home() / ".cache" / "tale-tests" / "models")
    await ModelFiles(folder, hub_url="https://huggingface.co").fetch(REAL_MODEL)
    return folder
