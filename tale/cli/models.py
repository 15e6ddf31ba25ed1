"""Commands about model files: list, pull, remove."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tale.cli.confirmation import Yes, confirmed
from tale.cli.edge import INTERRUPTED, complain
from tale.cli.formatting import UNKNOWN, size
from tale.cli.groups import group
from tale.cli.invocation import settings_of
from tale.cli.tasks import Json
from tale.exceptions import ModelException

if TYPE_CHECKING:
    from tale.cli.engines import EngineLook
    from tale.cli.rendering import Screen
    from tale.models.choice import Choice
    from tale.records import ModelInfo, PullProgress
    from tale.settings import Settings

IN_USE: Final = ("ready", "loading")

models = group("See, fetch and delete the files of models.")

Name = Annotated[str, typer.Argument(help="Name of a model, as `tale models list` shows it.", metavar="NAME")]


@models.command("list")
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """List the models of the engine: those on this machine and those that could be fetched.

    Where several engines serve them, each is told with its state and what it has.
    """
    from tale.cli.rendering import Screen

    screen = Screen()
    reason, rows, engines = asyncio.run(_listed(settings_of(context)))
    if as_json:
        screen.json({"reason": reason, "models": rows, "engines": engines})
        return
    screen.show(reason)
    if not rows:
        screen.show("The engine has no models yet; `tale models pull` fetches the two that tale uses.")
        return
    _show(screen, rows)
    if engines:
        _show_engines(screen, engines)


@models.command("pull")
def pull(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of models; without one: the two that tale uses.", metavar="NAME")
    ] = None,
) -> None:
    """Fetch models. An interrupted download goes on where it was."""
    from tale.cli.rendering import Screen

    settings = settings_of(context)
    try:
        asyncio.run(_pulled(settings, names or [], Screen()))
    except KeyboardInterrupt:
        complain("Interrupted. What has arrived is kept; the same command goes on from there.")
        raise typer.Exit(INTERRUPTED) from None


@models.command("remove")
def remove(context: typer.Context, name: Name, yes: Yes = False) -> None:
    """Delete a model's files."""
    from tale.cli.rendering import Screen

    settings = settings_of(context)
    info = asyncio.run(_info(settings, name))
    if not confirmed(f"Delete {info.name} ({size(info.size_bytes)})?", yes=yes):
        Screen().show("Nothing was deleted.")
        return
    asyncio.run(_removed(settings, name))
    Screen().show(f"{name} is deleted; `tale models pull {name}` brings it back.")


async def _listed(settings: "Settings") -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """Why this engine, its models, and each engine where there are several."""
    from tale.cli.engines import look_at_engines
    from tale.models.choice import choose_backend

    choice = await choose_backend(settings)
    try:
        found = await choice.backend.list_models()
        looks = await look_at_engines(choice)
    finally:
        await choice.backend.close()
    states, told = await _running(settings)
    rows = [_row(info, choice, states.get(info.name)) for info in found]
    return choice.reason, rows, [told.get(look.name) or _engine_row(look, choice) for look in looks]


def _engine_row(look: "EngineLook", choice: "Choice") -> dict[str, Any]:
    """An engine that no server of ours uses now, in the form in which a server tells it."""
    models = [name for name in look.models if name in (choice.ux_model, choice.task_model)]
    answering = "available" if models else "lacking"
    return {
        "name": look.name,
        "state": "not answering" if look.error else answering,
        "models": models,
        "running": None,
        "seconds_per_token": None,
        "error": look.error,
    }


def _row(info: "ModelInfo", choice: "Choice", running: dict[str, Any] | None) -> dict[str, Any]:
    roles = [role for role, name in (("ux", choice.ux_model), ("task", choice.task_model)) if name == info.name]
    known = "available" if info.available else "not fetched"
    return {
        "name": info.name,
        "role": " and ".join(roles) or None,
        "state": running["state"] if running else known,
        "memory_bytes": running["memory_bytes"] if running else info.memory_bytes,
        "size_bytes": info.size_bytes,
        "licence": info.licence,
        "source": info.source,
    }


