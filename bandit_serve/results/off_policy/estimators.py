"""Estimators of a policy's value. With w = target/propensity and q a model of outcomes they are means of terms:

    ips     w r                                      Horvitz & Thompson 1952
    snips   w r / mean w                             Swaminathan & Joachims 2015
    dm      q_target
    dr      q_target + w (r - q)                     Dudik, Langford, Li 2011
    sndr    q_target + w (r - q) / mean w            Thomas & Brunskill 2016
    switch  q_target + w 1{w <= tau} (r - q)         Wang, Agarwal, Dudik 2017
    dros    q_target + lam w / (w^2 + lam) (r - q)   Su, Dimakopoulou, Krishnamurthy, Dudik 2020

`ips` is unbiased, and `dr` with a model that is not of the same decisions (`cross_fitted`); the others trade some bias
for less variance. All take the options of `IntervalOptions` and raise ValueError for columns that `logged` refuses.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from bandit_serve.results.off_policy.estimate import (
    Estimate,
    Interval,
    IntervalOptions,
    error_of_mean,
    of_terms,
)
from bandit_serve.results.off_policy.logged import Logged, columns, logged
from bandit_serve.results.sequence import Floats

ROUNDING = 1e-9


def ips(
    reward: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    *,
    interval: Interval = "normal",
    seed: int = 0,
    bound: float | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Inverse propensity score."""
    options = IntervalOptions(kind=interval, seed=seed, bound=bound, alpha=alpha)
    log = logged(reward, propensity, target)
    terms = log.weight * log.reward
    if options.kind == "bernstein" and bound is not None and np.abs(terms).max() > bound * (1.0 + ROUNDING):
        raise ValueError(
            f"bound: expected at least the largest weight x reward, {terms.max():.6g}, not {bound}"
        )
    return of_terms(terms, options)


def snips(
    reward: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    *,
    interval: Interval = "normal",
    seed: int = 0,
    bound: float | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Self-normalised inverse propensity score, which does not move when a constant is added to all rewards.

    Raises ValueError where no decision has any weight, and for Bernstein's interval, which is one of a plain mean.
    """
    options = _not_bernstein(IntervalOptions(kind=interval, seed=seed, bound=bound, alpha=alpha))
    return _self_normalised(logged(reward, propensity, target), options)


def dm(q_target: ArrayLike) -> Estimate:
    """Direct method: the model's own answer. Its error says how contexts vary, and nothing of the model's bias."""
    (terms,) = columns(q_target=q_target)
    return Estimate(value=float(terms.mean()), standard_error=error_of_mean(terms))


def dr(
    reward: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    q: ArrayLike,
    q_target: ArrayLike,
    *,
    interval: Interval = "normal",
    seed: int = 0,
    bound: float | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Doubly robust: the model's answer, corrected by the weighted residuals."""
    options = IntervalOptions(kind=interval, seed=seed, bound=bound, alpha=alpha)
    residual, direct = _residual(reward, propensity, target, q, q_target)
    return of_terms(direct + residual.weight * residual.reward, options)


def sndr(
    reward: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    q: ArrayLike,
    q_target: ArrayLike,
    *,
    interval: Interval = "normal",
    seed: int = 0,
    bound: float | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Doubly robust with self-normalised weights. Raises ValueError as `snips`."""
    options = _not_bernstein(IntervalOptions(kind=interval, seed=seed, bound=bound, alpha=alpha))
    residual, direct = _residual(reward, propensity, target, q, q_target)
    return _self_normalised(residual, options, direct)


def switch(
    reward: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    q: ArrayLike,
    q_target: ArrayLike,
    *,
    tau: float,
    interval: Interval = "normal",
    seed: int = 0,
    bound: float | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Doubly robust where weights are at most `tau`, and the model alone where they are larger."""
    options = IntervalOptions(kind=interval, seed=seed, bound=bound, alpha=alpha)
    _require_positive("tau", tau)
    residual, direct = _residual(reward, propensity, target, q, q_target)
    kept = np.where(residual.weight <= tau, residual.weight, 0.0)
    return of_terms(direct + kept * residual.reward, options)


def dros(
    reward: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    q: ArrayLike,
    q_target: ArrayLike,
    *,
    lam: float,
    interval: Interval = "normal",
    seed: int = 0,
    bound: float | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Doubly robust with optimistic shrinkage: weights become smaller the larger they are, by `lam` > 0."""
    options = IntervalOptions(kind=interval, seed=seed, bound=bound, alpha=alpha)
    _require_positive("lam", lam)
    residual, direct = _residual(reward, propensity, target, q, q_target)
    shrunk = residual.weight * (lam / (np.square(residual.weight) + lam))
    return of_terms(direct + shrunk * residual.reward, options)


def _residual(
    reward: ArrayLike, propensity: ArrayLike, target: ArrayLike, q: ArrayLike, q_target: ArrayLike
) -> tuple[Logged, Floats]:
    """The log with what the model leaves of each reward in its place; and the model's answers."""
    rewards, propensities, targets, chosen, direct = columns(
        reward=reward, propensity=propensity, target=target, q=q, q_target=q_target
    )
    return logged(rewards - chosen, propensities, targets), direct


def _self_normalised(log: Logged, options: IntervalOptions, direct: Floats | float = 0.0) -> Estimate:
    """Mean of `direct`, plus the weighted mean of rewards, with the delta method's standard error."""
    mean_weight = float(log.weight.mean())
    if mean_weight == 0.0:
        raise ValueError("target: expected a number above 0 for one decision at least")
    terms = direct + log.weight * log.reward / mean_weight
    value = float(terms.mean())
    weighted = log.weight * log.reward / mean_weight
    off = terms - value - (weighted.mean() * (log.weight / mean_weight - 1.0))
    n = len(off)
    error = math.sqrt(float(np.square(off).mean()) / n) if n > 1 else math.inf
    return Estimate(value=value, standard_error=error, interval=options.around(value, error, terms))


def _not_bernstein(options: IntervalOptions) -> IntervalOptions:
    if options.kind == "bernstein":
        raise ValueError("interval: expected another than bernstein for self-normalised weights")
    return options


def _require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name}: expected a number above 0, not {value}")
