"""The command that shows the dashboard: live in the terminal, once for a look or a script, or in the browser."""

from typing import TYPE_CHECKING, Annotated

import typer

from tale.cli.invocation import is_given, settings_of

if TYPE_CHECKING:
    from tale.settings import Settings


def dashboard(
    context: typer.Context,
    web: Annotated[bool, typer.Option("--web", help="Start the dashboard for the browser, and open it.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the one for the browser.")] = 8501,
    once: Annotated[bool, typer.Option("--once", help="Print it once.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: JSON, for scripts.")] = False,
    hours: Annotated[float, typer.Option(min=0.25, max=720.0, help="How far back, in hours.")] = 1.0,
) -> None:
    """Show how the service does: figures against targets, queue, tasks, calls, alerts, models.

    Live in the terminal; keys: q quits, p pauses. It only looks, and needs no running service.

    `--once --json` prints one object whose keys stay: version (1), at, hours, service {state, url, reason}, queue
    {queued, running, calls}, cards [{label, value, change, against, is_good, course}], figures {calls, failed,
    output_tokens, first_token_p95_s, total_p95_s}, targets [{name, title, status, measured, sense, limit, unit, values,
    burn_rate, action}], tasks [{id, status, text, age_s, model}], calls [{at, model, operation, outcome, total_s,
    first_token_s, input_tokens, output_tokens}], alerts [{at, of, name, kind, text, action}], models [{name, role,
    state, memory_bytes, running, waiting}]. Times are Unix seconds; what is not known is null.
    """
    from tale.exceptions import ValidationException

    settings = settings_of(context)
    if web and is_given(context, "hours"):
        raise ValidationException("--hours is for the terminal; with --web the page lets you choose.")
    if not web and is_given(context, "port"):
        raise ValidationException("--port does nothing without --web; leave it out, or give both.")
    if as_json and not once:
        raise ValidationException("--json needs --once: a live view is nothing for a script.")
    if web:
        if once:
            raise ValidationException("--web and --once are two ways to look; choose one.")
        from tale.cli.dashboard_web import serve_dashboard

        raise typer.Exit(serve_dashboard(settings, port))
    _show(settings, hours, once=once, as_json=as_json)


def _show(settings: "Settings", hours: float, *, once: bool, as_json: bool) -> None:
    from tale.analytics import open_history
    from tale.cli.dashboard_look import look
    from tale.cli.dashboard_screen import print_once, show_live
    from tale.cli.rendering import Screen

    screen = Screen()
    with open_history(settings.database) as history:
        if not once:
            show_live(screen, lambda: look(settings, history, hours=hours))
        elif as_json:
            screen.json(look(settings, history, hours=hours))
        else:
            print_once(screen, look(settings, history, hours=hours))
