"""What `tale doctor` looks at: each check tells what it found and, unless that is well, what to do."""

import asyncio
import ctypes
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil

from tale.cli.engines import EngineLook, look_at_engines
from tale.cli.formatting import size
from tale.exceptions import TaleBaseException
from tale.models.backend import Backend
from tale.models.choice import choose_backend
from tale.orchestration.server_manager import ServerManager, ServerStatus
from tale.records import ModelInfo
from tale.settings import Settings

PYTHONS: Final = ((3, 11), (3, 14))  # from, and below
SPARE_BYTES: Final = 500_000_000  # of disk, for the database and the logs
MEMORY_BESIDE_MODELS: Final = 600_000_000  # the servers, and the context of two small models
OPENMP: Final = "libgomp.so.1"

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `fix` says what to do and is None where all is well."""

    name: str
    state: State
    found: str
    fix: str | None = None


async def all_checks(settings: Settings) -> list[Check]:
    """Every finding, in the order in which to mend things."""
    servers = await ServerManager(settings).status()
    return [
        python_version(sys.version_info[:3]),
        home_folder(settings.home),
        *(port(server) if getattr(settings, f"{server.role}_url") is None else named(server) for server in servers),
        database(settings),
        openmp(OPENMP, needed=settings.backend in ("auto", "embedded")),
        *await models(settings),
    ]


def python_version(version: tuple[int, int, int]) -> Check:
    """Whether this Python is one of those tale is tested on."""
    found = ".".join(map(str, version))
    if PYTHONS[0] <= version[:2] < PYTHONS[1]:
        return Check("Python", "ok", found)
    return Check("Python", "warn", f"{found} is not tested", "Use Python 3.11 to 3.13.")


def home_folder(home: Path) -> Check:
    """Whether the home, or the folder it would be made in, can be written to."""
    existing = _existing(home)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Check("home", "ok", str(home) if existing == home else f"{home}, which will be made")
    fix = f"Make {existing} writable for this user, or choose another folder with TALE_HOME or --home."
    return Check("home", "fail", f"{home} cannot be written to", fix)


def port(server: ServerStatus) -> Check:
    """Whether a role's port is free or held by our own server."""
    name = f"port of {server.role}"
    if server.state == "foreign":
        owner = f"a tale of another home ({server.home})" if server.home else "another program"
        fix = f"Stop it, or choose another port with TALE_{server.role.upper()}_PORT or in tale.toml."
        return Check(name, "fail", f"{server.url} is held by {owner}", fix)
    return Check(name, "ok", f"{server.url} is {'free' if server.state == 'stopped' else 'ours, and running'}")


def named(server: ServerStatus) -> Check:
    """Whether a server elsewhere, which the settings name by its URL, answers."""
    if server.state in ("running", "starting"):
        return Check(server.role, "ok", f"{server.url} answers")
    found = f"{server.url} does not answer as a server of tale"
    return Check(server.role, "fail", found, f"Start it there, or leave {server.role}_url out.")


def openmp(library: str, *, needed: bool) -> Check:
    """Whether the library that the embedded engine is linked to is there."""
    try:
        ctypes.CDLL(library)
    except OSError:
        state = "fail" if needed else "warn"
        return Check(library, state, "cannot be loaded; the embedded models need it", "apt-get install libgomp1")
    return Check(library, "ok", "can be loaded")


def database(settings: Settings) -> Check:
    """Whether the database can be read and is of this version."""
    from tale.storage.tables import SCHEMA_REVISION
    from tale.storage.upgrade import current_revision

    try:
        revision = current_revision(settings.database)
    except TaleBaseException as error:
        return Check("database", "fail", error.message, "See `tale config show` for database_url and home.")
    if revision is None:
        return Check("database", "ok", "none yet; it will be made at the first start")
    if revision == SCHEMA_REVISION:
        return Check("database", "ok", f"schema {revision}")
    found = f"schema {revision}, this tale knows {SCHEMA_REVISION}"
    if revision > SCHEMA_REVISION:
        fix = f"Update tale, or put back a copy from {settings.home / 'backups'}."
        return Check("database", "fail", found, fix)
    return Check("database", "warn", found, "`tale db upgrade` brings it up to date; so does the next start.")


