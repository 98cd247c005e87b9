"""Hyper-parameters to search: values to choose from, or ranges to draw from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from bandit_serve.errors import InvalidInput

MAX_GRID = 10_000


class Uniform(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="uniform"):
    """A number from `low` to `high`."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        return float(random.uniform(self.low, self.high))


class LogUniform(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="loguniform"):
    """A number from `low` to `high`, both above 0, whose logarithm is uniform."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        return math.exp(random.uniform(math.log(self.low), math.log(self.high)))


class Whole(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="whole"):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def draw(self, random: np.random.Generator) -> int:
        return int(random.integers(self.low, self.high + 1))


Range = Uniform | LogUniform | Whole
# A value, values to choose from, or a range.
Space = Mapping[str, Any | list[Any] | Range]


def check_space(space: Space, at: str) -> None:
    """`InvalidInput`, with the place, for a range that is none or a choice of nothing."""
    for name, values in space.items():
        if isinstance(values, Range):
            floor = 0.0 if isinstance(values, LogUniform) else -math.inf
            if not floor < values.low <= values.high < math.inf:
                raise InvalidInput(f"{at}.{name}: expected a range from low to high.")
        elif isinstance(values, list) and not values:
            raise InvalidInput(f"{at}.{name}: expected at least one value.")


def grid(space: Space) -> list[dict[str, Any]]:
    """Every combination of the values; `InvalidInput` for a range, which has no end of them."""
    for name, values in space.items():
        if isinstance(values, Range):
            raise InvalidInput(f"A grid needs values for {name}, not a range; or search at random.")
    choices = {name: values if isinstance(values, list) else [values] for name, values in space.items()}
    if math.prod(map(len, choices.values())) > MAX_GRID:
        raise InvalidInput(f"The grid has more than {MAX_GRID} combinations.")
    return [dict(zip(choices, chosen, strict=True)) for chosen in itertools.product(*choices.values())]


def sample(space: Space, n: int, seed: int) -> list[dict[str, Any]]:
    """n combinations at random; all different as far as there are so many. The seed repeats them."""
    random = np.random.default_rng(seed)
    found: dict[str, dict[str, Any]] = {}
    for _ in range(20 * n):
        drawn = {}
        for name, values in space.items():
            if isinstance(values, Range):
                drawn[name] = values.draw(random)
            else:
                drawn[name] = (
                    values[int(random.integers(len(values)))] if isinstance(values, list) else values
                )
        found.setdefault(repr(drawn), drawn)
        if len(found) == n:
            break
    return list(found.values())
