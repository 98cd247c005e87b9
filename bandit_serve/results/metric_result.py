"""Results on one metric, arm by arm."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from bandit_serve.base.clock import rfc3339
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment, Record
from bandit_serve.metrics import METRIC_KINDS
from bandit_serve.results import betting, decision_aids, ratio, skewness
from bandit_serve.results.companions import Paired
from bandit_serve.results.estimates import Estimates, Sums, fixed_split, moving_shares
from bandit_serve.results.evidence import directed
from bandit_serve.results.finite import finite
from bandit_serve.results.interleaving import Contests
from bandit_serve.results.non_inferiority import Guard, GuardrailResult
from bandit_serve.results.sequence import Floats, Sequence, holm, p_value
from bandit_serve.results.winner import winner_of

if TYPE_CHECKING:
    from bandit_serve.results.fold import ResultsFold, StillOpen

Interval = tuple[float, float]

MIN_EXACT = 2
"""Observations from which there is an exact interval."""
AFTER_EXACT = 0.5
"""The part of alpha at which an asymptotic interval misses that comes after an exact one. With all of it one of the two
missed at some time in 6.1 % of 1,500 runs (Bernoulli .5, alpha .05).
"""


class Preview(Struct, frozen=True):
    """Not final: what is open, and counted nowhere else. `n` decisions (units) whose window has not closed, and the
    `mean` of the rewards that they have had so far, 0 for one without: it is low until the slow ones have come.
    """

    n: int
    mean: float


class AdjustedResult(Struct, frozen=True):
    """One arm on one metric, of the values less `theta` times the deviation of their covariate from its mean (CUPED).

    They have the same mean and vary less, as far as the covariate tells them. Intervals and `p_value` hold as those of
    the values do, at every time.
    """

    mean: float | None
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    p_value: float | None
    theta: float


class MetricResult(Struct, frozen=True):
    """One arm on one metric. `n`, `mean` and `std` are those of the sample that is analysed; `preview` is null where
    nothing is open, or a missing reward is none. All but `n` is null where a value that left the sums took their digits
    along.

    `interval` and `difference_interval` hold at level 1 - alpha each, at every time, not for all arms
    together; `p_value` is adjusted by Holm over the arms that are compared with control. When shares moved,
    the intervals and the difference weight each decision by its logged share, and need not be centred on
    `mean`. `p_value_corrected` is adjusted over the objective and all secondary metrics, too, and there where there are
    such metrics; guardrails are none of them. `guardrail` is there for guardrails, null on control itself.
    `raw_mean`, of a metric with a cap: the mean without it. `adjusted` is there for a metric with a covariate. Of a
    ratio, `mean` is that of the sums, and `std` the root of n times its variance. `since`, of a metric that joined
    later: when; decisions of before are not in it, and `preview` is null.
    """

    n: int
    mean: float | None
    std: float | None
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    lift: float | None
    lift_interval: Interval | None
    p_value: float | None
    probability_best: float | None
    expected_loss: float | None
    preview: Preview | None
    p_value_corrected: float | UnsetType | None = UNSET
    guardrail: GuardrailResult | UnsetType | None = UNSET
    raw_mean: float | UnsetType | None = UNSET
    adjusted: AdjustedResult | UnsetType = UNSET
    since: str | UnsetType = UNSET


def uncompared(result: MetricResult) -> MetricResult:
    """Result without what supposes independent observations."""
    nothing = dict.fromkeys(
        (
            "interval",
            "difference",
            "difference_interval",
            "lift",
            "lift_interval",
            "p_value",
            "probability_best",
            "expected_loss",
        )
    )
    return msgspec.structs.replace(result, **nothing)


class Brief(NamedTuple):
    """Numbers of one arm that results over time are of."""

    n: int
    mean: float | None = None
    interval: Interval | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    p_value: float | None = None


class MetricTable:
    """Results on one metric, arrays (K,). `there`: the arms that were not removed, which alone can be best.

    What takes long, `exact` intervals, `guard` and `aids`, is made when it is asked for.
    """

    def __init__(self, fold: ResultsFold, record: Record, index: int) -> None:
        experiment = record.experiment
        self.experiment = experiment
        self.index = index
        self.metric: Metric = experiment.metrics[index]
        self.control = experiment.control_arm
        self.alpha = experiment.stopping.alpha
        self.mean_limits = _mean_limits(experiment, self.metric)
        self.paired = fold.paired(index)
        self.sums = Sums.of(fold.sums, index)
        since_ms = record.since_ms.get(self.metric.name)
        self.since = UNSET if since_ms is None else rfc3339(since_ms)
        self.raw_total: Floats | None = None
        if self.metric.cap is not UNSET:
            self.mean_limits = self.mean_limits[0], min(self.mean_limits[1], self.metric.cap)
            self.raw_total = fold.sums.raw_total(index)
        self.unguarded = self.sums.unsquared if self.sums.contextual and self.sums.moved else 0
        kind, control, tuned_for = METRIC_KINDS[self.metric.kind], self.control, experiment.stopping.tuned_for
        guarded = self.sums.unfloored == 0 and self.unguarded == 0
        self.lost = self.sums.lost(kind, self.sums.moved)
        if self.paired is not None:
            self.lost = self.lost | self.paired.lost(moving=self.sums.moved)
        self.valid = guarded and not self.lost.any() and fold.contests is None
        self.moving = self.sums.moved and guarded
        self.estimates: Estimates = (
            self.paired.estimates(moving=self.moving)
            if self.paired is not None and self.metric.is_ratio
            else moving_shares(self.sums, kind, control, fold.evidence.peers, tuned_for)
            if self.moving
            else fixed_split(self.sums, kind, control, tuned_for)
        )
        self.present = self.estimates
        self.looks = fold.looks if self.metric.is_mean else None
        if self.looks is None:
            self.evidence = self._evidence(fold)
        else:
            self.estimates = self.looks.estimates(index, self.estimates, experiment.stopping)
            self.evidence = self.looks.evidence(index, experiment.stopping)
        self.p = self._p_values(np.maximum(*self.evidence))
        self.there = np.array([status != "removed" for status in record.arm_statuses.values()])
        self.lifts = self.estimates.lifts(self.alpha)
        part = AFTER_EXACT if fold.begins_exactly(index) else 1.0
        # A part of the least number that there is would be 0.
        self.asymptotic_alpha = max(part * self.alpha, math.ulp(0.0))
        self.corrected: Floats | None = None
        self._fold = fold

    @cached_property
    def exact(self) -> list[Interval | None]:
        """Exact intervals of the arms' means, where there are such."""
        return [self._exact(arm) for arm in range(len(self.there))]

    @cached_property
    def guard(self) -> Guard:
        """Verdicts on the arms, for a guardrail. They hold at any time, also where the objective has looks."""
        harm = self._fold.harm
        evidence = np.zeros(len(self.there)) if harm is None else harm.largest(self.index, self.moving)
        peers = self._fold.evidence.peers
        return Guard(self.metric, self.present, self.valid, evidence, peers, self.alpha)

    @cached_property
    def adjusted(self) -> AdjustedTable | None:
        """Results by the metric's covariate; None without one."""
        if self.paired is None or self.metric.is_ratio:
            return None
        return AdjustedTable(self, self._fold, self.paired)

    @cached_property
    def aids(self) -> tuple[Floats, Floats]:
        """Probabilities of being best and expected losses, (K,) each."""
        sums, metric, there = self.sums, self.metric, self.there
        if self.lost.any() or ((sums.moved or metric.is_ratio) and not self.valid):
            return np.full(len(there), np.nan), np.full(len(there), np.nan)
        if not sums.moved and not metric.is_ratio:
            best = decision_aids.probability_best(sums, metric, there)
            return best, decision_aids.expected_loss(sums, metric, there)
        weighted = self.estimates, sums.n, metric, self.control, there
        best = decision_aids.weighted_probability_best(*weighted)
        return best, decision_aids.weighted_expected_loss(*weighted)

    def _exact(self, arm: int) -> Interval | None:
        """Interval of an arm's few observations, from all of them, where there can be one."""
        values = self._fold.beginning(self.index, arm)
        if not self.valid or values is None or len(values) < MIN_EXACT:
            return None
        return betting.mean_interval(values, *self.mean_limits, self.alpha)

    def _evidence(self, fold: ResultsFold) -> tuple[Floats, Floats]:
        """Logarithms of the largest e-values, (K,): above and below control."""
        so_far = fold.evidence.largest(self.index, self.moving)
        if self.paired is not None and self.metric.is_ratio:
            so_far = fold.pair_evidence.largest(self.paired.index, self.moving)
        now = self._directed()
        return np.maximum(so_far[0], now[0]), np.maximum(so_far[1], now[1])

    def _directed(self) -> tuple[Floats, Floats]:
        """Present logarithms of e-values above and below control, (K,)."""
        return directed(self.estimates, self.alpha)

    def _comparable(self) -> NDArray[np.bool_]:
        """True, bool (K,), for arms whose difference to control has evidence and an interval."""
        return self.estimates.comparable & self.valid

    def proviso(self) -> str | None:
        """Reason why there are no results on the metric, or not on all decisions; None without one."""
        return None

    def _p_values(self, log_e: Floats) -> Floats:
        """Adjusted p-values, (K,); NaN where there is none."""
        return p_values(log_e, self._comparable(), self.control)

    def _unadjusted(self, log_e: Floats) -> Floats:
        return np.where(self._comparable(), p_value(log_e), np.nan)

    def unadjusted(self) -> Floats:
        """p-values of the arms that are compared with control, (K - 1,), adjusted for nothing; NaN for none."""
        raw = self._unadjusted(np.maximum(*self.evidence))
        return np.delete(raw, self.control)

    def correct(self, p: Floats) -> None:
        """Takes p-values, (K - 1,), that are adjusted over all arms and metrics."""
        self.corrected = np.insert(p, self.control, np.nan)

    def standing(self) -> NDArray[np.bool_]:
        """True, bool (K,), for arms whose difference is shown: by the evidence in its direction and by its interval."""
        above, below = self.evidence
        differences = self.estimates.differences
        p = self._p_values(np.where(differences.total > 0, above, below))
        with np.errstate(invalid="ignore"):
            return differences.leaves_out_zero(self.alpha) & (p <= self.alpha)

    def faded(self) -> NDArray[np.bool_]:
        """True, bool (K,), for arms whose difference was shown once, by the p-value, and is not any more."""
        return (self.p <= self.alpha) & ~self.standing()

    def winner(
        self, unharmful: NDArray[np.bool_] | None = None, among: NDArray[np.bool_] | None = None
    ) -> int | None:
        """Index of the winner among the arms that are `unharmful`, bool (K,), or among all.

        `among`, bool (K,), are the arms that are compared, control one of them; all that are `there` unless given.
        """
        among = self.there if among is None else among
        if self._fold.contests is not None:
            return self._preferred(self._fold.contests, unharmful)
        if not self.valid or not self.sampled(among):
            return None
        estimates = self.estimates
        gain = np.where(estimates.compared, estimates.differences.mean, np.nan)
        gain = gain if self.metric.goal == "maximize" else -gain
        may_win = np.ones(len(gain), bool) if unharmful is None else unharmful
        return winner_of(gain, self.standing(), self.control, among, may_win)

    def _preferred(self, contests: Contests, unharmful: NDArray[np.bool_] | None) -> int | None:
        """Index of the arm whose items are preferred, where lists are interleaved."""
        arm = contests.winner() if self.sampled(self.there) else None
        return arm if arm is None or unharmful is None or unharmful[arm] else None

    def sampled(self, among: NDArray[np.bool_]) -> bool:
        """Whether each of these arms, bool (K,), has `min_samples` observations.

        Where lists are interleaved, observations are the requests that preferred one of the two.
        """
        contests, least = self._fold.contests, self.experiment.stopping.min_samples
        return bool((self.sums.n[among].min() if contests is None else contests.decided) >= least)

    @cached_property
    def liftable(self) -> NDArray[np.bool_]:
        """True, bool (K,), for arms with a lift."""
        return self.estimates.liftable(self.lifts, self.lost, self.control, self.mean_limits[0])

    @cached_property
    def has_interval(self) -> NDArray[np.bool_]:
        """True, bool (K,), for arms whose mean has an interval."""
        exact = np.array([interval is not None for interval in self.exact])
        has: NDArray[np.bool_] = self.valid & ((self.estimates.usable & self.estimates.tame) | exact)
        return has

    def brief(self, arm: int) -> Brief:
        """What is known of one arm in short."""
        n, lost = int(self.sums.n[arm]), bool(self.lost[arm])
        mean = finite(self._sample[0][arm]) if n and not lost else None
        if self._fold.contests is not None:
            return Brief(n, mean)
        estimates = self.estimates
        compared = bool(estimates.compared[arm]) and not (lost or self.lost[self.control])
        difference = finite(estimates.differences.mean[arm]) if compared else None
        between = self._mean_interval(arm), difference, self.difference_interval(arm)
        return Brief(n, mean, *between, finite(self.p[arm]))

    def row(self, arm: int, still_open: StillOpen | None) -> MetricResult:
        """Result of one arm; `still_open` as in the fold."""
        result = self._row(arm, still_open)
        return result if self._fold.contests is None else uncompared(result)

    def _row(self, arm: int, still_open: StillOpen | None) -> MetricResult:
        brief, lost = self.brief(arm), bool(self.lost[arm])
        n, variances = brief.n, self._sample[1]
        liftable = bool(self.liftable[arm])
        return MetricResult(
            n=n,
            mean=brief.mean,
            std=finite(math.sqrt(variances[arm])) if n > 1 and not lost else None,
            interval=self._with_mean(arm, brief),
            difference=brief.difference,
            difference_interval=brief.difference_interval,
            lift=finite(self.lifts.value[arm]) if liftable else None,
            lift_interval=self._lift_interval(arm) if liftable and self._comparable()[arm] else None,
            p_value=brief.p_value,
            probability_best=finite(self.aids[0][arm]),
            expected_loss=finite(self.aids[1][arm]),
            preview=None
            if still_open is None or self.metric.is_ratio or self.since
            else self._preview(arm, *still_open),
            p_value_corrected=UNSET if self.corrected is None else finite(self.corrected[arm]),
            guardrail=self._guardrail(arm),
            raw_mean=UNSET if self.raw_total is None else finite(self.raw_total[arm] / n) if n else None,
            adjusted=UNSET if self.adjusted is None else self.adjusted.row(arm),
            since=self.since,
        )

    def _guardrail(self, arm: int) -> GuardrailResult | UnsetType | None:
        if not self.metric.is_guardrail:
            return UNSET
        return None if arm == self.control else self.guard.row(arm)

    @cached_property
    def _sample(self) -> tuple[Floats, Floats]:
        """Mean and variance of the sample by arm, (K,) each; of a ratio NaN where its denominators sum to 0."""
        if self.paired is None or not self.metric.is_ratio:
            return self.sums.mean, self.sums.sample_variance
        return ratio.ratios(self.paired.pair)

    def _with_mean(self, arm: int, brief: Brief) -> Interval | None:
        """Interval of the mean, widened to the mean itself where it is exact.

        An exact one holds for one mean at all times: where values drift, it may lie beside the mean of all of them.
        """
        if brief.interval is None or brief.mean is None or self.exact[arm] is None:
            return brief.interval
        return min(brief.interval[0], brief.mean), max(brief.interval[1], brief.mean)

    def _mean_interval(self, arm: int) -> Interval | None:
        """Interval of the mean: exact while the fold keeps all of the arm's values, asymptotic from then on."""
        if self.exact[arm] is not None:
            return self.exact[arm]
        if not self.has_interval[arm]:
            return None
        mean = self.estimates.arms.mean[arm]
        below, above = (side[arm] for side in self._reach)
        ends = (float(mean - below), float(mean + above))
        return _clipped(ends, *self.mean_limits) if all(map(math.isfinite, ends)) else None

    @cached_property
    def _reach(self) -> tuple[Floats, Floats]:
        return self.estimates.reach(self.asymptotic_alpha)

    @cached_property
    def _half_width(self) -> Floats:
        return self.estimates.differences.half_width(self.alpha)

    def difference_interval(self, arm: int) -> Interval | None:
        """Interval of the arm's difference to control, where there is one."""
        if not self._comparable()[arm]:
            return None
        return _interval(self.estimates.differences.mean[arm], self._half_width[arm])

    def _lift_interval(self, arm: int) -> Interval | None:
        if not self.lifts.bounded[arm]:
            return None
        interval = float(self.lifts.low[arm]), float(self.lifts.high[arm])
        return _clipped(interval, -1.0, math.inf) if self.mean_limits[0] >= 0.0 else interval

    def _preview(self, arm: int, n: NDArray[np.int64], total: Floats) -> Preview | None:
        open_here = int(n[arm])
        return Preview(open_here, float(total[self.index, arm]) / open_here) if open_here else None


