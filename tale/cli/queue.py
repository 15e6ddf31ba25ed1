"""Commands about the queue as a whole: pause it, resume it, see how it stands."""

import time
from typing import Any

import typer

from tale.cli.groups import group
from tale.cli.invocation import settings_of
from tale.cli.tasks import Json

queue = group("Pause and resume the queue of tasks.")


@queue.command("pause")
def pause(context: typer.Context, as_json: Json = False) -> None:
    """Begin no more tasks, after a restart either. Those that run go on, and new ones are taken in."""
    _show(_asked(context, "pause_queue"), as_json=as_json)


@queue.command("resume")
def resume(context: typer.Context, as_json: Json = False) -> None:
    """Begin tasks again after a pause."""
    _show(_asked(context, "resume_queue"), as_json=as_json)


@queue.command("status")
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show how many tasks wait and run, and whether the queue is paused."""
    info = _asked(context, "get_server_info")
    counts = info["queue"]
    view = {"paused_at": info["queue_paused_at"], "queued": counts["queued"], "running": counts["running"]}
    _show(view, as_json=as_json)


def _asked(context: typer.Context, tool: str) -> dict[str, Any]:
    from tale.cli.gateway import ask
    from tale.cli.rendering import Screen

    return ask(settings_of(context), tool, {}, say=Screen().aside)


def _show(view: dict[str, Any], *, as_json: bool) -> None:
    from tale.cli.formatting import paused_line
    from tale.cli.rendering import Screen

    screen = Screen()
    if as_json:
        screen.json(view)
        return
    paused_at = view["paused_at"]
    screen.show("Tasks are begun." if paused_at is None else paused_line(paused_at, now=time.time()))
    screen.show(f"{view['queued']} queued, {view['running']} running")