async def _running(settings: "Settings") -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The models and the engines of this home's running servers by name; empty where none run."""
    from tale.orchestration.server_status import look_at

    gateway = await look_at(settings, "gateway")
    is_ours = gateway.state in ("running", "starting") or settings.gateway_url is not None
    health = (gateway.health if is_ours else None) or {}
    models: list[dict[str, Any]] = health.get("models") or []
    engines: list[dict[str, Any]] = health.get("engines") or []
    return {model["name"]: model for model in models}, {engine["name"]: engine for engine in engines}


async def _pulled(settings: "Settings", names: list[str], screen: "Screen") -> None:
    from tale.cli.engines import backends_of
    from tale.cli.progress import progress_on
    from tale.models.choice import choose_backend

    choice = await choose_backend(settings)
    try:
        wanted = names or list(dict.fromkeys((choice.ux_model, choice.task_model)))
        for address, backend in backends_of(choice):
            there = "here" if address is None else f"at {address}"
            known = {info.name: info for info in await backend.list_models()}
            for name in wanted:
                info = known.get(name)
                if info and info.available:
                    screen.say(f"{name} is {there} already.")
                    continue
                with progress_on(screen.err) as display:

                    def listen(report: "PullProgress", info: "ModelInfo | None" = info) -> None:
                        display.step(f"Fetching {report.model}")
                        display.downloads(choice.reason, [_fetched(report, info)])

                    await backend.pull(name, listen)
                screen.say(f"{name} is {there} now.")
    finally:
        await choice.backend.close()


def _fetched(report: "PullProgress", info: "ModelInfo | None") -> dict[str, Any]:
    return {
        "name": report.model,
        "state": "downloading",
        "done_bytes": report.done_bytes,
        "total_bytes": report.total_bytes,
        "size_bytes": info.size_bytes if info else None,
        "licence": info.licence if info else None,
        "source": report.source,
    }


async def _info(settings: "Settings", name: str) -> "ModelInfo":
    """What is known of a model that is here and not in use. Raises ModelException."""
    from tale.models.choice import choose_backend

    choice = await choose_backend(settings)
    try:
        found = {info.name: info for info in await choice.backend.list_models() if info.available}
    finally:
        await choice.backend.close()
    if name not in found:
        there = ", ".join(found) or "none"
        raise ModelException(f"There is no model {name!r} on this machine; there is: {there}.")
    states, _ = await _running(settings)
    if states.get(name, {}).get("state") in IN_USE:
        raise ModelException(f"{name} is in use; `tale servers stop` first.")
    return found[name]


async def _removed(settings: "Settings", name: str) -> None:
    from tale.models.choice import choose_backend

    choice = await choose_backend(settings)
    try:
        await choice.backend.remove(name)
    finally:
        await choice.backend.close()


def _show(screen: "Screen", rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    from tale.cli.rendering import state, table

    if screen.narrow:
        for row in rows:
            screen.show(Text.assemble(state(row["state"]), f"  {row['name']}"))
            screen.show(
                f"  {', '.join(fact for fact in (row['role'], size(row['size_bytes']), row['licence']) if fact)}"
            )
        return
    made = table(("model", "role", "state", "size", "memory", "licence", "source"), right=("size", "memory"))
    for row in rows:
        made.add_row(
            row["name"],
            row["role"] or UNKNOWN,
            state(row["state"]),
            size(row["size_bytes"]),
            size(row["memory_bytes"]),
            row["licence"] or UNKNOWN,
            row["source"] or UNKNOWN,
        )
    screen.show(made)


def _show_engines(screen: "Screen", engines: list[dict[str, Any]]) -> None:
    from rich.text import Text

    from tale.cli.rendering import printable, state, table

    screen.title("Engines")
    if screen.narrow:
        for engine in engines:
            screen.show(Text.assemble(state(engine["state"]), f"  {engine['name']}"))
            screen.show(f"  {engine['error'] or ', '.join(engine['models'])}")
        return
    made = table(("engine", "state", "models", "calls", "s/token", "trouble"), right=("calls", "s/token"))
    for engine in engines:
        calls, pace = engine["running"], engine["seconds_per_token"]
        made.add_row(
            engine["name"],
            state(engine["state"]),
            ", ".join(engine["models"]) or UNKNOWN,
            UNKNOWN if calls is None else str(calls),
            UNKNOWN if pace is None else f"{pace:.3f}",
            Text(printable(engine["error"] or "")),
        )
    screen.show(made)
