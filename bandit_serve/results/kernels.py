"""Kernels of the results, made as an experiment needs them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bandit_serve.experiments.dimensions import Dimension, dimensions_of
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Experiment
from bandit_serve.log.times import GRACE_MS, LINGER_MS
from bandit_serve.policies import POLICIES
from bandit_serve.policies.features import n_features_of
from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._beginnings import Beginnings
from bandit_serve.results._histograms import Histograms
from bandit_serve.results._open_decisions import OpenDecisions
from bandit_serve.results._pairs import PairSums
from bandit_serve.results._rewarded_decisions import RewardedDecisions
from bandit_serve.results._share_history import ShareHistory
from bandit_serve.results._units import Units
from bandit_serve.results.interleaving import EXPECTED_CONTESTS, Contests
from bandit_serve.results.notes import Notes
from bandit_serve.results.room import State
from bandit_serve.results.segments import SegmentedSums
from bandit_serve.results.sequence import Floats

MAX_VECTOR_BYTES = 64 * 2**20
"""Bytes of share vectors with `unit: request`: more are thinned out."""
MAX_X_BYTES = 64 * 2**20
"""Bytes of the features of open decisions, with `missing: zero`: further ones are analysed without."""
MAX_UNIT_BYTES = 96 * 2**20
"""Bytes of units with `unit: user`: from then on fewer new ones are taken. They never exceed 3.5 times that, which fits
into one value of the store.
"""


def most_vectors(experiment: Experiment) -> int:
    """Number of share vectors that are kept; 0, for units, which are analysed whole: as many as there are."""
    return 0 if experiment.unit == "user" else MAX_VECTOR_BYTES // (8 * len(experiment.arms))


def n_features(experiment: Experiment, sums: Accumulators) -> int:
    """Number of features of the model of outcomes, where shares follow them; 0 for none. Units have no one context."""
    modelled = sums.contextual and experiment.unit == "request" and experiment.context
    return n_features_of(experiment.context) if modelled else 0


def contests(experiment: Experiment) -> Contests | None:
    if not experiment.interleaves:
        return None
    stopping = experiment.stopping
    expected = EXPECTED_CONTESTS if stopping.expected_samples is UNSET else stopping.expected_samples
    return Contests(stopping.alpha, float(expected))


def contextual(policy: PolicySpec) -> bool:
    return POLICIES[policy.kind].contextual


def decisions(
    experiment: Experiment, sums: Accumulators, shares: ShareHistory
) -> RewardedDecisions | OpenDecisions | Units:
    if experiment.unit == "user":
        takes_max = np.array([metric.traits.takes_max for metric in experiment.metrics], np.uint8)
        zero = experiment.missing == "zero"
        counted = counts_missing(experiment), parts(experiment)
        return Units(sums, shares, zero, takes_max, MAX_UNIT_BYTES, *counted)
    if experiment.missing == "zero":
        return OpenDecisions(sums, shares, LINGER_MS, GRACE_MS, MAX_X_BYTES, counts_missing(experiment))
    return RewardedDecisions(sums, shares)


def decisions_of(
    experiment: Experiment, sums: Accumulators, shares: ShareHistory, state: State
) -> RewardedDecisions | OpenDecisions | Units:
    """Decisions as `decisions` makes them, with this state."""
    if experiment.unit == "user":
        counted = counts_missing(experiment), parts(experiment)
        return Units.from_state(sums, shares, state, MAX_UNIT_BYTES, *counted)
    if experiment.missing == "zero":
        counts = counts_missing(experiment)
        return OpenDecisions.from_state(sums, shares, state, GRACE_MS, MAX_X_BYTES, counts)
    return RewardedDecisions.from_state(sums, shares, state)


def caps(experiment: Experiment) -> Floats:
    """Caps of the metrics, float64 (M,); infinity for none."""
    return np.array([math.inf if metric.cap is UNSET else metric.cap for metric in experiment.metrics])


def capped(experiment: Experiment) -> bool:
    return any(metric.cap is not UNSET for metric in experiment.metrics)


def histograms(experiment: Experiment) -> Histograms | None:
    """Histograms of the metrics that are of quantiles; None without any."""
    kept = np.array([metric.quantile is not UNSET for metric in experiment.metrics], np.uint8)
    return Histograms(kept, len(experiment.arms)) if kept.any() else None


def counts_missing(experiment: Experiment) -> NDArray[np.uint8]:
    """Mask, uint8 (M,), of the metrics of which a missing reward may count as 0: served ones are of predictions."""
    return np.array([not metric.served for metric in experiment.metrics], np.uint8)


def parts(experiment: Experiment) -> NDArray[np.int64]:
    """Numerator and denominator of each ratio, int64 (M, 2), by index; -1 of other metrics."""
    names = [metric.name for metric in experiment.metrics]
    parts = np.full((len(names), 2), -1, np.int64)
    for index, metric in enumerate(experiment.metrics):
        if metric.is_ratio:
            parts[index] = names.index(str(metric.numerator)), names.index(str(metric.denominator))
    return parts


def first_shares(experiment: Experiment) -> Floats:
    """Shares until some have been logged: those of a fixed split, or even ones."""
    weights = experiment.policy.shares if experiment.policy.kind == "fixed_split" else None
    even = dict.fromkeys(experiment.arm_names, 1.0)
    shares: Floats = np.array([(weights or even).get(name, 0.0) for name in experiment.arm_names], np.float64)
    shares /= shares.sum()
    return shares


def pairs(
    experiment: Experiment,
    sums: Accumulators,
    companions: Accumulators | None = None,
    state: State | None = None,
) -> PairSums | None:
    """Sums of the metrics that have a companion, which follow `sums` from now on; None without such a metric."""
    columns = {
        index: -1 if metric.is_ratio else experiment.covariates.index(metric.covariate)
        for index, metric in enumerate(experiment.metrics)
        if metric.is_ratio or metric.covariate is not UNSET
    }
    if not columns:
        return None
    pairs = PairSums(sums, list(columns), list(columns.values()), companions, state)
    sums.followers = (pairs,)
    return pairs


def dimensions(experiment: Experiment, look_up: Sequence[str]) -> tuple[Dimension, ...]:
    return dimensions_of(experiment.context, look_up) if look_up else experiment.declared


def segmented(dimensions: Sequence[Dimension], sums: Accumulators, notes: Notes) -> SegmentedSums | None:
    """Sums by segment, which follow `sums` from now on; None without a dimension."""
    if not dimensions:
        return None
    segmented = SegmentedSums(dimensions, sums, notes.n_covariates)
    sums.followers = (*sums.followers, segmented.follower)
    return segmented


def beginnings(experiment: Experiment) -> Beginnings:
    """First values of each arm; none under a contextual policy, whose arms get decisions of different kinds."""
    has_bounds = [metric.traits.has_bounds(experiment.unit) for metric in experiment.metrics]
    beginnings = Beginnings(np.array(has_bounds, np.uint8), len(experiment.arms))
    if contextual(experiment.policy):
        beginnings.close()
    return beginnings
