"""Metrics of every kind in the table: the rewards that tests give them, near every bound and by simple laws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.metrics import KINDS, MAX_VALUE, MetricKind

# Of kinds that take bounds: with a low other than 0, so that scaling that is forgotten shows.
LOW, HIGH = -2.0, 5.0
# What tests draw of an unbounded kind lies within this.
FARTHEST = 30.0


def bounds_of(kind: str) -> dict[str, float]:
    """The fields `low` and `high` of a metric, and of a policy's objective, where the kind takes bounds."""
    return {"low": LOW, "high": HIGH} if KINDS[kind].takes_bounds else {}


def traits_of(kind: str) -> MetricKind:
    return KINDS[kind](**bounds_of(kind))


def range_of(kind: str) -> tuple[float, float]:
    """Ends of the range that tests draw rewards from; both are rewards of the kind."""
    traits = traits_of(kind)
    return max(traits.floor, -FARTHEST), min(traits.ceiling, FARTHEST)


RANGES = {kind: range_of(kind) for kind in KINDS}


def _objectives() -> Iterator[dict[str, Any]]:
    for name, kind in KINDS.items():
        all_bounds = [(0, 1), (0.5, 1), (-2, -1)] if kind.takes_bounds else []
        yield from ({"kind": name, "low": low, "high": high} for low, high in all_bounds)
        if not kind.takes_bounds:
            yield {"kind": name}
        if kind.mirror is not None:
            yield {"kind": name, **bounds_of(name), "goal": "minimize"}


# As configurations have them: each kind, with other bounds and goals where they matter.
OBJECTIVES = list(_objectives())


def rewards_at(kind: str, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rewards of a kind, (n,), at `places`, (n,), from 0 to 1 in its range: the nearest whole ones where it has to."""
    low, high = range_of(kind)
    takes = traits_of(kind).takes
    values = [low + (high - low) * place for place in places.tolist()]
    rewards = np.array([value if takes(value) else float(round(value)) for value in values])
    assert all(map(takes, rewards.tolist()))
    return rewards


def near_bounds(traits: MetricKind) -> list[float]:
    """Numbers, of which some are rewards: the ends of the range, what is next to them, and what is none."""
    ends = [traits.floor, traits.ceiling, -MAX_VALUE, MAX_VALUE, 0.0, 1.0, 1e9]
    beyond = [math.nextafter(end, side) for end in ends for side in (-math.inf, math.inf)]
    whole = [
        math.floor(end) + step for end in (traits.floor, min(traits.ceiling, 2.0**53)) for step in (-1.0, 1.0)
    ]
    others = [
        -0.0,
        0.5,
        -1.0,
        2.0,
        7.0,
        2.5,
        0.1,
        1e40,
        1e-300,
        math.ulp(0.0),
        1e300,
        math.inf,
        -math.inf,
        math.nan,
    ]
    return [*ends, *beyond, *whole, *others]


def beyond(traits: MetricKind) -> list[float]:
    """Numbers that no log of such a metric holds."""
    between = [0.5] if traits.two_valued else []
    return [*between, math.nextafter(traits.floor, -math.inf), math.nextafter(traits.ceiling, math.inf)]
