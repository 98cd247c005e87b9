"""Numbers as callers give them to policies: one, one an arm, a duration. What is none is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.errors import FieldError, InvalidInput

Vector: TypeAlias = NDArray[np.float64]
# A number for all arms, one for each, or those of some arms by their indices, the others having a default.
ByArm: TypeAlias = float | ArrayLike | Mapping[int, float | None]
T = TypeVar("T")


def refusal(at: str, detail: str) -> InvalidInput:
    """Error of a parameter: `at` is its name, and after a dot that of its part."""
    return InvalidInput(detail, [FieldError(at, detail)])


def finite(name: str, value: object) -> float:
    """`value` as a float; `InvalidInput` unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise refusal(name, f"{name} must be a finite number, not {value!r}")
    return float(value)


def whole(name: str, value: object) -> int:
    """`value` as an int; `InvalidInput` unless it is a whole number from 0 to 2^53."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= 2**53:
        raise refusal(name, f"{name} must be a whole number of at least 0, not {value!r}")
    return int(value)


def milliseconds(name: str, duration: object) -> int:
    """Milliseconds of a duration like "24h"; `InvalidInput` unless they are above 0."""
    try:
        duration_ms = parse_duration_ms(duration) if isinstance(duration, str) else 0
    except InvalidInput as error:
        raise refusal(name, f"{name}: {error}") from None
    if duration_ms <= 0:
        raise refusal(name, f'{name} must be a duration above 0 like "24h", not {duration!r}')
    return duration_ms


def in_order(name: str, given: Mapping[int, T], n_arms: int, default: T) -> list[T]:
    """Values of arms 0 … n_arms - 1; `InvalidInput` where another key is named."""
    if not all(type(arm) is int and 0 <= arm < n_arms for arm in given):
        raise refusal(name, f"{name} must be by arm, from 0 to {n_arms - 1}, not by {list(given)!r}")
    return [given.get(arm, default) for arm in range(n_arms)]


def by_arm(name: str, value: object, n_arms: int) -> Vector:
    """`value`, a number for all arms or one for each, as float64 (n_arms,); `InvalidInput` unless all are finite."""
    if isinstance(value, Mapping):
        value = in_order(name, value, n_arms, 0.0)
    if np.ndim(value) == 0:  # type: ignore[arg-type]
        return np.full(n_arms, finite(name, value))
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise refusal(name, f"{name} must be a number or {n_arms} numbers: {error}") from None
    if array.shape != (n_arms,) or not np.isfinite(array).all():
        raise refusal(name, f"{name} must be a finite number, or {n_arms} of them")
    return array


def weights(name: str, values: ArrayLike, n_arms: int) -> Vector:
    """`values` as float64 (n_arms,); `InvalidInput` unless they are numbers of at least 0."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise refusal(name, f"{name} must be {n_arms} numbers: {error}") from None
    if array.shape != (n_arms,) or not np.isfinite(array).all() or (array < 0.0).any():
        raise refusal(name, f"{name} must be {n_arms} finite numbers of at least 0")
    return array
