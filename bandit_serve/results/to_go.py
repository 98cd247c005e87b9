"""Observations and days that an experiment still takes until its objective is decided.

In horizon mode they are those until its end. Otherwise they are those until the evidence for the difference seen
reaches its boundary: the sum of the scores moves on by the difference with each observation, and on average the
boundary is met where that line meets it (Wald's identity).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import numpy as np
from msgspec import Struct

from bandit_serve.experiments.spec import Record
from bandit_serve.experiments.stopping import MAX_EXPECTED
from bandit_serve.results.fold import DAY_MS, ResultsFold
from bandit_serve.results.sequence import Sequence
from bandit_serve.results.tables import table_of

HALVINGS = 60
PARTS = [each.name for each in fields(Sequence)]
MIN_EFFECT = 0.1
"""Standard errors that a difference has to be apart from 0 before it says how long it will take."""


class ToGo(Struct, frozen=True):
    """Observations of all arms until the objective is decided, and days at the traffic seen; null without any."""

    samples: int
    days: float | None


def to_go(fold: ResultsFold, record: Record, effect: float | None = None) -> ToGo | None:
    """What is still to go until an arm differs from control on the objective, if arms go on to differ as they do.

    effect: a difference to suppose of an arm in place of the one that is seen. None where that can not be said: nothing
    compared yet, no difference that is told from 0 at all, or more than `MAX_EXPECTED` observations; 0 when it is
    decided.
    """
    experiment = record.experiment
    index = experiment.metrics.index(experiment.objective)
    analysed = int(fold.sums.counts()[index])
    table = table_of(fold, record, index)
    if table.winner() is not None:
        return ToGo(0, 0.0)
    if experiment.stopping.horizon:
        return _of(fold, record, max(experiment.stopping.tuned_for - analysed, 0))
    comparisons = max(int(table.there.sum()) - 1, 1)
    least = min(
        (
            growth(table.estimates.differences, int(arm), table.alpha, comparisons, effect)
            for arm in np.flatnonzero(table.estimates.comparable & table.valid & table.there)
        ),
        default=math.inf,
    )
    least = max(least, experiment.stopping.min_samples / max(int(table.sums.n[table.there].min()), 1))
    samples = math.ceil(analysed * (least - 1.0)) if math.isfinite(least) else MAX_EXPECTED + 1
    return _of(fold, record, samples) if samples <= MAX_EXPECTED else None


def growth(
    differences: Sequence, arm: int, alpha: float, comparisons: int, effect: float | None = None
) -> float:
    """Multiple of the observations so far at which the evidence for an arm's difference is enough, 1 or more.

    Infinity where that is none to speak of. effect: as in `to_go`.
    """
    one = Sequence(*(np.asarray(getattr(differences, part)[arm]) for part in PARTS))
    if effect is None and abs(float(one.mean)) < MIN_EFFECT * math.sqrt(float(one.variance_of_mean)):
        return math.inf
    slope = float(one.mean) if effect is None else math.copysign(effect, float(one.mean))

    def evidence(times: float) -> float:
        total = one.total + (times - 1.0) * one.observations * slope
        later = Sequence(times * one.observations, total, times * one.variance, one.tightest_at)
        return float(later.log_e_value(alpha))

    return growth_until(evidence, math.log(comparisons / alpha))


def growth_until(evidence: Callable[[float], float], enough: float) -> float:
    """Least multiple, 1 or more, at which the growing `evidence` is `enough`; infinity above `MAX_EXPECTED`."""
    low, high = 1.0, 2.0
    if evidence(low) >= enough:
        return 1.0
    while evidence(high) < enough:
        low, high = high, 2.0 * high
        if high > MAX_EXPECTED:
            return math.inf
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if evidence(middle) < enough else (low, middle)
    return high


def _of(fold: ResultsFold, record: Record, samples: int) -> ToGo:
    """Days in which so many observations come, at the traffic so far, and are analysed once their window has closed."""
    experiment, a_day = record.experiment, fold.a_day
    if samples == 0:
        return ToGo(0, 0.0)
    if a_day is None:
        return ToGo(samples, None)
    window = experiment.attribution.window_ms / DAY_MS if experiment.missing == "zero" else 0.0
    return ToGo(samples, max(samples - fold.pending, 0) / a_day + window)
