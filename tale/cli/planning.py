"""`tale submit --plan`: the task model splits a task; its steps are shown, and run in the order of their needs."""

import asyncio
import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import typer

from tale.cli.bulk_progress import bulk_progress_on
from tale.cli.edge import FAILED, INTERRUPTED, complain
from tale.cli.following import follow, follow_all
from tale.cli.gateway import running
from tale.cli.interrupting import are_cancelled
from tale.cli.plans import QUESTION, Step, parse_plan, requests_of, schema_of, shown, written
from tale.cli.progress import progress_on
from tale.cli.rendering import Screen
from tale.cli.submit_options import MAX_FILES_BYTES
from tale.cli.tasks import ending
from tale.exceptions import ValidationException
from tale.orchestration.plan_keys import question_key
from tale.settings import Settings

NOT_FOR_PLANS: Final = ("after", "with_results")
INTERRUPTION: Final = (
    "Interrupted; steps that were handed in run on: `tale list` shows them, and `tale cancel ID` with the task that "
    "puts the results together ends them all."
)
ON_THEIR_WAY: Final = " The steps were just on their way and may have arrived: `tale list` shows them."
PLAN_TOKENS: Final = 1_500
MOST_CHARACTERS: Final = 9_000  # what is asked about the task has to fit beside it


@dataclass
class _Handed:
    """The tasks that were handed in: the question for a plan, then its steps. `key` is the plan's name."""

    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    ids: list[str] = field(default_factory=list[str])
    are_steps_on_their_way: bool = False


def submit_plan(
    settings: Settings,
    screen: Screen,
    text: str,
    options: Mapping[str, Any],
    *,
    most: int,
    yes: bool,
    wait: bool,
    quiet: bool,
    cancel: bool,
) -> dict[str, Any] | None:
    """The task that puts the results together, ended with `wait`; None where nothing was to be run.

    Each step is a task of its own, stored with its result: what dies goes on where it was. With `cancel`, Ctrl-C ends
    them all.
    """
    _refuse_unfit(text, options, most)
    handed = _Handed()
    try:
        with progress_on(screen.err, quiet=quiet) as progress:
            plan = asyncio.run(_planned(settings, text, options, most, progress, handed))
        steps = parse_plan(plan, most, lenient=True)
        if not yes:
            chosen = _chosen(screen, steps, most)
            if chosen is None:
                return None
            steps = chosen
        elif not quiet:
            _show(screen, steps)
        requests = requests_of(text, steps, options, key=handed.key)
        return asyncio.run(_carried_out(settings, screen, requests, handed, wait=wait, quiet=quiet))
    except KeyboardInterrupt:
        complain(_after_interrupt(settings, handed, cancel=cancel))
        raise typer.Exit(INTERRUPTED) from None


def _refuse_unfit(text: str, options: Mapping[str, Any], most: int) -> None:
    if wrong := [name for name in NOT_FOR_PLANS if name in options]:
        raise ValidationException(
            f"--plan makes tasks that wait for each other; leave --{wrong[0]} out.".replace("_", "-")
        )
    if len(text) > MOST_CHARACTERS:
        raise ValidationException(
            f"--plan takes a task of {MOST_CHARACTERS:,} characters at most; --attach takes more."
        )
    if (size := len(json.dumps(options.get("attachments", [])))) * most > MAX_FILES_BYTES:  # all steps go together
        raise ValidationException(
            f"--plan: the files go with each of up to {most} steps, and may have {MAX_FILES_BYTES // most:,} bytes "
            f"as they are sent; they have {size:,}. Attach less, or allow fewer steps with --max-steps."
        )


def _after_interrupt(settings: Settings, handed: _Handed, *, cancel: bool) -> str:
    if not cancel or not handed.ids:
        return INTERRUPTION
    last = handed.ids[-1]
    rest = ON_THEIR_WAY if handed.are_steps_on_their_way else ""
    if not are_cancelled(settings, [last]):  # with the last task of a plan all its steps are
        return f"Interrupted, but not cancelled; what was handed in may run on: `tale cancel {last}` ends it.{rest}"
    return f"Interrupted; what was handed in is cancelled where it had not ended.{rest}"


async def _planned(
    settings: Settings, text: str, options: Mapping[str, Any], most: int, progress: Any, handed: _Handed
) -> str:
    """The plan as the task model wrote it."""
    asked = {name: options[name] for name in ("priority", "timeout_s", "attachments") if name in options}
    question = QUESTION.format(most=most, text=text)
    arguments = {**asked, "text": question, "max_output_tokens": PLAN_TOKENS}
    arguments["idempotency_key"] = question_key(handed.key)
    arguments["expect"] = {"json_schema": schema_of(most)}
    async with running(settings, progress.step) as client:
        task = await client.call_tool("submit_task", arguments, idempotent=True)
    handed.ids.append(task["id"])
    view = await follow(settings, task["id"], progress)
    if view["status"] != "completed":
        complain(f"There is no plan. {ending(view)}")
        raise typer.Exit(FAILED)
    return view["result"]


def _chosen(screen: Screen, steps: list[Step], most: int) -> list[Step] | None:
    """The steps as the user wants them; None where they are not to be run."""
    if sys.stdin is None or not sys.stdin.isatty():
        sys.stdout.write(written(steps))
        screen.say("This is the plan; nothing was run. --yes runs a plan without asking.")
        return None
    while True:
        _show(screen, steps)
        answer = typer.prompt("Run these steps? [y]es, [e]dit, [n]o", default="y", err=True).strip().lower()[:1]
        if answer == "y":
            return steps
        if answer == "n":
            return None
        if answer == "e":
            steps = _edited(steps, most)


def _edited(steps: list[Step], most: int) -> list[Step]:
    import click  # of Typer's own copy, `edit` is not public

    try:
        text = click.edit(written(steps), extension=".json")
        return steps if text is None else parse_plan(text, most)
    except (click.ClickException, ValidationException) as error:
        complain(error.message)
        return steps


def _show(screen: Screen, steps: Sequence[Step]) -> None:
    for line in shown(steps):
        screen.say(line)


async def _carried_out(
    settings: Settings,
    screen: Screen,
    requests: Sequence[dict[str, Any]],
    handed: _Handed,
    *,
    wait: bool,
    quiet: bool,
) -> dict[str, Any]:
    with bulk_progress_on(screen.err, len(requests), quiet=quiet or not wait) as progress:
        async with running(settings, progress.step) as client:
            handed.are_steps_on_their_way = True
            stored = (await client.call_tool("submit_tasks", {"tasks": list(requests)}, idempotent=True))["tasks"]
            ids = [task["id"] for task in stored]
            handed.ids += ids
            handed.are_steps_on_their_way = False
        if not wait:
            return stored[-1]
        progress.say(
            f"Task {ids[-1]} puts the results together; `tale status {ids[-1]} --watch` comes back to it, "
            f"`tale cancel {ids[-1]}` ends all steps."
        )
        ended: list[dict[str, Any]] = []
        async with aclosing(follow_all(settings, ids, progress)) as views:
            async for view in views:
                ended.append(view)
                progress.ended()
        return ended[-1]
