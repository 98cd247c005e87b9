"""Metrics that a policy goes by beside the objective: what is learned of each, and the shares that all come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy import FOLD_SEED
from bandit_serve.experiments.spec import MAX_METRICS, Experiment
from bandit_serve.experiments.tradeoff import traded, tradeoff_of
from bandit_serve.folds.attribution.pending import PendingDecisions, PendingState
from bandit_serve.log._rewards import learned
from bandit_serve.log.events import FIRST, HELD_OUT
from bandit_serve.policies import Thompson
from bandit_serve.policies.mixtures import LearnedMetric, Tradeoff, mixture_shares

Shares = NDArray[np.float64]


class TradedState(Struct, frozen=True, forbid_unknown_fields=True):
    """State of one `_TradedMetric`."""

    metric: Annotated[int, Meta(ge=0, lt=MAX_METRICS)]
    means: dict[str, Any]
    pending: PendingState | None


class _TradedMetric:
    """What is known of one metric's means, in its own values, and the decisions whose windows are open.

    A decision waits where a missing value counts as zero: so `results` count it, too. What the service measures is
    never missed.
    """

    def __init__(self, index: int, experiment: Experiment) -> None:
        self.index = index
        metric, n_arms = experiment.metrics[index], len(experiment.arms)
        self.means = _means(metric, n_arms, experiment.policy.half_life)
        self.pending: PendingDecisions | None = None
        if experiment.missing == "zero" and not metric.served:
            self.pending = PendingDecisions(experiment.attribution.window_ms, n_arms)

    def rewarded(self, rows: NDArray[np.void], now_ms: int) -> bool:
        counted = np.zeros(self.means.n_arms, np.int64)
        arms, values, _, places = learned(rows, self.index, 0, counted)
        if not len(arms):
            return False
        if self.pending is not None:
            self.pending.rewarded(rows if places is None else rows[places], now_ms)
        self.means.update_many(arms, values)
        return True

    def revised(self, rows: NDArray[np.void], now_ms: int) -> bool:
        rows = rows[(rows["metric"] == self.index) & (rows["flags"] & HELD_OUT == 0)]
        if not len(rows):
            return False
        formers, values = rows["former"], rows["value"]
        if self.pending is not None:
            formers, values = self.pending.revised(rows, now_ms)
        left = self.means.left_since(np.where(rows["since_ms"] == FIRST, now_ms, rows["since_ms"]))
        self.means.revise_many(rows["arm"], formers, values, None, left)
        return True

    def close(self, now_ms: int) -> bool:
        closed = None if self.pending is None else self.pending.close(now_ms)
        if closed is None:
            return False
        self.means.update_counts(closed.zeros, 0.0)
        return True

    def known(self, now_ms: int) -> LearnedMetric:
        return LearnedMetric(self.means, None if self.pending is None else self.pending.weights(now_ms))


class TradedMetrics:
    """All metrics that the policy of `experiment` goes by, without its objective."""

    def __init__(self, experiment: Experiment) -> None:
        self._tradeoff = tradeoff_of(experiment, of_utilities=True)
        self._metrics = [_TradedMetric(index, experiment) for index in traded(experiment)[1:]]

    @classmethod
    def of(cls, experiment: Experiment) -> TradedMetrics | None:
        """Metrics of the experiment; None where its policy goes by the objective alone."""
        return cls(experiment) if experiment.trades else None

    def advance(self, now_ms: int) -> None:
        """Lets what was learned fade until `now_ms`, Unix time."""
        for each in self._metrics:
            each.means.advance(now_ms)

    def close(self, now_ms: int) -> bool:
        """Counts the zeros of decisions whose windows have closed; returns whether there were such windows."""
        moved = [each.close(now_ms) for each in self._metrics]
        return any(moved)

    def rewarded(self, rows: NDArray[np.void], now_ms: int) -> bool:
        """Learns from `events.REWARD` rows; returns whether any was of these metrics."""
        moved = [each.rewarded(rows, now_ms) for each in self._metrics]
        return any(moved)

    def revised(self, rows: NDArray[np.void], now_ms: int) -> bool:
        """Revises by `events.REVISION` rows; returns whether any was of these metrics."""
        moved = [each.revised(rows, now_ms) for each in self._metrics]
        return any(moved)

    def exposed(
        self,
        incarnation: int,
        first: int,
        arms: NDArray[np.uint16],
        times_ms: NDArray[np.int64],
        held_out: NDArray[np.bool_] | None,
    ) -> None:
        """Counts logged decisions, as `PendingDecisions.exposed`, without those of the holdout."""
        for each in self._metrics:
            if each.pending is not None:
                each.pending.exposed(incarnation, first, arms, times_ms)
                if held_out is not None:
                    each.pending.take_back(arms[held_out], times_ms[held_out])

    def next_close_ms(self) -> int | None:
        """Time from which a tick closes a decision; None without open decisions."""
        waiting = [each.pending.next_close_ms() for each in self._metrics if each.pending is not None]
        return min((due_ms for due_ms in waiting if due_ms is not None), default=None)

    def adapt(self, experiment: Experiment) -> None:
        """Takes over a changed configuration: more arms, and another half-life."""
        n_arms = len(experiment.arms)
        for each in self._metrics:
            if n_arms == each.means.n_arms and experiment.policy.half_life == each.means.half_life:
                continue
            former, metric = each.means, experiment.metrics[each.index]
            each.means = _means(metric, n_arms, experiment.policy.half_life)
            each.means.take_over(former)
            if each.pending is not None and n_arms > each.pending.n_arms:
                each.pending = each.pending.grown(n_arms)

    def shares(
        self,
        objective: Thompson,
        eligible: NDArray[np.bool_],
        now_ms: int,
        circumstances: Mapping[str, Any],
    ) -> Shares:
        """Shares, float64 (K,), by what `objective` and these metrics have learned until `now_ms`.

        circumstances: as `LiveExperiment.circumstances`.
        """
        return _shares(self._tradeoff, objective, self._known(now_ms), circumstances, eligible)

    def shares_apart(
        self, objective: Thompson, now_ms: int, circumstances: Mapping[str, Any]
    ) -> Callable[[NDArray[np.bool_]], Shares]:
        """Function that does as `shares` with copies of what there is now. `objective` is a copy already."""
        known = [each._replace(policy=_copy(each.policy)) for each in self._known(now_ms)]
        return lambda eligible: _shares(self._tradeoff, objective, known, circumstances, eligible)

    def means(self, now_ms: int) -> tuple[Shares, Shares]:
        """Means of the metrics, and their standard deviations, (P - 1, K) each; NaN where nothing was observed."""
        means, deviations = zip(*(moments_of(each) for each in self._known(now_ms)), strict=True)
        return np.stack(means), np.stack(deviations)

    def _known(self, now_ms: int) -> list[LearnedMetric]:
        return [each.known(now_ms) for each in self._metrics]

    def state(self) -> list[TradedState]:
        return [
            TradedState(
                each.index, each.means.state(), None if each.pending is None else each.pending.state()
            )
            for each in self._metrics
        ]

    @classmethod
    def from_state(cls, experiment: Experiment, state: list[TradedState]) -> TradedMetrics:
        """Metrics that had this state. Raises `ValueError` where it is not of this experiment."""
        made = cls(experiment)
        if [each.metric for each in state] != [each.index for each in made._metrics]:
            raise ValueError("the snapshot has other metrics than the policy goes by")
        n_arms, window_ms = len(experiment.arms), experiment.attribution.window_ms
        for each, stated in zip(made._metrics, state, strict=True):
            means = Thompson.from_state(stated.means)
            alike = (means.n_arms, means.objective, means.low, means.high, means.half_life)
            expected = (n_arms, *(getattr(each.means, name) for name in ("objective", "low", "high")))
            if alike != (*expected, experiment.policy.half_life):
                raise ValueError(f"the snapshot's means are not of metric {each.index}")
            if (stated.pending is None) != (each.pending is None):
                raise ValueError("the snapshot's open decisions are not of this experiment")
            each.means = means
            if stated.pending is not None:
                each.pending = PendingDecisions.from_state(window_ms, n_arms, stated.pending)
        return made


def _means(metric: Metric, n_arms: int, half_life: str | None) -> Thompson:
    bounded = metric.traits.takes_bounds
    return Thompson(
        n_arms,
        objective=metric.kind,
        low=metric.low if bounded else None,
        high=metric.high if bounded else None,
        half_life=half_life,
        seed=FOLD_SEED,
    )


def moments_of(learned: LearnedMetric) -> tuple[Shares, Shares]:
    """Means of a metric by arm, and their standard deviations, (K,) each; NaN where nothing was observed."""
    policy = learned.policy
    means, deviations = policy.moments(np.arange(policy.n_arms), learned.pending, learned.pending_value)
    pending = np.zeros(policy.n_arms) if learned.pending is None else learned.pending
    known = policy.counts + pending > 0.0
    return np.where(known, means, np.nan), np.where(known, deviations, np.nan)


def _copy(policy: Thompson) -> Thompson:
    return Thompson.from_state(policy.state())


def _shares(
    tradeoff: Tradeoff,
    objective: Thompson,
    known: list[LearnedMetric],
    circumstances: Mapping[str, Any],
    eligible: NDArray[np.bool_],
) -> Shares:
    others = dict(circumstances)
    first = LearnedMetric(objective, others.pop("pending", None), others.pop("pending_value", 0.0))
    return mixture_shares(tradeoff, [first, *known], eligible=eligible, **others)
