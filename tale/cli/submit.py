"""The command that hands a task in and, unless told otherwise, waits for its answer."""

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tale.cli.edge import FAILED, INTERRUPTED, complain
from tale.cli.invocation import settings_of
from tale.cli.standard_input import text_from_stdin
from tale.cli.submit_options import (
    After,
    Anew,
    Attach,
    Deadline,
    ExpectJson,
    ExpectPython,
    ExpectRegex,
    MaxSteps,
    MaxTokens,
    Planned,
    Priority,
    TaskFile,
    Timeout,
    WithResults,
    YesToPlan,
    expect_of,
    files_of,
    refuse_idle,
)
from tale.cli.tasks import Json, ending
from tale.exceptions import TaleBaseException, ValidationException
from tale.validation import validate_task_text

if TYPE_CHECKING:
    from pathlib import Path

    from tale.cli.progress import WaitProgress
    from tale.cli.rendering import Screen
    from tale.settings import Settings

STDIN: Final = "-"

Words = Annotated[list[str] | None, typer.Argument(help='The task in quotes; "-" reads it from stdin.', metavar="TASK")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the answer, or print the id only.")]
Cancel = Annotated[
    bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C cancels what was handed in; without it, it runs on.")
]


def submit(
    context: typer.Context,
    words: Words = None,
    wait: Wait = True,
    as_json: Json = False,
    max_tokens: MaxTokens = None,
    priority: Priority = 0,
    timeout: Timeout = None,
    expect_regex: ExpectRegex = None,
    expect_json: ExpectJson = None,
    expect_python: ExpectPython = False,
    deadline: Deadline = None,
    after: After = None,
    with_results: WithResults = False,
    attach: Attach = None,
    file: TaskFile = None,
    anew: Anew = False,
    plan: Planned = False,
    max_steps: MaxSteps = 6,
    yes: YesToPlan = False,
    cancel_on_interrupt: Cancel = False,
) -> None:
    """Hand a task in, wait for its answer and print it. The servers are started if none run.

    In a pipe, stdout gets the answer and nothing else. Exit codes: 0 the task completed, 1 it failed or was
    cancelled, 2 wrong usage or input, 3 no server or model, 130 interrupted (the task runs on).
    """
    refuse_idle(context, plan=plan, file=file is not None)
    given: dict[str, Any] = {"priority": priority, "timeout_s": timeout, "max_output_tokens": max_tokens}
    given |= {"expect": expect_of(expect_regex, expect_json, python=expect_python), "deadline_s": deadline}
    given |= {"after": after, "with_results": with_results or None, "attachments": files_of(attach or []) or None}
    options = {name: value for name, value in given.items() if value is not None}
    settings = settings_of(context)
    how = {"wait": wait, "as_json": as_json, "cancel": cancel_on_interrupt}
    if file is not None:
        return _from_file(settings, file, words, options, anew=anew, **how)
    text = validate_task_text(_text_of(words or []))
    if plan:
        return _by_plan(settings, text, options, most=max_steps, yes=yes, **how)
    _hand_in(Errand(settings, {"text": text, **options}), **how)


def _from_file(
    settings: "Settings",
    file: "Path",
    words: list[str] | None,
    options: dict[str, Any],
    *,
    wait: bool,
    as_json: bool,
    anew: bool,
    cancel: bool,
) -> None:
    from tale.cli.bulk import submit_file

    if words:
        raise ValidationException("With --file the tasks come from the file; leave the task on the command line out.")
    submit_file(settings, file, options, wait=wait, as_json=as_json, anew=anew, cancel=cancel)


def _by_plan(
    settings: "Settings",
    text: str,
    options: dict[str, Any],
    *,
    most: int,
    yes: bool,
    wait: bool,
    as_json: bool,
    cancel: bool,
) -> None:
    from tale.cli.planning import submit_plan
    from tale.cli.rendering import Screen

    screen = Screen()
    view = submit_plan(settings, screen, text, options, most=most, yes=yes, wait=wait, quiet=as_json, cancel=cancel)
    if view is not None:
        _show_outcome(screen, view, wait=wait, as_json=as_json)


def _hand_in(errand: "Errand", *, wait: bool, as_json: bool, cancel: bool) -> None:
    from tale.cli.rendering import Screen

    screen = Screen()
    view = _carried_out(errand, screen, wait=wait, quiet=as_json, cancel=cancel)
    _show_outcome(screen, view, wait=wait, as_json=as_json)


def _show_outcome(screen: "Screen", view: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    if as_json:
        screen.json(view)
    elif not wait:
        _show_id(screen, view["id"])
    elif view["status"] == "completed":
        _show_answer(screen, view)
    else:
        _show_failure(screen, view)
    if wait and view["status"] != "completed":
        raise typer.Exit(FAILED)


@dataclass(slots=True)
class Errand:
    """A task on its way to its answer, and how far it has come: an interrupt has to know."""

    settings: "Settings"
    arguments: dict[str, Any]
    sent: bool = False
    task_id: str | None = None
    key: str = field(default_factory=lambda: str(uuid.uuid4()))

    async def run(self, progress: "WaitProgress", *, wait: bool) -> dict[str, Any]:
        """Hand the task in and, with `wait`, follow it to its end."""
        from tale.cli.following import follow
        from tale.cli.gateway import running

        async with running(self.settings, progress.step, note=progress.say) as client:
            self.sent = True
            # The key makes it safe to send again what may have arrived: it is stored once.
            arguments = {**self.arguments, "idempotency_key": self.key}
            view = await client.call_tool("submit_task", arguments, idempotent=True)
        self.task_id = view["id"]
        if not wait:
            return view
        progress.say(f"Task {self.task_id}")
        return await follow(self.settings, view["id"], progress)


def _carried_out(errand: Errand, screen: "Screen", *, wait: bool, quiet: bool, cancel: bool) -> dict[str, Any]:
    from tale.cli.progress import progress_on

    try:
        with progress_on(screen.err, quiet=quiet or not wait) as progress:
            return asyncio.run(errand.run(progress, wait=wait))
    except KeyboardInterrupt:
        complain(_after_interrupt(errand, cancel=cancel))
        raise typer.Exit(INTERRUPTED) from None


def _after_interrupt(errand: Errand, *, cancel: bool) -> str:
    task_id = errand.task_id
    if task_id is None:
        if errand.sent:
            return "Interrupted while the task was handed in; `tale list` shows whether it arrived."
        return "Interrupted before the task was handed in."
    way_back = f"`tale status {task_id}` tells how it goes, `tale cancel {task_id}` stops it."
    if not cancel:
        return f"Interrupted; the task runs on: {way_back}"
    from tale.cli.gateway import ask

    try:
        view = ask(errand.settings, "cancel_task", {"task_id": task_id}, say=lambda _: None)
    except (TaleBaseException, KeyboardInterrupt):
        return f"Interrupted, but the task could not be cancelled; it may run on: {way_back}"
    became = "being cancelled" if view["status"] == "running" else view["status"]
    return f"Interrupted; task {task_id} is {became}."


def _text_of(words: list[str]) -> str:
    match words:
        case []:
            raise ValidationException('There is no task; say what is to be done: tale submit "Write a haiku".')
        case [word] if word == STDIN:
            return text_from_stdin()
        case [word]:
            return word
        case _:
            raise ValidationException(
                f'The task came as {len(words)} words; quote the task: tale submit "{words[0]} …"'
            )


def _show_id(screen: "Screen", task_id: str) -> None:
    screen.show(task_id)
    screen.aside(f"Handed in; `tale status {task_id}` tells how it goes.")


def _show_answer(screen: "Screen", view: dict[str, Any]) -> None:
    from tale.cli.rendering import footer

    screen.answer(view["result"] or "")
    if screen.err.is_terminal:
        screen.aside("")
    if view["finish_reason"] == "length":
        screen.say("The answer was cut off at its token limit; --max-tokens gives it more.", "yellow")
    for line in footer(view):
        screen.aside(line)


def _show_failure(screen: "Screen", view: dict[str, Any]) -> None:
    complain(ending(view))
    if view["result"]:
        screen.aside(f"`tale result {view['id']}` prints what it had written.")
