"""Commands of the contract that are not built yet. They exist, and are refused."""

from __future__ import annotations

import typer

from bandit_serve.errors import NotBuilt

COMMANDS = {
    "evaluate": "Off-policy estimates of a policy from a log (not built yet).",
    "export": "An experiment's log as Parquet, JSON lines or CSV (not built yet).",
}


def add_to(app: typer.Typer) -> None:
    for name, about in COMMANDS.items():
        any_arguments = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, help=about, context_settings=any_arguments)(_refuse)


def _refuse(context: typer.Context) -> None:
    raise NotBuilt(f"`bandit-serve {context.info_name}` is part of the contract but not built yet.")
