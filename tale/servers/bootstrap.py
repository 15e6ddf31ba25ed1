"""The entry of every service process: settings, log, signals, and what is told when it cannot start."""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from logging.handlers import RotatingFileHandler
from typing import Any, Final

import uvloop

from tale.exceptions import TaleBaseException
from tale.orchestration.run_state import LOG_FILE, prepare_folder, unusable, write_failure
from tale.orchestration.watcher import CANNOT_START
from tale.settings import Settings, load_settings

DEFAULT_ROLES: Final = ("gateway", "execution", "ux_agent")
ALL_ROLES: Final = (*DEFAULT_ROLES, "model")
LOG_BYTES: Final = 5_000_000
LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

logger = logging.getLogger(__name__)


def run_service(settings: Settings, roles: Sequence[str] = DEFAULT_ROLES, *, background: bool = False) -> int:
    """Run the roles in this process until SIGTERM, SIGINT or (in the background) idleness; returns the exit status.

    Raises TaleBaseException when they cannot start.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, tuple(roles), background=background))


async def _serve(settings: Settings, roles: tuple[str, ...], *, background: bool) -> int:
    from tale.servers.service import Service

    service = Service(settings, roles, background=background)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.request_stop, signal.Signals(number).name)
    try:
        with loaded_for_good():
            await service.start()
        await service.wait()
    finally:
        await service.stop()
    return 0


@contextmanager
def loaded_for_good() -> Generator[None]:
    """Keep the garbage collector from what is loaded in this block, now and later.

    A start leaves it nothing to collect, and a quarter of a second of looking; afterwards each look at all that was
    loaded would stop every answer for 0.1 s, once a second under load.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()


def run_role(role: str, arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m tale.servers.<role>_server`: this role alone, in the foreground."""
    parser = argparse.ArgumentParser(prog=f"python -m tale.servers.{role}_server", description=_described(role))
    parser.add_argument("--port", type=int, help="port to listen on, 1024 to 65535")
    parser.add_argument("--home", help="folder of the database and the models")
    given = parser.parse_args(arguments)
    overrides = {f"{role}_port": given.port, "home": given.home}
    return _guarded(overrides, (role,), background=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `python -m tale.servers.bootstrap`, which the watcher starts."""
    parser = argparse.ArgumentParser(prog="python -m tale.servers.bootstrap", description="Runs tale's servers.")
    parser.add_argument("--roles", default=",".join(DEFAULT_ROLES), help="comma-separated roles of this process")
    parser.add_argument("--background", action="store_true", help="stop by itself after the idle time")
    parser.add_argument("--lasting", action="store_true", help="with --background: do not stop by itself")
    given = parser.parse_args(arguments)
    return _guarded({}, tuple(given.roles.split(",")), background=given.background, is_lasting=given.lasting)


def _guarded(overrides: dict[str, Any], roles: tuple[str, ...], *, background: bool, is_lasting: bool = False) -> int:
    """The edge of the process: whatever stops a start is told in one sentence, and left for the command that waits."""
    ready: Settings | None = None
    try:
        settings = load_settings(overrides)
        set_up_logging(settings, background=background)
        ready = settings
        return run_service(settings, roles, background=background and not is_lasting)
    except TaleBaseException as error:
        if ready is None:  # there is no log yet
            sys.stderr.write(f"{error}\n")
            return CANNOT_START
        logger.error("%s", error)  # in the foreground that is stderr, too
        if background:
            with suppress(OSError):  # on a full disk no word can be left
                write_failure(ready.run_folder, type(error).__name__, error.message, error.context)
        return CANNOT_START
    except Exception:
        logger.exception("The servers broke off.")
        raise


def set_up_logging(settings: Settings, *, background: bool) -> None:
    """Log to TALE_HOME/run/service.log, and in the foreground to stderr too; raises ServerException."""
    path = settings.run_folder / LOG_FILE
    prepare_folder(path.parent)
    try:
        handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=3, encoding="utf-8")
    except OSError as error:
        raise unusable(path, error) from error
    handlers: list[logging.Handler] = [handler]
    if not background:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(level=settings.log_level.upper(), format=LOG_FORMAT, handlers=handlers)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def _described(role: str) -> str:
    return (import_module(f"tale.servers.{role}_server").__doc__ or "").strip()


if __name__ == "__main__":
    sys.exit(main())
