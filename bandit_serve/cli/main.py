"""`bandit-serve`: the commands, and what all of them share."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from bandit_serve import __version__
from bandit_serve.cli import (
    demo,
    doctor,
    experiments,
    learn,
    models,
    not_built,
    replay,
    serve,
    simulate,
    train,
)
from bandit_serve.errors import BanditServeError, InvalidInput, NotBuilt, UsageError

app = typer.Typer(
    name="bandit-serve",
    help="Route live prediction traffic over model versions with bandits or A/B tests.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(demo.demo)
app.add_typer(models.app, name="models")
app.add_typer(experiments.app, name="experiments")
app.command("replay")(replay.replay_all)
app.command("doctor")(doctor.doctor)
app.command()(simulate.simulate)
app.command("train")(train.train_models)
app.command("learn")(learn.learn)
not_built.add_to(app)


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


def run() -> None:
    """Exit status: 0 done, 1 failed, 2 wrong usage."""
    try:
        app(prog_name="bandit-serve")
    except BanditServeError as error:
        _print_error(error)
        sys.exit(2 if isinstance(error, UsageError | NotBuilt) else 1)


def _print_error(error: BanditServeError) -> None:
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(Text.assemble(("error:", "red"), f" {error}"))
    fields = error.errors if isinstance(error, InvalidInput) else ()
    if len(fields) > 1 or (fields and fields[0].detail not in str(error)):
        for field in fields:
            console.print(f"  {field.at}: {field.detail}" if field.at else f"  {field.detail}")
    for note in getattr(error, "__notes__", ()):
        console.print(note)
