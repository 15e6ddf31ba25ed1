"""Groups of commands, such as `tale servers`: named alone they show their help."""

import typer


def group(about: str) -> typer.Typer:
    """An empty group."""
    made = typer.Typer(help=about, rich_markup_mode=None, invoke_without_command=True)

    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            print(context.get_help())

    made.callback(help=about)(show_help)
    return made
