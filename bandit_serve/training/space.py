"""Hyper-parameters to search: values to choose from, or ranges to draw from."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from bandit_serve.errors import InvalidInput
from bandit_serve.models.hyper_parameters import HyperParameters
from bandit_serve.models.ranges import LogUniform, Range, Space

MAX_GRID = 10_000


def check_space(space: Space, kind: type[HyperParameters], at: str) -> None:
    """Raise `InvalidInput`, with the place, for values that no hyper-parameter of that kind and range takes.

    Also for a range that is none, and for a choice of nothing.
    """
    for name, values in space.items():
        if isinstance(values, Range):
            floor = 0.0 if isinstance(values, LogUniform) else -math.inf
            if not floor < values.low <= values.high < math.inf:
                raise InvalidInput(f"{at}.{name}: expected a range from low to high.")
            values = [values.low, values.high]
        elif not isinstance(values, list):
            values = [values]
        elif not values:
            raise InvalidInput(f"{at}.{name}: expected at least one value.")
        if name not in kind.__struct_fields__:
            raise InvalidInput(f"{at}: it has no parameter {name!r}.")
        for value in values:
            kind.checked(name, value, f"{at}.")


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
    """Combinations at random, n of them; all different as far as there are so many. The seed repeats them."""
    random = np.random.default_rng(seed)
    combinations: dict[str, dict[str, Any]] = {}
    for _ in range(20 * n):
        drawn = {}
        for name, values in space.items():
            if isinstance(values, Range):
                drawn[name] = values.draw(random)
            else:
                drawn[name] = (
                    values[int(random.integers(len(values)))] if isinstance(values, list) else values
                )
        combinations.setdefault(repr(drawn), drawn)
        if len(combinations) == n:
            break
    return list(combinations.values())
