"""Mixtures of arms that make the most of several metrics: a weighted sum of their means, while some keep bounds.

Shares are the mean, over draws from the posteriors of all means, of the mixture that is best of each draw: Thompson
sampling with a linear program in place of the largest draw (Ferreira, Simchi-Levi and Wang 2018, "Online network
revenue management using Thompson sampling", without inventory). The program's duals are the prices of the bounds.
`docs/decisions/constraints.md` says what else was tried: optimistic means, and prices that follow each cost in steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.metrics import MetricKind
from bandit_serve.policies._arms import eligible_arms
from bandit_serve.policies._mixtures import MAX_BOUNDS, best_mixtures
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.thompson import Thompson

DRAWS = 256
_TABLES = 16

__all__ = ["MAX_BOUNDS", "Bound", "LearnedMetric", "Mixture", "Tradeoff", "best_mixture", "mixture_shares"]


class Bound(NamedTuple):
    """Bound of the mean of metric number `metric`: `sign` times it is at most `sign` times `limit`."""

    metric: int
    sign: float
    limit: float


class Tradeoff(NamedTuple):
    """What is made the most of: metrics by `weights`, (P,), within `bounds`."""

    weights: Vector
    bounds: tuple[Bound, ...]


class LearnedMetric(NamedTuple):
    """What is known of one metric's means, and observations that are still open, as in `ContextFreePolicy.shares`."""

    policy: Thompson
    pending: Vector | None = None
    pending_value: float = 0.0


class Mixture(NamedTuple):
    """Shares (E,) of a mixture; by bound, (C,), its price in units of reward by unit of cost, and what it lacks."""

    shares: Vector
    prices: Vector
    lacks: Vector


def mixture_shares(
    tradeoff: Tradeoff,
    learned: Sequence[LearnedMetric],
    *,
    eligible: ArrayLike | None = None,
    decided: ArrayLike | None = None,
    ramps: ArrayLike | None = None,
) -> Vector:
    """Probability, float64 (K,), with which each arm is to be chosen now.

    learned: of the P metrics of `tradeoff`. The policy of the first has the floor and all other bounds of shares, and
    its rewards are utilities. The floor and the holdout count towards the bounds of means; caps and ramps do not.
    eligible, decided, ramps: as in `ContextFreePolicy.shares`.
    """
    policy = learned[0].policy
    arms = eligible_arms(eligible, policy.n_arms)
    raw = policy.cold(arms, decided)
    if raw is None:
        floors = min(1.0, arms.size * policy.min_share)
        even = (1.0 - policy.holdout) * floors + policy.holdout
        draws = _normal_draws(len(learned), policy.n_arms)
        means = np.stack(
            [_drawn(each, arms, table[:, arms]) for each, table in zip(learned, draws, strict=True)]
        )
        raw = _best(tradeoff, means, even).shares
    return policy.bounded(raw, arms, ramps)


def best_mixture(tradeoff: Tradeoff, means: NDArray[np.float64], even: float) -> Mixture:
    """Best mixture by `means`, (P, E), of the metrics of E arms, of which the part `even` is split evenly."""
    mixture = _best(tradeoff, means[:, None, :], even)
    return mixture._replace(shares=(1.0 - even) * mixture.shares + even / means.shape[1])


def _best(tradeoff: Tradeoff, means: NDArray[np.float64], even: float) -> Mixture:
    """Mean of the best mixtures by M draws of the means, (P, M, E), without the part `even`: it counts all the same."""
    rewards = np.einsum("p,pme->me", tradeoff.weights, means)
    excesses = np.empty((means.shape[1], len(tradeoff.bounds), means.shape[2]))
    for j, bound in enumerate(tradeoff.bounds):
        costs = means[bound.metric]
        whole = even * costs.mean(axis=1, keepdims=True) + (1.0 - even) * costs
        excesses[:, j] = bound.sign * (whole - bound.limit)
    return Mixture(*best_mixtures(np.ascontiguousarray(rewards), excesses))


def _drawn(learned: LearnedMetric, arms: NDArray[np.intp], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    means, deviations = learned.policy.moments(arms, learned.pending, learned.pending_value)
    kind: MetricKind = learned.policy.reward
    return np.clip(means + deviations * draws, kind.floor, kind.ceiling)


@lru_cache(maxsize=_TABLES)
def _normal_draws(n_metrics: int, n_arms: int) -> NDArray[np.float64]:
    """Standard normal numbers, (P, `DRAWS`, K), always the same: in each column all quantiles, in its own order."""
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / DRAWS) for i in range(DRAWS)])
    generator = np.random.Generator(np.random.PCG64(0))
    tables = generator.permuted(np.broadcast_to(quantiles[:, None], (n_metrics, DRAWS, n_arms)), axis=1)
    tables.flags.writeable = False
    return tables
