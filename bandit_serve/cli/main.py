"""`bandit-serve`: the commands, and what all of them share."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bandit_serve import __version__
from bandit_serve.cli import demo, serve
from bandit_serve.errors import BanditServeError, UsageError

app = typer.Typer(
    name="bandit-serve",
    help="Route live prediction traffic over model versions with bandits or A/B tests.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(demo.demo)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bandit-serve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Exit status: 0 done, 1 failed, 2 wrong usage."""
    try:
        app()
    except BanditServeError as error:
        Console(stderr=True, highlight=False).print(Text.assemble(("error:", "red"), f" {error}"))
        sys.exit(2 if isinstance(error, UsageError) else 1)
