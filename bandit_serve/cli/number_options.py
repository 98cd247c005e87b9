"""Options of commands that take a number: it is finite, as all numbers of the contract are."""

from __future__ import annotations

import math
from typing import Any

import typer


def number_option(help: str, **more: Any) -> Any:
    """Makes the option of a number, or of several. `more` as for `typer.Option`."""
    return typer.Option(help=help, callback=finite, **more)


def finite(value: Any) -> Any:
    """Returns an option's value; Typer's ranges let NaN pass."""
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise typer.BadParameter(f"{number} is not a finite number.")
    return value