class AdjustedTable:
    """Results on one metric by its covariate, arrays (K,)."""

    def __init__(self, table: MetricTable, fold: ResultsFold, paired: Paired) -> None:
        self._table, self._pair = table, paired.pair
        self._adjusted = paired.adjusted(moving=table.moving)
        estimates = self._adjusted.estimates
        so_far, now = (
            fold.pair_evidence.largest(paired.index, table.moving),
            directed(estimates, table.alpha),
        )
        log_e = np.maximum(np.maximum(*so_far), np.maximum(*now))
        self._p = p_values(log_e, estimates.comparable & table.valid, table.control)
        self._arms = self._adjusted.arms(self._pair)

    def row(self, arm: int) -> AdjustedResult:
        table, estimates = self._table, self._adjusted.estimates
        there = bool(self._pair.y.n[arm]) and not table.lost[arm]
        compared = bool(estimates.compared[arm]) and not (table.lost[arm] or table.lost[table.control])
        comparable = table.valid and bool(estimates.comparable[arm])
        return AdjustedResult(
            mean=finite(self._arms.mean[arm]) if there else None,
            interval=self._mean_interval(arm),
            difference=finite(estimates.differences.mean[arm]) if compared else None,
            difference_interval=interval_of(estimates.differences, arm, table.alpha) if comparable else None,
            p_value=finite(self._p[arm]),
            theta=self._adjusted.theta,
        )

    def _mean_interval(self, arm: int) -> Interval | None:
        table, estimates = self._table, self._adjusted.estimates
        if not (table.valid and estimates.usable[arm] and estimates.tame[arm]):
            return None
        below, above = (side[arm] for side in skewness.reach(self._arms, estimates.skewness, table.alpha))
        mean = self._arms.mean[arm]
        ends = (float(mean - below), float(mean + above))
        return _clipped(ends, *table.mean_limits) if all(map(math.isfinite, ends)) else None


