"""Kinds of objective, and between which values the rewards of each lie."""

from __future__ import annotations

from typing import NamedTuple

from bandit_serve.errors import InvalidInput
from bandit_serve.policies.numbers import LARGEST_VALUE, finite, refusal


class Range(NamedTuple):
    """Rewards from `low` to `high`, and how their statistics are kept."""

    low: float
    high: float
    whole: bool = False
    unbounded: bool = False


RANGES = {
    "binary": Range(0.0, 1.0, whole=True),
    "bounded": Range(0.0, 1.0),
    "count": Range(0.0, LARGEST_VALUE, unbounded=True),
    "continuous": Range(-LARGEST_VALUE, LARGEST_VALUE, unbounded=True),
}


def reward_range(
    kind: str, objectives: frozenset[str], objective: str, low: float | None, high: float | None
) -> Range:
    """The range of an objective's rewards; `InvalidInput` where a policy of `kind` does not take `objective`.

    low, high: of a bounded objective, 0 and 1 where not given; None for all others.
    """
    if not isinstance(objective, str) or objective not in objectives:
        raise refusal(
            "objective", f"{kind} takes an objective of {', '.join(sorted(objectives))}, not {objective!r}"
        )
    if objective == "bounded":
        return Range(*bounds(low, high))
    if low is not None or high is not None:
        raise refusal("low", f"low and high belong to a bounded objective, not to a {objective} one")
    return RANGES[objective]


def bounds(low: float | None, high: float | None) -> tuple[float, float]:
    """Bounds of rewards, 0 and 1 where not given; `InvalidInput` for what no reward can be scaled by."""
    least = finite("low", 0.0 if low is None else low)
    most = finite("high", 1.0 if high is None else high)
    if not -LARGEST_VALUE <= least < most <= LARGEST_VALUE:
        raise InvalidInput(
            f"low must be below high and both within ±{LARGEST_VALUE:g}, not {low!r} and {high!r}"
        )
    return least, most
