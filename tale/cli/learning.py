"""Commands about what was learned from tasks: predict, explain, learn."""

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tale.cli.invocation import settings_of
from tale.cli.tasks import Json, TaskId
from tale.validation import validate_task_id, validate_task_text

if TYPE_CHECKING:
    from rich.table import Table

    from tale.cli.rendering import Screen

NOTHING: Final = "`tale learn --report` tells how learning goes."
ROLE_NAMES: Final = {"ux": "small model", "task": "task model"}


def predict(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help='The task in quotes, or "-" to read it from stdin.', metavar="TEXT")],
    as_json: Json = False,
) -> None:
    """Tell what is expected of a task, without doing it.

    How complex it is, how many tokens the answer will have, where it would be cut, which model does it, and why.
    """
    from tale.cli.rendering import Screen, facts
    from tale.cli.standard_input import text_from_stdin

    wanted = validate_task_text(text_from_stdin() if text == "-" else text)
    found = _ask(context, "predict_task", {"text": wanted})
    screen = Screen()
    if as_json:
        screen.json(found)
        return
    screen.show(facts(_expected(found)))
    if found["version"] is None:
        screen.aside(NOTHING)


def explain(context: typer.Context, task_id: TaskId, as_json: Json = False) -> None:
    """Tell why a task was expected to be as it was.

    What was expected of it and what came of it, the parts of its text that mattered, tasks like it, and what the other
    model would have cost.
    """
    from tale.cli.formatting import one_line
    from tale.cli.rendering import PIPE_WIDTH, Screen, facts

    found = _ask(context, "explain_task", {"task_id": validate_task_id(task_id)})
    screen = Screen()
    if as_json:
        screen.json(found)
        return
    screen.show(facts([("task", found["task_id"]), ("text", one_line(found["text"], PIPE_WIDTH))]))
    for kept in found["attempts"]:
        screen.title(f"Attempt {kept['attempt']}")
        screen.show(facts(_attempt(kept)))
    if explanation := found["explanation"]:
        _show_explanation(screen, explanation)
    if found["note"]:
        screen.aside(found["note"])


def learn(
    context: typer.Context,
    report: Annotated[bool, typer.Option("--report", help="Only tell how well it predicts.")] = False,
    as_json: Json = False,
) -> None:
    """Learn from all tasks that have ended, now.

    A new version serves only if it predicts later tasks better than the old one. This happens by itself, too.
    """
    from tale.cli.rendering import Screen

    screen = Screen()
    if report:
        found = _ask(context, "get_learning_report", {})
        screen.json(found) if as_json else _show_report(screen, found)
        return
    screen.aside("Learning; this takes some seconds.")
    status = _ask(context, "learn_from_tasks", {})
    if as_json:
        screen.json(status)
    else:
        screen.show(*_status_lines(status))


def _ask(context: typer.Context, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    from tale.cli.gateway import ask
    from tale.cli.rendering import Screen

    return ask(settings_of(context), tool, arguments, say=Screen().aside)


def _expected(found: dict[str, Any]) -> list[tuple[str, str | None]]:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found["complexity_shares"].items())
    complexity = f"{found['complexity']} ({shares})" if found["complexity"] else None
    stated = f"the model is told {found['stated_tokens']:,}; " if found["stated_tokens"] else ""
    return [
        ("complexity", complexity),
        ("kind", found["kind"]),
        ("input", _tokens(found["input_tokens"])),
        ("output", _range(found)),
        ("budget", f"{stated}cut at {found['max_output_tokens']:,} tokens"),
        ("model", f"{found['model'] or '-'} ({ROLE_NAMES.get(found['role'], found['role'])})"),
        ("why", found["reason"]),
        ("success", _successes(found)),
        ("prompt", found["variant"]),
        ("like", ", ".join(f'"{text}"' for text in found["like_texts"]) or None),
        ("version", found["version"]),
    ]


def _range(found: dict[str, Any]) -> str | None:
    if found["output_tokens"] is None:
        return None
    sure = f"{2 * found['coverage'] - 1:.0%}"
    return f"{found['output_tokens']:,} tokens, {found['lower_tokens']:,} to {found['upper_tokens']:,} with {sure}"


def _successes(found: dict[str, Any]) -> str | None:
    known = [
        f"{ROLE_NAMES[role]} {found[f'{role}_success']:.0%}"
        for role in ROLE_NAMES
        if found[f"{role}_success"] is not None
    ]
    return ", ".join(known) or None


def _tokens(count: int | None) -> str | None:
    return None if count is None else f"{count:,} tokens"


def _attempt(kept: dict[str, Any]) -> list[tuple[str, str | None]]:
    expected, truth = kept["prediction"], kept["outcome"]
    role = f"{ROLE_NAMES[expected['role']]}: {expected['reason']}"
    return [
        ("expected", _range(expected)),
        ("limit", _tokens(expected["cap_tokens"])),
        ("model", f"{role} (tried on purpose)" if expected["explored"] else role),
        ("prompt", expected["variant"]),
        ("success", _successes(expected)),
        ("complexity", expected["complexity"]),
        ("version", expected["version"]),
        ("came", _truth(truth) if truth else "not known yet"),
    ]


