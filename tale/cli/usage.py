"""The command that tells what was used: tokens, calls, errors and times."""

import time
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tale.cli.invocation import settings_of
from tale.cli.tasks import Json

if TYPE_CHECKING:
    from tale.cli.rendering import Screen
    from tale.settings import Settings


class Grouping(StrEnum):
    """What usage can be summed up by."""

    MODEL = "model"
    ENGINE = "engine"
    ROLE = "role"
    OPERATION = "operation"
    KEY = "key"
    DAY = "day"


def usage(
    context: typer.Context,
    task: Annotated[str | None, typer.Option("--task", help="Only calls for this task.", metavar="ID")] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", help="Only calls for this conversation.", metavar="ID")
    ] = None,
    day: Annotated[
        str | None, typer.Option(help="Only this day: YYYY-MM-DD, today or yesterday.", metavar="DAY")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only calls begun then or later: a date, a time, or 24h.", metavar="WHEN")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only calls begun before.", metavar="WHEN")] = None,
    by: Annotated[Grouping | None, typer.Option(help="Sum up by this, too.")] = None,
    as_json: Json = False,
) -> None:
    """Tell exactly how many tokens the model calls used.

    With calls, errors and times. Figures that no engine reported are shown as "-" and are in no sum. No server needs
    to run.
    """
    from tale.cli.rendering import Screen

    wanted = {"task_id": task, "conversation_id": conversation, "day": day, "since": since, "until": until}
    found = _found(settings_of(context), {**wanted, "by": by.value if by else None})
    screen = Screen()
    if as_json:
        screen.json(found)
        return
    if not found["whole"]["calls"]:
        screen.show("No calls are on record for that." if any(wanted.values()) else "No calls are on record yet.")
        return
    _show(screen, found, by)


def _found(settings: "Settings", wanted: dict[str, Any]) -> dict[str, Any]:
    """From the database, or from the gateway where that is another machine's."""
    from tale.storage.reader import read_once
    from tale.storage.usage import Usage, UsageLine, query_of, usage_of

    if settings.gateway_url is not None:
        from tale.cli.gateway import (
            ask,
        )  # the protocol's SDK takes a second, which a look into the database does not need
        from tale.cli.rendering import Screen

        return ask(settings, "get_usage", wanted, say=Screen().aside)
    query = query_of(**wanted, now=time.time())
    nothing = Usage(query.since, query.until, UsageLine())
    return asdict(read_once(settings.database, lambda connection: usage_of(connection, query), absent=nothing))


def _show(screen: "Screen", found: dict[str, Any], by: Grouping | None) -> None:
    from tale.cli.formatting import UNKNOWN, seconds
    from tale.cli.rendering import facts, table

    whole = found["whole"]
    if by is not None and not screen.narrow:
        figures = ("calls", "failed", "input", "cached", "output", "reasoning", "busy")
        made = table((by.value, *figures), right=figures)
        for line in found["groups"]:
            made.add_row(line["name"] or UNKNOWN, *_row(line))
        made.add_row("all", *_row(whole), style="bold")
        screen.show(made)
    else:
        for line in found["groups"]:
            screen.show(line["name"] or UNKNOWN, facts(_facts(line)))
        if by is not None:
            screen.title("all")
        screen.show(facts(_facts(whole)))
        parts = [(name, seconds(whole[f"{name}_s"])) for name in ("queue", "load", "prefill", "decode", "other")]
        screen.show(facts([("time", ", ".join(f"{name} {value}" for name, value in parts))]))
    if whole["unreported"]:
        noun = "call" if whole["unreported"] == 1 else "calls"
        screen.aside(f"{whole['unreported']:,} {noun} reported no usage.")


def _row(line: dict[str, Any]) -> list[str]:
    from tale.cli.formatting import seconds

    tokens = [_count(line[f"{name}_tokens"]) for name in ("input", "cached", "output", "reasoning")]
    return [f"{line['calls']:,}", f"{line['failed']:,}", *tokens, seconds(line["total_s"])]


def _facts(line: dict[str, Any]) -> list[tuple[str, str | None]]:
    from tale.cli.formatting import seconds

    apart = [f"{line[name]:,} {name}" for name in ("failed", "cancelled", "running") if line[name]]
    calls = f"{line['calls']:,}" + (f" ({', '.join(apart)})" if apart else "")
    return [
        ("calls", calls),
        ("input", f"{_count(line['input_tokens'])} tokens, {_count(line['cached_tokens'])} of them cached"),
        ("output", f"{_count(line['output_tokens'])} tokens, {_count(line['reasoning_tokens'])} of them reasoning"),
        ("busy", seconds(line["total_s"])),
    ]


def _count(tokens: int | None) -> str:
    from tale.cli.formatting import UNKNOWN

    return UNKNOWN if tokens is None else f"{tokens:,}"
