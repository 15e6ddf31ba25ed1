"""Commands about tasks that are there already: status, list, result, cancel, feedback."""

import asyncio
from enum import StrEnum
from typing import Annotated, Any

import typer

from tale.cli.edge import FAILED
from tale.cli.invocation import settings_of
from tale.validation import validate_task_id

TaskId = Annotated[str, typer.Argument(help="Id of the task.", metavar="ID")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Status(StrEnum):
    """The states a list can be narrowed to."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Rating(StrEnum):
    """What a result can be."""

    GOOD = "good"
    BAD = "bad"


def status(
    context: typer.Context,
    task_id: Annotated[str | None, typer.Argument(help="Id of a task; without it: everything.", metavar="ID")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it; of a task until it is finished.")] = False,
    as_json: Json = False,
) -> None:
    """Show how a task stands, or how everything does.

    Without an id: the servers, the models, the queue and the latest tasks.
    """
    wanted = None if task_id is None else validate_task_id(task_id)
    settings = settings_of(context)
    if wanted is None:
        from tale.cli.overview import show_overview, watch_overview

        (watch_overview if watch else show_overview)(settings, as_json=as_json)
        return
    view = _watched(settings, wanted, quiet=as_json) if watch else _ask(settings, "get_task_status", wanted)
    _show(view, as_json=as_json)
    if watch and view["status"] in (Status.FAILED, Status.CANCELLED):
        raise typer.Exit(FAILED)


def list_tasks(
    context: typer.Context,
    narrowed: Annotated[Status | None, typer.Option("--status", help="Only tasks that stand so.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=200)] = 20,
    before: Annotated[str | None, typer.Option(help="Go on where an earlier list ended.", metavar="CURSOR")] = None,
    as_json: Json = False,
) -> None:
    """List tasks, newest first."""
    from tale.cli.gateway import ask
    from tale.cli.rendering import Screen, show_tasks

    screen = Screen()
    arguments = {"status": narrowed.value if narrowed else None, "limit": limit, "before": before}
    page = ask(settings_of(context), "list_tasks", arguments, say=screen.aside)
    if as_json:
        screen.json(page)
        return
    if not page["tasks"]:
        kind = f"{narrowed.value} " if narrowed else ""
        screen.say(f'There are no {kind}tasks; tale submit "Write a haiku" hands one in.')
        return
    show_tasks(screen, page["tasks"])
    if page["next"]:
        screen.aside(f"There are more: tale list --limit {limit} --before {page['next']}")


def result(context: typer.Context, task_id: TaskId, as_json: Json = False) -> None:
    """Print the answer of a finished task.

    Of a failed or cancelled task, the text it had got to is printed, and the exit code is 1.
    """
    from tale.cli.rendering import Screen

    screen = Screen()
    view = _ask(settings_of(context), "get_task_result", validate_task_id(task_id))
    if as_json:
        screen.json(view)
    elif view["result"]:
        screen.answer(view["result"])
    if view["status"] != Status.COMPLETED:
        if not as_json:
            screen.say(ending(view))
        raise typer.Exit(FAILED)


def cancel(context: typer.Context, task_id: TaskId, as_json: Json = False) -> None:
    """Stop a task, or a plan with all its steps.

    What had been written so far is kept.
    """
    from tale.cli.rendering import Screen

    screen = Screen()
    view = _ask(settings_of(context), "cancel_task", validate_task_id(task_id))
    if as_json:
        screen.json(view)
    elif view["status"] == Status.CANCELLED:
        kept = f"; `tale result {view['id']}` prints what it had written" if view["result"] else ""
        screen.show(f"Task {view['id']} is cancelled{kept}.")
    elif view["status"] == Status.RUNNING:
        screen.show(f"Task {view['id']} will be cancelled as soon as its runner answers.")
    else:
        screen.show(f"Task {view['id']} had ended already: it is {view['status']}.")


def feedback(
    context: typer.Context,
    task_id: TaskId,
    rating: Annotated[Rating, typer.Argument(help="What its result is.", metavar="good|bad")],
    comment: Annotated[str | None, typer.Option(help="A remark in your own words.", metavar="TEXT")] = None,
    as_json: Json = False,
) -> None:
    """Rate the result of a task, from which tale learns when the small model will do.

    Said again, it stands in place of what was said before.
    """
    from tale.cli.gateway import ask
    from tale.cli.rendering import Screen

    screen = Screen()
    given = {"task_id": validate_task_id(task_id), "rating": rating.value, "comment": comment}
    view = ask(settings_of(context), "record_feedback", given, say=screen.aside)
    if as_json:
        screen.json(view)
    else:
        screen.show(f"Task {view['id']} is rated {rating.value}.")


def ending(view: dict[str, Any]) -> str:
    """One sentence on a task that did not complete."""
    if view["status"] == Status.CANCELLED:
        return f"Task {view['id']} was cancelled."
    return f"Task {view['id']} failed: {view['error'] or 'the reason is in the log of the servers'}"


def _show(view: dict[str, Any], *, as_json: bool) -> None:
    from tale.cli.rendering import Screen, task_card

    screen = Screen()
    if as_json:
        screen.json(view)
        return
    screen.show(task_card(view))
    if view["status"] == Status.COMPLETED:
        screen.aside(f"tale result {view['id']} prints the answer.")


def _ask(settings: Any, tool: str, task_id: str) -> dict[str, Any]:
    from tale.cli.gateway import ask
    from tale.cli.rendering import Screen

    return ask(settings, tool, {"task_id": task_id}, say=Screen().aside)


def _watched(settings: Any, task_id: str, *, quiet: bool) -> dict[str, Any]:
    from tale.cli.following import follow
    from tale.cli.progress import progress_on
    from tale.cli.rendering import Screen

    with progress_on(Screen().err, quiet=quiet) as progress:
        return asyncio.run(follow(settings, task_id, progress))
