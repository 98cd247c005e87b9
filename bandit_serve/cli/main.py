"""Entry point `bandit-serve`: its commands, and the handling of their errors."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.text import Text

from bandit_serve import __version__
from bandit_serve.base.printable_text import printable
from bandit_serve.base.private_files import disk_full
from bandit_serve.base.process_log import logs_json, plain_last_resort
from bandit_serve.base.secrets import concealed
from bandit_serve.base.terminal import Terminal, print_line
from bandit_serve.errors import BanditServeError, InvalidInput, UsageError, in_full

log = logging.getLogger(__name__)

# Where each is, under `bandit_serve.cli`.
COMMANDS = {
    "serve": "serve.serve",
    "demo": "demo.demo",
    "models": "models.app",
    "experiments": "experiments.app",
    "metrics": "metrics.app",
    "rewards": "rewards.app",
    "keys": "keys.app",
    "replay": "replay.replay_all",
    "webhooks": "webhooks.app",
    "backup": "backup.backup",
    "restore": "backup.restore",
    "config": "config.app",
    "deploy": "deploy.app",
    "doctor": "doctor.doctor",
    "repair": "repair.repair",
    "export": "export.export",
    "evaluate": "evaluate.evaluate_policies",
    "score": "score.score",
    "plan": "plan.plan",
    "simulate": "simulate.simulate",
    "train": "train.train_models",
    "retrain": "retrain.retrain",
    "learn": "learn.learn",
}

TELEMETRY = "opentelemetry"
"""What redis-py imports where it is installed, for metrics of its own that nobody reads: a sixth of all imports."""

app = typer.Typer(
    name="bandit-serve",
    help="Route live prediction traffic over model versions with bandits or A/B tests.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _add_commands(named: str | None) -> None:
    """Adds the command that the first argument names, or all of them.

    Each imports its modules; the imports of all take longer than most commands run.
    """
    for name in (named,) if named in COMMANDS else () if named == "--version" else COMMANDS:
        module, _, attribute = COMMANDS[name].partition(".")
        with _without(TELEMETRY):
            command = getattr(import_module(f"bandit_serve.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Context of imports that do not find a module, unless it was imported before."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"bandit-serve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Runs a command; returns the exit status: 0 done, 1 failed, 2 wrong usage."""
    _add_commands(sys.argv[1] if len(sys.argv) > 1 else None)
    plain_last_resort()
    try:
        _require_utf8(sys.argv[1:])
        status = app(prog_name="bandit-serve", standalone_mode=False)
    except BanditServeError as error:
        _print_error(error)
        status = 2 if isinstance(error, UsageError) else 1
    except typer.Abort:
        status = 1
    except OSError as error:
        said = disk_full(error) or _of_file(error)
        if said is None:
            _print_traceback()
        else:
            _print_error(said)
        status = 1
    except Exception as error:
        status = getattr(error, "exit_code", 1)
        if hasattr(error, "format_message"):
            _print_wrong_usage(error)
        else:
            _print_traceback()
    sys.exit(status)


def _require_utf8(arguments: Sequence[str]) -> None:
    """Raises `UsageError` for bytes that are no text: nothing that takes one could write or send it."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise UsageError(f"The argument {ascii(argument)[:80]} is not UTF-8.")


def _of_file(error: OSError) -> BanditServeError | None:
    """Sentence for an error that names its file; None for any other."""
    if not isinstance(error.filename, str | bytes) or error.strerror is None:
        return None
    return BanditServeError(f"The file {os.fsdecode(error.filename)} can not be used: {error.strerror}.")


def _print_traceback() -> None:
    if logs_json():
        log.critical("ended by an unexpected error", exc_info=True)
        return
    print_line(concealed(traceback.format_exc().rstrip()), to=sys.stderr)


def _print_wrong_usage(error: Any) -> None:
    """Prints Typer's message, in which it repeats an argument, without control characters."""
    from typer.rich_utils import rich_format_error

    message = printable(error.format_message())
    error.format_message = lambda: message
    rich_format_error(error)


def _print_error(error: BanditServeError) -> None:
    if logs_json():
        log.critical("%s", in_full(error))
        return
    console = Terminal(stderr=True, soft_wrap=True)
    console.print(Text("error:", "red"), concealed(in_full(error)))
    fields = error.errors if isinstance(error, InvalidInput) else ()
    if len(fields) > 1 or (fields and fields[0].detail not in str(error)):
        for field in fields:
            console.print(concealed(f"  {field.at}: {field.detail}" if field.at else f"  {field.detail}"))