async def models(settings: Settings) -> list[Check]:
    """Which engine would be used and why, whether its models are there, and whether disk and memory hold them."""
    try:
        choice = await choose_backend(settings)
    except TaleBaseException as error:
        return [Check("engine", "fail", error.message, "`tale config show` tells how it is configured.")]
    wanted = list(dict.fromkeys((choice.ux_model, choice.task_model)))
    each = [engine(look, wanted) for look in await look_at_engines(choice)]
    try:
        found = await _listed(choice.backend)
    except TaleBaseException as error:
        return [*each, Check("engine", "fail", error.message, f"{choice.reason} Start it, or configure another.")]
    finally:
        await choice.backend.close()
    local = choice.backend.provider == "embedded"
    lacking = "fail" if local else "warn"  # what no catalogue has cannot be fetched; another engine may get it yet
    checks = [Check("engine", "ok", choice.reason), *each]
    checks += [_model(name, found.get(name), lacking=lacking) for name in wanted]
    known = [found[name] for name in wanted if name in found]
    missing_bytes = sum(info.size_bytes or 0 for info in known if not info.available) if local else 0
    free_bytes = await asyncio.to_thread(_free_disk, settings.home)
    checks.append(disk(free_bytes, needed_bytes=missing_bytes + SPARE_BYTES))
    if local:
        needed_bytes = sum(info.size_bytes or 0 for info in known if not info.loaded) + MEMORY_BESIDE_MODELS
        checks.append(memory(psutil.virtual_memory().available, needed_bytes=needed_bytes))
    return checks


def engine(look: EngineLook, wanted: Sequence[str]) -> Check:
    """Whether one of several engines answers and has the models in use."""
    name = f"engine {look.name}"
    if look.error is not None:
        return Check(name, "warn", look.error, "Start it; until then the other engines do its work.")
    if lacking := [model for model in wanted if model not in look.models]:
        fix = "Start it with that model, or fetch it there; until then the other engines serve it."
        return Check(name, "warn", f"it does not have {' and '.join(lacking)}", fix)
    return Check(name, "ok", f"it has {' and '.join(wanted)}")


def disk(free_bytes: int, *, needed_bytes: int) -> Check:
    """Whether the disk of the home has room for what will come."""
    found = f"{size(free_bytes)} free, {size(needed_bytes)} wanted"
    if free_bytes >= needed_bytes:
        return Check("disk", "ok", found)
    return Check("disk", "fail", found, "Free some space, or move the home to a larger disk with TALE_HOME.")


def memory(available_bytes: int, *, needed_bytes: int) -> Check:
    """Whether the models fit into the memory that is free now."""
    found = f"{size(available_bytes)} available, about {size(needed_bytes)} wanted"
    if available_bytes >= needed_bytes:
        return Check("memory", "ok", found)
    fix = "End other programs, or take a smaller model with TALE_TASK_MODEL (see `tale models list`)."
    return Check("memory", "warn", found, fix)


def _model(name: str, info: ModelInfo | None, *, lacking: State) -> Check:
    if info is None:
        fix = "Choose one that `tale models list` shows."
        return Check(f"model {name}", lacking, "the engine does not have it", fix)
    if info.available:
        return Check(f"model {name}", "ok", f"there ({size(info.size_bytes)})")
    found = f"not fetched yet ({size(info.size_bytes)})"
    return Check(f"model {name}", "warn", found, f"The first task fetches it; so does `tale models pull {name}`.")


async def _listed(backend: Backend) -> dict[str, ModelInfo]:
    return {info.name: info for info in await backend.list_models()}


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there and may be looked into."""
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))


def _free_disk(home: Path) -> int:
    return shutil.disk_usage(_existing(home)).free
