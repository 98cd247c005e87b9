"""Largest e-values so far. From them p-values are valid at every time, not only at the last.

The fold looks after an entry that brought a metric's analysed count up by `GROWTH`. Looking at some times
only is valid, as the largest over some is at most the largest over all; a report adds the present.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bandit_serve.experiments.spec import Experiment
from bandit_serve.metrics import METRIC_KINDS
from bandit_serve.results import sample_ratio
from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._histograms import Histograms
from bandit_serve.results._pairs import PairSums
from bandit_serve.results.companions import Paired
from bandit_serve.results.estimates import Estimates, Sums, fixed_split, moving_shares
from bandit_serve.results.harm_evidence import HarmEvidence, log_e_of_harm
from bandit_serve.results.quantiles import Quantiles
from bandit_serve.results.sequence import Floats

GROWTH = 0.01


def directed(estimates: Estimates, alpha: float) -> tuple[Floats, Floats]:
    """Present logarithms of e-values above and below control, (K,); 0 where there are none."""
    differences = estimates.differences
    log_e = np.where(estimates.comparable, differences.log_e_value(alpha), 0.0)
    return np.where(differences.total > 0, log_e, 0.0), np.where(differences.total < 0, log_e, 0.0)


@dataclass
class Evidence:
    """Logarithms of the largest e-values so far, 0 or more.

    fixed_above, moving_above: float64 (M, K), by either method, of the times at which an arm was ahead of control.
    fixed_below, moving_below: float64 (M, K), of the times at which it was behind.
    ratio_fixed, ratio_moving: float64 (1,), against the logged shares of the objective.
    next_look: int64 (M,), the number of analysed observations at which the fold looks again.
    peers: int64 (K,), among how many arms each arm came, itself included. That tunes its sequences for good: tuned
        anew with each arm that comes, the largest over time would be that of several sequences.

    Each is an e-value against no difference. While the arm is ahead, it is at most the e-value of the half-normal
    mixture against the arm not being better. So the larger of the two directions is evidence against no difference,
    and each of them is evidence in its own direction.

    `fixed_…` and `ratio_fixed` stay where they are once the shares have moved.
    """

    FORMER: ClassVar = ("fixed", "moving")
    """Columns of former builds: without a direction, and partly of variances that were too small. Not taken over."""

    fixed_above: Floats
    fixed_below: Floats
    moving_above: Floats
    moving_below: Floats
    ratio_fixed: Floats
    ratio_moving: Floats
    next_look: NDArray[np.int64]
    peers: NDArray[np.int64]

    @classmethod
    def none(cls, n_metrics: int, n_arms: int) -> Evidence:
        def zeros() -> Floats:
            return np.zeros((n_metrics, n_arms))

        one = np.ones(n_metrics, np.int64)
        peers = np.full(n_arms, n_arms, np.int64)
        return cls(zeros(), zeros(), zeros(), zeros(), np.zeros(1), np.zeros(1), one, peers)

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]]) -> Evidence:
        columns = {name: column for name, column in state.items() if name not in cls.FORMER}
        if "fixed" in state:
            n_metrics, n_arms = state["fixed"].shape
            none = cls.none(n_metrics, n_arms)
            columns = vars(none) | columns
        return cls(**columns)

    def grow(self, n_arms: int, looked: bool) -> None:
        """Makes room for arms that have come; `looked` says whether anything has been analysed before."""
        added = n_arms - len(self.peers)
        for name in ("fixed_above", "fixed_below", "moving_above", "moving_below"):
            setattr(self, name, np.pad(getattr(self, name), ((0, 0), (0, added))))
        new_peers = np.full(added, n_arms, np.int64)
        self.peers = np.concatenate([self.peers, new_peers]) if looked else np.full(n_arms, n_arms, np.int64)

    def largest(self, metric: int, moving: bool) -> tuple[Floats, Floats]:
        """Largest log e-values of a metric by one method, (K,) each: above and below control."""
        if moving:
            return self.moving_above[metric], self.moving_below[metric]
        return self.fixed_above[metric], self.fixed_below[metric]

    def look(self, sums: Accumulators, experiment: Experiment, harm: HarmEvidence | None = None) -> bool:
        """Looks at the metrics that have grown enough since the last look, and returns whether there are any.

        `harm` is kept of guardrails.
        """
        (due,) = (sums.counts() >= self.next_look).nonzero()
        for metric in due:
            p, of = experiment.metrics[metric].quantile, Sums.of(sums, int(metric))
            if p is UNSET or sums.histograms is None:
                self.look_at(int(metric), of, experiment, harm)
            else:
                self._look_at_quantile(int(metric), of, sums.histograms, p, experiment)
        return len(due) > 0

    def look_at(
        self, metric: int, sums: Sums, experiment: Experiment, harm: HarmEvidence | None = None
    ) -> None:
        about = experiment.metrics[metric]
        kind, control = METRIC_KINDS[about.kind], experiment.control_arm
        alpha, tuned_for = experiment.stopping.alpha, experiment.stopping.tuned_for
        found: dict[bool, Estimates] = {}
        if not sums.lost(kind, moving=True).any():
            found[True] = moving_shares(sums, kind, control, self.peers, tuned_for)
        if not sums.moved and not sums.lost(kind, moving=False).any():
            found[False] = fixed_split(sums, kind, control, tuned_for)
        for moving, estimates in found.items():
            self._note(metric, moving, directed(estimates, alpha))
            if harm is not None and about.is_guardrail and not about.is_ratio:
                harm.note(metric, moving, log_e_of_harm(estimates, about, alpha))
        if about is experiment.objective and sample_ratio.sufficient(sums.n, sums.balance):
            self._look_at_ratio(sums)
        self._look_later(metric, sums)

    def _look_at_quantile(
        self, metric: int, sums: Sums, histograms: Histograms, p: float, experiment: Experiment
    ) -> None:
        """Looks at a quantile, whose evidence is the same however shares move; there is none where they follow
        contexts.
        """
        stopping = experiment.stopping
        if not sums.contextual:
            quantiles = Quantiles.of(
                histograms, metric, p, experiment.control_arm, stopping.alpha, stopping.tuned_for
            )
            for moving in (True, False):
                self._note(metric, moving, quantiles.directed())
        self._look_later(metric, sums)

    def _look_later(self, metric: int, sums: Sums) -> None:
        self.next_look[metric] = sums.analysed + max(1, int(sums.analysed * GROWTH))

    def look_at_pairs(
        self, sums: Accumulators, pairs: PairSums, experiment: Experiment, harm: HarmEvidence | None = None
    ) -> None:
        """Looks at the pairs whose metrics have grown enough; here P pairs are in place of M metrics.

        `harm` is kept of guardrails that are ratios.
        """
        alpha = experiment.stopping.alpha
        counts = sums.counts()[pairs.metrics]
        for index in np.flatnonzero(counts >= self.next_look):
            paired = Paired(sums, pairs, int(index), experiment, self.peers)
            metric = int(pairs.metrics[index])
            about, found = experiment.metrics[metric], dict[bool, Estimates]()
            if not paired.lost(moving=True).any():
                found[True] = paired.estimates(moving=True)
            if not paired.pair.y.moved and not paired.lost(moving=False).any():
                found[False] = paired.estimates(moving=False)
            for moving, estimates in found.items():
                self._note(int(index), moving, directed(estimates, alpha))
                if harm is not None and about.is_guardrail and about.is_ratio:
                    harm.note(metric, moving, log_e_of_harm(estimates, about, alpha))
            self.next_look[index] = counts[index] + max(1, int(counts[index] * GROWTH))

    def _note(self, metric: int, moving: bool, log_e: tuple[Floats, Floats]) -> None:
        for so_far, now in zip(self.largest(metric, moving), log_e, strict=True):
            np.maximum(so_far, now, out=so_far)

    def _look_at_ratio(self, sums: Sums) -> None:
        if not sums.moved:
            log_e = sample_ratio.log_e_constant(sums.n, sums.split)
            self.ratio_fixed[0] = max(self.ratio_fixed[0], log_e)
        log_e = sample_ratio.log_e_moving(sums.balance, sums.spread, self.peers)
        self.ratio_moving[0] = max(self.ratio_moving[0], log_e)
