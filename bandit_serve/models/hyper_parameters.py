"""Numbers that models are made with, checked."""

from __future__ import annotations

import numpy as np

from bandit_serve.errors import InvalidInput


def whole(name: str, value: object, low: int, high: int) -> int:
    """A whole number from `low` to `high`; `InvalidInput` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise InvalidInput(f"{name} must be a whole number from {low} to {high}.")
    return int(value)


def real(name: str, value: object, *, positive: bool = False) -> float:
    """A number from 0, or from 1e-12 where it must be positive, to 1,000."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InvalidInput(f"{name} must be a number.")
    low = 1e-12 if positive else 0
    if not low <= value <= 1000:
        raise InvalidInput(f"{name} must be from {low:g} to 1000.")
    return float(value)