def _truth(truth: dict[str, Any]) -> str:
    told = [_tokens(truth["output_tokens"]) or "tokens not known"]
    if truth["was_cut"]:
        told.append("cut at the limit and gone on with")
    if truth["succeeded"] is not None:
        told.append("succeeded" if truth["succeeded"] else "failed")
    return ", ".join(told)


def _show_explanation(screen: "Screen", explanation: dict[str, Any]) -> None:
    from tale.cli.rendering import table

    if explanation["parts"]:
        screen.title("What matters for its length")
        for part in explanation["parts"]:
            screen.show(f"{part['name']}: x {part['factor']:.2f}")
    screen.title("What each model is expected to take")
    figures = ("tokens", "at most", "weighted", "success")
    made = table(("model", *figures), right=figures)
    for each in explanation["alternatives"]:
        name = f"{each['model'] or '-'} ({ROLE_NAMES[each['role']]})"
        success = "-" if each["success"] is None else f"{each['success']:.0%}"
        counts = (f"{each['output_tokens']:,}", f"{each['upper_tokens']:,}", f"{each['weighted_tokens']:,.0f}")
        made.add_row(name, *counts, success)
    screen.show(made)
    if explanation["like"]:
        screen.title("Tasks like it")
        for each in explanation["like"]:
            screen.show(f"{each['likeness']:.0%} alike: {each['text'] or each['id']}")


def _show_report(screen: "Screen", found: dict[str, Any]) -> None:
    if found["status"]:
        screen.show(*_status_lines(found["status"]))
    else:
        screen.show("The learning server does not answer (starting, or learning is off); tasks go to the task model.")
    if found["windows"]:
        screen.title("How predictions did, as tasks came")
        screen.show(_windows(found["windows"]))
    elif not found["versions"]:
        screen.show('Nothing has been predicted yet; tale submit "Write a haiku" hands a task in.')
    if savings := _savings(found):
        screen.title("Savings, in tokens weighed by the size of the model")
        screen.show(*savings)
    if found["versions"]:
        screen.title("Versions")
        screen.show(_versions(found["versions"]))
    for event in found["events"]:
        if event["kind"] in ("drifted", "recovered", "unreadable", "rolled_back", "erased"):
            screen.aside(f"{_ago(event['created_at'])}: {event['kind'].replace('_', ' ')}: {event['text']}")


def _status_lines(status: dict[str, Any]) -> list[str]:
    covered = (
        "" if status["covered"] is None else f"; {status['covered']:.0%} of the latest answers within their limits"
    )
    goes_on = f"; learning goes on {_when(status)}" if status["state"] != "off" else ""
    lines = [f"{status['rows']:,} answers are known{goes_on}{covered}."]
    if status["last"]:
        lines.insert(0, f"The last round of learning: {status['last']}.")
    return lines if status["version"] else [*lines, "No version serves yet: tasks go to the task model."]


def _when(status: dict[str, Any]) -> str:
    return f"at {status['next_at']:,}" if status["rows"] < status["next_at"] else "now"


def _savings(found: dict[str, Any]) -> list[str]:
    """What was measured on tasks that were done both ways, and apart from it what was expected."""
    lines: list[str] = []
    if verified := found["verified"]:
        saved = f"{verified['saved']:.0%} ({verified['saved_lower']:.0%} to {verified['saved_upper']:.0%})"
        lost = f"{100 * verified['success_lost']:.1f}"
        lost_to = f"{100 * verified['success_lost_lower']:.1f} to {100 * verified['success_lost_upper']:.1f}"
        many = f"{verified['tasks']:,} tasks done both ways"
        lines.append(f"verified: {saved}, and {lost} points of success lost ({lost_to}), on {many}")
    if estimated := found["estimated"]:
        lines.append(f"estimated: {estimated['saved']:.0%} of what answers take, on {estimated['tasks']:,} tasks")
    return lines


def _windows(windows: list[dict[str, Any]]) -> "Table":
    from tale.cli.rendering import table

    figures = ("answers", "off by", "median", "within", "meant", "cut", "small model", "wasted")
    made = table(("since", *figures), right=figures)
    for each in windows:
        plain = "-" if each["plain_error_tokens"] is None else f"{each['plain_error_tokens']:,.0f}"
        shares = (f"{each[name]:.0%}" for name in ("covered", "coverage", "cut", "small_share"))
        counts = (f"{each['answers']:,}", f"{each['mean_error_tokens']:,.0f}", plain)
        made.add_row(_ago(each["begin_at"]), *counts, *shares, f"{each['wasted_tokens']:,.1f}")
    return made


def _versions(versions: list[dict[str, Any]]) -> "Table":
    from tale.cli.rendering import state, table

    made = table(("made", "state", "answers", "id", "why"), right=("answers",))
    for each in versions:
        made.add_row(_ago(each["created_at"]), state(each["state"]), f"{each['rows']:,}", each["id"], each["reason"])
    return made


def _ago(at: float) -> str:
    from tale.cli.formatting import seconds

    return f"{seconds(max(0.0, time.time() - at))} ago"
