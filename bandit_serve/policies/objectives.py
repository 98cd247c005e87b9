"""Objectives of policies: the kinds of metrics whose rewards they learn from."""

from __future__ import annotations

from bandit_serve.errors import InvalidInput
from bandit_serve.metrics import KINDS, MAX_VALUE, MetricKind, names_of
from bandit_serve.policies.numbers import finite, refusal

ALL = frozenset(KINDS)
BOUNDED = names_of(lambda kind: not kind.unbounded)


def objective_kind(
    kind: str, objectives: frozenset[str], objective: str, low: float | None, high: float | None
) -> MetricKind:
    """Kind of an objective's rewards; `InvalidInput` where a policy of `kind` does not take `objective`.

    low, high: where the objective takes bounds, 0 and 1 unless given; None for all others.
    """
    if not isinstance(objective, str) or objective not in objectives:
        raise refusal(
            "objective", f"{kind} takes an objective of {', '.join(sorted(objectives))}, not {objective!r}"
        )
    kind_of_rewards = KINDS[objective]
    if kind_of_rewards.takes_bounds:
        return kind_of_rewards(*bounds(low, high))
    if low is not None or high is not None:
        takers = " or ".join(sorted(names_of(lambda each: each.takes_bounds)))
        raise refusal("low", f"low and high belong to a {takers} objective, not to a {objective} one")
    return kind_of_rewards()


def bounds(low: float | None, high: float | None) -> tuple[float, float]:
    """Bounds of rewards, 0 and 1 where not given; `InvalidInput` for what no reward can be scaled by."""
    least = finite("low", 0.0 if low is None else low)
    most = finite("high", 1.0 if high is None else high)
    if not -MAX_VALUE <= least < most <= MAX_VALUE:
        raise InvalidInput(f"low must be below high and both within ±{MAX_VALUE:g}, not {low!r} and {high!r}")
    return least, most
