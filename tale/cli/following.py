"""Waits for a task to its end, through restarts of the servers, and tells how it goes."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from tale.cli.gateway import client_of
from tale.cli.progress import WaitProgress
from tale.exceptions import DatabaseException, NetworkException, ServerException
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.run_state import read_states
from tale.orchestration.server_manager import ServerManager
from tale.settings import Settings

FINAL: Final = ("completed", "failed", "cancelled")
WAIT_S: Final = 45  # of one call; then it is made again
WAIT_MARGIN_S: Final = 15.0
START_MARGIN_S: Final = 3.0  # of a service that the watcher has started again; after that we start one ourselves
GIVE_UP_AFTER: Final = 4  # times as long as the watcher may take
RECONNECT_PAUSE_S: Final = 0.25
LOOK_INTERVAL_S: Final = 0.5


async def follow(settings: Settings, task_id: str, progress: WaitProgress) -> dict[str, Any]:
    """Return the finished task. Raises NetworkException, ServerException or DatabaseException for what stays away.

    Cancelling it leaves the task alone: it runs on in the servers.
    """
    async with client_of(settings) as client, watching_models(client, progress):
        return await _wait(settings, client, task_id, progress)


async def follow_all(
    settings: Settings, task_ids: Sequence[str], progress: WaitProgress
) -> AsyncGenerator[dict[str, Any]]:
    """Yield each of the tasks, in this order, when it is finished; as `follow`."""
    async with client_of(settings) as client, watching_models(client, progress):
        for task_id in task_ids:
            yield await _wait(settings, client, task_id, progress)


@asynccontextmanager
async def watching_models(client: HTTPMCPClient, progress: WaitProgress) -> AsyncGenerator[Callable[[], object]]:
    """Tell meanwhile of models that are being fetched; yields what ends that early."""
    looks = asyncio.create_task(_watch_models(client, progress), name="model-watch")
    try:
        yield looks.cancel
    finally:
        looks.cancel()
        await asyncio.gather(looks, return_exceptions=True)


async def _wait(settings: Settings, client: HTTPMCPClient, task_id: str, progress: WaitProgress) -> dict[str, Any]:
    def on_progress(figure: float, total: float | None, message: str | None) -> None:
        progress.step(message or "Running", int(figure) or None)

    lost_at: float | None = None  # since when the database does not answer
    while True:
        asked_at = time.monotonic()
        try:
            view = await client.call_tool(
                "wait_for_task",
                {"task_id": task_id, "timeout_s": WAIT_S},
                on_progress=on_progress,
                timeout_s=WAIT_S + WAIT_MARGIN_S,
            )
        except NetworkException:
            await _reconnect(settings, client, progress)
            lost_at = None
            continue
        except DatabaseException:
            failed_at = time.monotonic()
            if lost_at is None or failed_at - asked_at >= WAIT_S:  # the row was read when such a call began
                lost_at = failed_at
                progress.say("The database does not answer; the task is kept, waiting for it to come back.")
            if failed_at - lost_at >= GIVE_UP_AFTER * _watcher_limit_s(settings):
                raise
            await asyncio.sleep(RECONNECT_PAUSE_S)
            continue
        if view["status"] in FINAL:
            return view
        lost_at = None


async def _reconnect(settings: Settings, client: HTTPMCPClient, progress: WaitProgress) -> None:
    """Return when the gateway answers again. Raises ServerException when the servers were stopped on purpose."""
    progress.say("The servers do not answer; the task is kept, waiting for them to come back.")
    watcher_limit_s = _watcher_limit_s(settings)
    lost_at = time.monotonic()
    while True:
        away_s = time.monotonic() - lost_at
        try:
            if away_s >= watcher_limit_s:
                _refuse_stopped(settings)
                await ServerManager(settings, on_wait=progress.step).ensure_running()
            await client.connect()
        except (NetworkException, ServerException) as error:
            if away_s >= GIVE_UP_AFTER * watcher_limit_s or isinstance(error, _StoppedOnPurpose):
                raise
            await asyncio.sleep(RECONNECT_PAUSE_S)
        else:
            progress.say("The servers are back.")
            return


def _watcher_limit_s(settings: Settings) -> float:
    """Within which the watcher has started a service again."""
    return settings.monitor_interval_s + settings.restart_delay_s + START_MARGIN_S


class _StoppedOnPurpose(ServerException):
    """The servers have said farewell; whoever waits does not bring them back."""


def _refuse_stopped(settings: Settings) -> None:
    """A service that ends on purpose takes its state file along; one that dies leaves it."""
    if settings.gateway_url is None and not read_states(settings.run_folder):
        raise _StoppedOnPurpose(
            "The servers were stopped; the task is kept, and goes on when they run again: `tale servers start`."
        )


async def _watch_models(client: HTTPMCPClient, progress: WaitProgress) -> None:
    """Tell of models that are being fetched, until cancelled; what cannot be told now is told at the next look."""
    fetched: set[str] = set()
    while True:
        with suppress(NetworkException):
            health = await client.health()
            models: list[dict[str, Any]] = health.get("models") or []
            # While bytes are not yet known, a file that was put there by hand may be on its way to being accepted.
            if any(model["state"] == "downloading" and model["done_bytes"] is not None for model in models):
                fetched |= {model["name"] for model in models if model["state"] in ("downloading", "missing")}
            if fetched:
                backend: dict[str, Any] = health.get("backend") or {}
                reason = backend.get("reason") or "The models are not on this machine yet."
                progress.downloads(reason, [model for model in models if model["name"] in fetched])
        await asyncio.sleep(LOOK_INTERVAL_S)
