"""Options that take a number: none of any command takes one that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from inspect import Parameter, signature
from typing import Annotated, Any, get_args, get_origin

import pytest
import typer
from commands import bandit_serve
from typer.models import ParameterInfo

from bandit_serve.cli.main import COMMANDS
from bandit_serve.cli.number_options import finite
from bandit_serve.cli.setting_options import DECLARED


def commands() -> Iterator[tuple[str, Any]]:
    for name, where in COMMANDS.items():
        module, _, attribute = where.partition(".")
        command = getattr(import_module(f"bandit_serve.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            for each in command.registered_commands:
                assert each.callback is not None
                yield f"{name} {each.name or each.callback.__name__}", each.callback
        else:
            yield name, command


def numbers(command: Any) -> Iterator[tuple[str, Parameter]]:
    for name, parameter in signature(command, eval_str=True).parameters.items():
        # Settings have ranges of their own, which no NaN is in.
        if name not in DECLARED and "float" in str(get_args(parameter.annotation)[:1]):
            yield name, parameter


NUMBERS = {f"{at} {name}": each for at, command in commands() for name, each in numbers(command)}


def test_there_are_options_that_take_numbers() -> None:
    for known in ("plan rate", "simulate sd", "experiments layer share", "experiments add-arm feature"):
        assert known in {each.replace("_", "-") for each in NUMBERS}
    assert len(NUMBERS) > 12


@pytest.mark.parametrize("option", NUMBERS)
def test_every_number_is_finite(option: str) -> None:
    annotation = NUMBERS[option].annotation
    assert get_origin(annotation) is Annotated
    (info,) = (each for each in get_args(annotation) if isinstance(each, ParameterInfo))
    assert info.callback is finite


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(number: float) -> None:
    for value in (number, [0.5, number], (number,)):
        with pytest.raises(typer.BadParameter, match="is not a finite number"):
            finite(value)
    for value in (None, 0.5, [0.5, 1e308], "nan"):
        assert finite(value) is value


@pytest.mark.parametrize(
    "asked",
    [
        ("experiments", "layer", "x", "--share", "nan"),
        ("experiments", "add-arm", "x", "a", "--feature", "1", "--feature", "inf"),
        ("plan", "--effect", "5%", "--rate", "nan"),
        ("simulate", "--drift", "-inf"),
    ],
)
def test_a_command_says_which(asked: tuple[str, ...]) -> None:
    ran = bandit_serve(*asked)
    assert ran.status == 2
    assert "is not a finite number" in ran.err
    assert next(each for each in reversed(asked) if each.startswith("--")) in ran.err


@pytest.mark.parametrize("effect", ["", " ", "%", " %", "five", "5%x", "nan", "inf%", "1e400", "--"])
def test_an_effect_is_a_number(effect: str) -> None:
    ran = bandit_serve("plan", "--rate", "0.1", f"--effect={effect}")
    assert ran.status == 2
    assert f"or a percentage of control's mean like 5%, not {effect!r}" in ran.err
