"""The command tree; each group's module parses and prints, and imports what it needs when it runs."""

from typing import Annotated

import typer

from tale.cli import tasks
from tale.cli.autostart import autostart
from tale.cli.budgets import budgets
from tale.cli.chat import chat
from tale.cli.clean import clean
from tale.cli.config import config, init
from tale.cli.connect import connect
from tale.cli.dashboard import dashboard
from tale.cli.database import database
from tale.cli.demo import demo
from tale.cli.doctor import doctor
from tale.cli.invocation import Invocation
from tale.cli.keys import keys
from tale.cli.learning import explain, learn, predict
from tale.cli.models import models
from tale.cli.queue import queue
from tale.cli.servers import serve, servers
from tale.cli.submit import submit
from tale.cli.trace import trace
from tale.cli.transfer import export_history, import_history
from tale.cli.usage import usage

EXIT_CODES = (
    "Exit codes: 0 ok, 1 the task failed or no budget is left, 2 wrong usage or input, 3 no server or model, "
    "130 interrupted."
)

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
    invocation.command = context.invoked_subcommand or ""
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


application.command("init")(init)
application.command("submit")(submit)
application.command("status")(tasks.status)
application.command("list")(tasks.list_tasks)
application.command("result")(tasks.result)
application.command("cancel")(tasks.cancel)
application.command("feedback")(tasks.feedback)
application.add_typer(queue, name="queue")
application.command("chat")(chat)
application.command("predict")(predict)
application.command("explain")(explain)
application.command("learn")(learn)
application.command("usage")(usage)
application.command("trace")(trace)
application.command("export")(export_history)
application.command("import")(import_history)
application.command("serve")(serve)
application.add_typer(servers, name="servers")
application.add_typer(models, name="models")
application.add_typer(config, name="config")
application.add_typer(database, name="db")
application.add_typer(keys, name="keys")
application.add_typer(budgets, name="budgets")
application.command("dashboard")(dashboard)
application.command("demo")(demo)
application.command("doctor")(doctor)
application.command("connect")(connect)
application.command("autostart")(autostart)
application.command("clean")(clean)
