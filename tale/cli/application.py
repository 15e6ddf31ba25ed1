"""The command tree; each group's module parses and prints, and imports what it needs when it runs."""

from typing import Annotated

import typer

from tale.cli import tasks
from tale.cli.invocation import Invocation
from tale.cli.servers import serve, servers
from tale.cli.submit import submit

EXIT_CODES = "Exit codes: 0 ok, 1 the task failed, 2 wrong usage or input, 3 no server or model, 130 interrupted."

application = typer.Typer(
    name="tale",
    help="Hands work to language models on this machine and records every token.",
    epilog=EXIT_CODES,
    rich_markup_mode=None,  # Rich's help takes 0.1 s more than a person wants to wait for it
    add_completion=True,
    invoke_without_command=True,
)


@application.callback()
def options(
    context: typer.Context,
    home: Annotated[
        str | None, typer.Option(help="Folder of the database, the models and the logs.", metavar="FOLDER")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Take the options that stand before the command."""
    invocation: Invocation = context.obj
    invocation.home = home
    if version:
        show_version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@application.command("version")
def show_version() -> None:
    """Show the version of tale and of Python."""
    import platform

    from tale import __version__

    print(f"tale {__version__} (Python {platform.python_version()})")


application.command("serve")(serve)
application.add_typer(servers, name="servers")
application.command("submit")(submit)
for command in (tasks.status, tasks.list_tasks, tasks.result, tasks.cancel):
    application.command("list" if command is tasks.list_tasks else command.__name__)(command)
