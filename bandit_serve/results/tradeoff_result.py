"""Outcome of the trade-off where a policy goes by several metrics: what the shares come to."""

from __future__ import annotations

import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from bandit_serve.experiments.policy import served_floor
from bandit_serve.experiments.spec import Experiment
from bandit_serve.experiments.tradeoff import traded, tradeoff_of
from bandit_serve.policies.mixtures import Bound, Mixture, best_mixture
from bandit_serve.results.sequence import Floats

ROUNDING = 1e-9
"""Part of the largest distance of an arm from a bound that is none."""


class ConstraintResult(Struct, frozen=True):
    """A constraint, and the metric's `mean` by the current shares, with its standard error `se`.

    `met` is by the mean. `price`, from 0 on, is what one unit more of the bound would add to what the policy makes the
    most of (lambda, the dual): 0 where the bound costs nothing. It is null where no shares keep the bounds, or an arm's
    mean is unknown; `mean`, `se` and `met` are null where the mean of an arm with traffic is unknown.
    """

    metric: str
    mean: float | None
    se: float | None
    met: bool | None
    price: float | None
    at_most: float | UnsetType = UNSET
    at_least: float | UnsetType = UNSET


class TradeoffResult(Struct, frozen=True):
    """What the policy makes the most of. `weights` has all that count, the objective's, too.

    `value` is the weighted sum of means by the current shares, `values` that of each arm; null where one is unknown.
    All means are those that the policy goes by: of rewards, in windows that may be open, faded with its half-life.
    """

    weights: dict[str, float]
    value: float | None
    values: dict[str, float | None]
    constraints: tuple[ConstraintResult, ...]


def tradeoff_result(
    experiment: Experiment,
    shares: Floats,
    active: NDArray[np.bool_],
    means: Floats,
    deviations: Floats,
) -> TradeoffResult:
    """Result of shares (K,), with the metrics' means and their standard deviations, (P, K); NaN where unknown.

    The P metrics are those of `experiments.tradeoff.traded`; active: bool (K,), arms that take traffic.
    """
    tradeoff = tradeoff_of(experiment, of_utilities=False)
    counts = tradeoff.weights != 0.0
    values = tradeoff.weights[counts] @ means[counts]
    there = np.flatnonzero(active)
    even = _even_part(experiment, len(there))
    best = None
    if len(there) and np.isfinite(means[:, there]).all():
        best = best_mixture(tradeoff, means[:, there], even)
    lacks = best is not None and bool(
        (best.lacks > ROUNDING * np.array([_reach(each, means[:, there]) for each in tradeoff.bounds])).any()
    )
    names = [experiment.metrics[i].name for i in traded(experiment)]
    return TradeoffResult(
        weights={name: float(w) for name, w in zip(names, tradeoff.weights, strict=True) if w},
        value=_number(_by_shares(shares, values)),
        values={
            name: _number(value) for name, value in zip(experiment.arm_names, values.tolist(), strict=True)
        },
        constraints=tuple(
            _constraint(experiment, j, bound, shares, means, deviations, None if lacks else best)
            for j, bound in enumerate(tradeoff.bounds)
        ),
    )


def _constraint(
    experiment: Experiment,
    number: int,
    bound: Bound,
    shares: Floats,
    means: Floats,
    deviations: Floats,
    best: Mixture | None,
) -> ConstraintResult:
    constraint = (experiment.constraints or ())[number]
    mean = _by_shares(shares, means[bound.metric])
    se = np.sqrt(_by_shares(shares**2, deviations[bound.metric] ** 2))
    return ConstraintResult(
        metric=constraint.metric,
        mean=_number(mean),
        se=_number(float(se)),
        met=None if np.isnan(mean) else bool(bound.sign * (mean - bound.limit) <= 0.0),
        price=None if best is None else float(best.prices[number]),
        at_most=constraint.at_most,
        at_least=constraint.at_least,
    )


def _even_part(experiment: Experiment, n_active: int) -> float:
    """Part of the traffic that is split evenly by the floor and the holdout."""
    holdout = experiment.policy.holdout or 0.0
    return (1.0 - holdout) * min(1.0, n_active * served_floor(experiment)) + holdout


def _reach(bound: Bound, means: Floats) -> float:
    """Largest distance of an arm from a bound."""
    return float(np.abs(means[bound.metric] - bound.limit).max())


def _by_shares(shares: Floats, values: Floats) -> float:
    """Sum of values (K,) by shares; what has no share need not be known."""
    used = shares > 0.0
    return float(shares[used] @ values[used])


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
