"""Hyper-parameters of a family: a struct that says each one's range and default, and refuses everything else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_args, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta, Struct

from bandit_serve.errors import InvalidInput

Factors = Annotated[int, Meta(ge=1, le=4096)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Epochs = Annotated[int, Meta(ge=1, le=2**31 - 1)]
# 0 would learn nothing.
Rate = Annotated[float, Meta(ge=1e-12, le=1000.0)]
Penalty = Annotated[float, Meta(ge=0.0, le=1000.0)]

P = ParamSpec("P")
Self = TypeVar("Self")
Kind = TypeVar("Kind", bound="HyperParameters")


class HyperParameters(Struct, frozen=True):
    """A base class. A family's own has a field each, annotated with one of the ranges above or with one like them.

    NumPy's numbers are taken, too. `InvalidInput` with the field's name for what is not in its range.
    """

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            msgspec.structs.force_setattr(self, name, self.checked(name, getattr(self, name)))

    @classmethod
    def checked(cls, name: str, value: Any, at: str = "") -> Any:
        """Value of a field, as it is kept. `at` goes before the field's name where it is refused."""
        kind, limits = _ranges(cls)[name]
        check = whole if kind is int else real
        return check(at + name, value, limits.ge, limits.le)


def made_of(
    kind: Callable[P, Kind],
) -> Callable[[Callable[[Self, Kind], None]], Callable[Concatenate[Self, P], None]]:
    """Makes an `__init__(self, parameters)` one that takes the hyper-parameters themselves."""

    def decorate(init: Callable[[Self, Kind], None]) -> Callable[Concatenate[Self, P], None]:
        @functools.wraps(init)
        def made(self: Self, /, *positional: P.args, **named: P.kwargs) -> None:
            init(self, kind(*positional, **named))

        own = signature(kind)
        itself = Parameter("self", Parameter.POSITIONAL_ONLY)
        made.__signature__ = own.replace(parameters=[itself, *own.parameters.values()])  # type: ignore[attr-defined]
        return made

    return decorate


@functools.cache
def _ranges(kind: type[HyperParameters]) -> Mapping[str, tuple[type, Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {name: get_args(hints[name]) for name in kind.__struct_fields__ if get_args(hints[name])}


def whole(name: str, value: object, low: int, high: int) -> int:
    """Whole number from `low` to `high`; `InvalidInput` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise InvalidInput(f"{name} must be a whole number from {low} to {high}.")
    return int(value)


def real(name: str, value: object, low: float, high: float) -> float:
    """Number from `low` to `high`; `InvalidInput` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidInput(f"{name} must be a number.")
    if not low <= value <= high:
        raise InvalidInput(f"{name} must be from {low:g} to {high:g}.")
    return float(value)
