"""The command that throws away what can be had again: logs, partial downloads, caches, leftovers of dead processes."""

import asyncio
import shutil
from collections.abc import Generator, Sequence, Sized
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tale.cli.confirmation import Yes, confirmed
from tale.cli.formatting import size
from tale.cli.invocation import settings_of

if TYPE_CHECKING:
    from tale.cli.rendering import Screen
    from tale.settings import Settings


def clean(
    context: typer.Context,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
) -> None:
    """Delete logs, caches and partial downloads. Tasks, settings, models and backups stay."""
    from tale.cli.rendering import Screen

    screen = Screen()
    settings = settings_of(context)
    in_use = asyncio.run(_servers_run(settings))
    with idle_downloads(settings.models_folder) as (downloads, busy):
        if in_use:
            screen.aside(
                "The servers run: their logs and downloads in progress stay; `tale servers stop` first for those."
            )
        elif busy:
            screen.aside(f"{', '.join(busy)} is being fetched: what has arrived stays.")
        _clean(screen, leftovers(settings, [] if in_use else downloads, in_use=in_use), yes=yes, dry_run=dry_run)


def _clean(screen: "Screen", found: Sequence[Path], *, yes: bool, dry_run: bool) -> None:
    from tale.cli.rendering import table

    victims = {path: _bytes(path) for path in found}
    if not victims:
        screen.show("There is nothing to clean.")
        return
    made = table(("size", "file"), right=("size",))
    for path, size_bytes in victims.items():
        made.add_row(size(size_bytes), str(path))
    screen.show(made)
    total = size(sum(victims.values()))
    if dry_run:
        screen.show(f"{total} would be freed.")
    elif confirmed(f"Delete {_count(victims)} ({total})?", yes=yes):
        for path in sorted(victims, key=lambda path: path.suffix == ".lock"):  # each lock after what it guards
            _delete(path)
        screen.show(f"{total} freed.")
    else:
        screen.show("Nothing was deleted.")


def leftovers(settings: "Settings", downloads: Sequence[Path], *, in_use: bool) -> list[Path]:
    """What can go, these downloads too; with `in_use` nothing that a running server may hold open."""
    run = settings.run_folder
    patterns = [(run, "*.log.*"), (run, "cli.log"), (settings.home, "cache")]
    if not in_use:
        patterns += [(run, "*.log"), (run, "*.tmp"), (run, "service-*.json"), (run, "start-failure.json")]
    return sorted({*downloads, *(path for folder, pattern in patterns for path in folder.glob(pattern))})


@contextmanager
def idle_downloads(folder: Path) -> Generator[tuple[list[Path], list[str]]]:
    """What is left of downloads that nobody is at, and the models that are being fetched.

    None of the idle ones is taken up again before this ends.
    """
    from filelock import FileLock, Timeout

    left = [*folder.glob("*.part"), *folder.glob("*.lock")]
    busy: list[str] = []
    with ExitStack() as held:
        for path in folder.glob("*.lock"):
            try:
                held.enter_context(FileLock(path, thread_local=False).acquire(timeout=0))
            except Timeout:
                busy.append(path.stem)
        yield [path for path in left if not path.name.startswith(tuple(f"{name}." for name in busy))], busy


def _count(victims: Sized) -> str:
    return "this file" if len(victims) == 1 else f"these {len(victims)}"


def _delete(path: Path) -> None:
    with suppress(FileNotFoundError):  # somebody else was quicker
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


async def _servers_run(settings: "Settings") -> bool:
    """Whether servers of this home run. Those that the settings name by their URLs may be of another machine."""
    from tale.orchestration.server_manager import ServerManager
    from tale.orchestration.service_processes import living

    found = await ServerManager(settings).status()
    unnamed = [server for server in found if getattr(settings, f"{server.role}_url") is None]
    return any(server.state in ("running", "starting") for server in unnamed) or bool(living(settings.run_folder))