def p_values(log_e: Floats, known: NDArray[np.bool_], control: int) -> Floats:
    """P-values by Holm over the arms that are compared with control, (K,); NaN where nothing is `known`."""
    raw = np.where(known, p_value(log_e), np.nan)
    others = np.arange(len(raw)) != control
    adjusted = np.full(len(raw), np.nan)
    adjusted[others] = holm(raw[others])
    return adjusted


def interval_of(sequence: Sequence, arm: int, alpha: float) -> Interval | None:
    """Interval of one mean of a sequence; None where it has no ends."""
    return _interval(sequence.mean[arm], sequence.half_width(alpha)[arm])


def _interval(mean: float, half: float) -> Interval | None:
    return (float(mean - half), float(mean + half)) if math.isfinite(mean) and math.isfinite(half) else None


def _mean_limits(experiment: Experiment, metric: Metric) -> Interval:
    """Ends of the range in which the metric's mean lies; a ratio of numbers that are never negative is none either."""
    parts = [each for each in experiment.metrics if each.name in (metric.numerator, metric.denominator)]
    limits = [each.traits.mean_limits(experiment.unit, experiment.missing) for each in parts]
    if metric.is_ratio and all(low >= 0.0 for low, _ in limits):
        return 0.0, math.inf
    return metric.traits.mean_limits(experiment.unit, experiment.missing)


def _clipped(interval: Interval, low: float, high: float) -> Interval:
    """Interval without its part below `low` and above `high`."""
    return max(low, min(interval[0], high)), min(high, max(interval[1], low))
