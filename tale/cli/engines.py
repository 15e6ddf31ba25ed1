"""What each of several engines has, for commands that look at them without a server."""

import asyncio
from dataclasses import dataclass

from tale.exceptions import TaleBaseException
from tale.models.backend import Backend
from tale.models.choice import Choice
from tale.models.engine import Engine
from tale.models.engine_group import EngineGroup


@dataclass(frozen=True, slots=True)
class EngineLook:
    """One engine: the models it has, or why it cannot be asked."""

    name: str
    models: tuple[str, ...] = ()
    error: str | None = None


def backends_of(choice: Choice) -> list[tuple[str | None, Backend]]:
    """Each engine by its address; the one engine without it."""
    if isinstance(choice.backend, EngineGroup):
        return [(engine.name, engine.backend) for engine in choice.backend.engines]
    return [(None, choice.backend)]


async def look_at_engines(choice: Choice) -> list[EngineLook]:
    """A look at each of several engines; empty where there is one."""
    group = choice.backend
    return list(await asyncio.gather(*map(_look, group.engines))) if isinstance(group, EngineGroup) else []


async def _look(engine: Engine) -> EngineLook:
    try:
        found = await engine.backend.list_models()
    except TaleBaseException as error:
        return EngineLook(engine.name, error=error.message)
    return EngineLook(engine.name, tuple(info.name for info in found if info.available))
